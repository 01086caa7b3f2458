"""The generator that is kept: an average of G's weights over time, with batch statistics of its own."""

import copy

import torch
from torch import nn

from pixmend.models import DCGANSettings, Generator, sample_latents
from pixmend.randomness import generator_for

__all__ = ["freeze_statistics", "update_average"]


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, *, decay: float, step: int) -> None:
    """Move ``average``'s weights towards ``module``'s: a <- d a + (1 - d) w, buffers copied.

    d grows with the step as (1 + step) / (10 + step) up to ``decay``, so that the random start is soon forgotten; 0 copies.
    """
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    held = [weight.detach() for weight in average.parameters()]
    torch._foreach_lerp_(held, [weight.detach() for weight in module.parameters()], 1 - decay)
    for kept, buffer in zip(average.buffers(), module.buffers(), strict=True):
        kept.copy_(buffer)


@torch.no_grad()
def freeze_statistics(
    generator: Generator,
    settings: DCGANSettings,
    *,
    seed: int,
    batches: int = 32,
    batch_size: int = 128,
) -> Generator:
    """Return a copy in evaluation mode whose batch-norm statistics are those of its own weights over the prior.

    The running averages that training leaves belong to weights that moved meanwhile (and to the live G, not to the average);
    here they are measured anew as plain means over ``batches`` batches of fixed latents.
    """
    frozen = copy.deepcopy(generator).train()
    norms = [part for part in frozen.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    device = next(frozen.parameters()).device
    for batch in range(batches):
        frozen(
            sample_latents(settings, batch_size, generator_for(seed, "statistics", batch)).to(
                device
            )
        )
    for norm in norms:
        norm.momentum = 0.1
    return frozen.eval().requires_grad_(False)
