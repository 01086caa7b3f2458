"""From the state to what people use: the model file, and samples at fixed latents."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pixmend.images import Pixels, grid, open_image, to_pixels, write_animation
from pixmend.models import DCGAN, DCGANSettings, Generator, sample_latents
from pixmend.records import Records
from pixmend.rng import generator_for
from pixmend.storage import write_bytes
from pixmend.training.data import BatchLoader
from pixmend.training.run_directory import RunDirectory
from pixmend.training.settings import TrainSettings
from pixmend.training.spectral import plain_discriminator
from pixmend.training.split import Split
from pixmend.training.train_state import TrainState

_MAX_FRAMES = 120  # of the animation


def export_model(
    state: TrainState, settings: TrainSettings, records: Records, split: Split, loader: BatchLoader
) -> DCGAN:
    """Return the model of a state: averaged weights with batch norm statistics of their own."""
    generator = recompute_batchnorm(state.ema, settings.networks(), seed=settings.seed)
    inpainter = copy.deepcopy(state.ema_inpainter)
    if inpainter is not None:
        inpainter.eval()
    card: dict[str, Any] = {
        "steps": state.step,
        "images_seen": state.images,
        "training_images": len(split.training),
        "held_out_images": len(split.held_out),
        "data_digest": records.digest,
        "classes": len(records.manifest.classes),
        "fit": records.manifest.settings.fit,
        "background": records.manifest.settings.background,
        "training": settings.model_dump(mode="json", exclude_none=True),
    }
    networks = settings.networks()
    discriminator = plain_discriminator(state.discriminator, networks)
    return DCGAN(networks, generator, discriminator, card, inpainter, loader.retrieval)


@torch.no_grad()
def recompute_batchnorm(
    generator: Generator,
    settings: DCGANSettings,
    *,
    seed: int,
    batches: int = 32,
    batch_size: int = 128,
) -> Generator:
    """Return a copy in evaluation mode, with batch norm statistics of its own over the prior."""
    generator = copy.deepcopy(generator).train()
    device = next(generator.parameters()).device
    # The running averages of training belong to weights that have moved since, and to the live G.
    norms = [module for module in generator.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    for batch in range(batches):
        latents = sample_latents(settings, batch_size, generator_for(seed, "statistics", batch))
        generator(latents.to(device))
    for norm in norms:
        norm.momentum = 0.1
    return generator.eval().requires_grad_(False)


@torch.no_grad()
def sample_grid(model: DCGAN, settings: TrainSettings) -> Pixels:
    """Return samples at the run's fixed latents, uint8 [H, W, 3]."""
    generator = generator_for(settings.seed, "grid")
    latents = sample_latents(model.settings, settings.grid_images, generator)
    device = next(model.generator.parameters()).device
    return grid(to_pixels(model.generator(latents.to(device))), min_cell=48)


def write_frame(png: bytes, frame: Path, run: RunDirectory) -> None:
    """Write a sample grid, and the animation of all grids so far."""
    write_bytes(frame, png)
    frames = sorted(run.samples.glob("step-*.png"))
    stride = -(-len(frames) // _MAX_FRAMES)
    # Counted from the end, so that the animation ends with the newest grid.
    paths = frames[::-1][::stride][::-1]
    write_animation([open_image(path).pixels for path in paths], run.animation)
