"""What all tests share: one thread, so that they run beside each other, and tiny untrained models."""

import pytest
import torch

from pixmend.models import DCGAN, DCGANSettings, Discriminator, Generator, initialise
from pixmend.randomness import generator_for


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def untrained():
    """Return a maker of tiny models whose draws differ from pixel to pixel, as an untrained net's hardly do."""

    def make(channels="L", *, size=16, fit="crop"):
        settings = DCGANSettings(
            size=size, channels=channels, filters=8, latent_dim=6, latent_prior="uniform"
        )
        generator, discriminator = Generator(settings), Discriminator(settings)
        initialise(generator, generator_for(0, "generator"))
        initialise(discriminator, generator_for(0, "discriminator"))
        with torch.no_grad():
            generator.to_image.weight.mul_(20)
        for network in (generator, discriminator):
            network.eval().requires_grad_(False)
        return DCGAN(settings, generator, discriminator, {"fit": fit, "background": "white"})

    return make
