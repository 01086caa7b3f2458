"""The exported networks: moving averages of the weights, with their own batch norm statistics."""

import copy

import torch
from torch import nn

from pixmend.models import DCGANSettings, Generator, sample_latents
from pixmend.rng import generator_for


@torch.no_grad()
def update_ema(ema: nn.Module, module: nn.Module, *, decay: float, step: int) -> None:
    """Update ``ema``'s weights, a <- d a + (1 - d) w, and copy the buffers.

    d grows as (1 + step) / (10 + step) up to ``decay``, to forget the random start; 0 copies.
    """
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    for average, weight in zip(ema.parameters(), module.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)
    for own, buffer in zip(ema.buffers(), module.buffers(), strict=True):
        own.copy_(buffer)


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
