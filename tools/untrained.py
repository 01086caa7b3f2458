"""A tiny untrained model for tests and proofs."""

from typing import Literal

import torch

from pixmend.models import DCGAN, DCGANSettings, Discriminator, Generator, initialise
from pixmend.rng import generator_for


def untrained(
    channels: Literal["L", "RGB", "RGBA"] = "L",
    *,
    size: int = 16,
    fit: str = "crop",
    latent_dim: int = 6,
    latent_prior: Literal["normal", "uniform"] = "normal",
) -> DCGAN:
    """Return a tiny model whose images have contrast, unlike those of a freshly initialised G."""
    settings = DCGANSettings(
        size=size,
        channels=channels,
        filters=8,
        latent_dim=latent_dim,
        latent_prior=latent_prior,
    )
    generator, discriminator = Generator(settings), Discriminator(settings)
    initialise(generator, generator_for(0, "generator"))
    initialise(discriminator, generator_for(0, "discriminator"))
    with torch.no_grad():
        generator.to_image.weight.mul_(20)
    for network in (generator, discriminator):
        network.eval().requires_grad_(False)
    return DCGAN(settings, generator, discriminator, {"fit": fit, "background": "white"})
