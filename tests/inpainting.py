"""Untrained models with an inpainter whose answers differ."""

from dataclasses import replace

import numpy as np
import torch

from pixmend.models import DCGAN, Inpainter, Retrieval, initialise_inpainter
from pixmend.models.settings import DCGANSettings
from pixmend.rng import generator_for


def with_inpainter(model, *, retrieval_images=6, filters=8):
    """Return a model with an inpainter that weighs its experts by its maps, and so by z."""
    settings = DCGANSettings(
        **model.settings.model_dump(exclude={"inpainter_filters", "retrieval_images"}),
        inpainter_filters=filters,
        retrieval_images=retrieval_images,
    )
    inpainter = Inpainter(settings)
    generator = generator_for(1, "inpainter")
    initialise_inpainter(inpainter, generator)
    with torch.no_grad():
        for way_up in (inpainter.estimator, inpainter.drawer):
            way_up.head.weight.normal_(0, 0.3, generator=generator)
    inpainter.eval().requires_grad_(False)
    size, channels = settings.size, model.generator.to_image.out_channels
    shape = (retrieval_images, channels, size, size)
    pixels = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    retrieval = Retrieval(torch.from_numpy(pixels)) if retrieval_images else None
    return replace(model, settings=settings, inpainter=inpainter, retrieval=retrieval)


def fresh_model(*, size=16, channels="RGB", **options):
    """Return a fresh model with an inpainter."""
    from pixmend.models import Discriminator, Generator, initialise

    settings = DCGANSettings(size=size, channels=channels, filters=8, latent_dim=6)
    networks = Generator(settings), Discriminator(settings)
    for network in networks:
        initialise(network, generator_for(0, type(network).__name__))
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                part.weight.data.mul_(10)  # as large as trained ones
        network.eval().requires_grad_(False)
    return with_inpainter(DCGAN(settings, *networks), **options)
