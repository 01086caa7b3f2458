"""The generator that is kept: an average of G's weights over time, with batch statistics of its own."""

import contextlib
import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from pixmend.models import DCGANSettings, Encoder, Generator, sample_latents
from pixmend.rng import generator_for
from pixmend.training.inversion import MaskedBatch, draw


@torch.no_grad()
def update_ema(average: nn.Module, module: nn.Module, *, decay: float, step: int) -> None:
    """Move ``average``'s weights towards ``module``'s: a <- d a + (1 - d) w, buffers copied.

    d grows with the step as (1 + step) / (10 + step) up to ``decay``, so that the random start is soon forgotten; 0 copies.
    """
    decay = min(decay, (1 + step) / (10 + step)) if decay else 0.0
    held = [weight.detach() for weight in average.parameters()]
    torch._foreach_lerp_(held, [weight.detach() for weight in module.parameters()], 1 - decay)
    for kept, buffer in zip(average.buffers(), module.buffers(), strict=True):
        kept.copy_(buffer)


@torch.no_grad()
def recompute_batchnorm(
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
    frozen = copy.deepcopy(generator)
    device = next(frozen.parameters()).device
    with _measured(frozen):
        for batch in range(batches):
            z = sample_latents(settings, batch_size, generator_for(seed, "statistics", batch))
            frozen(z.to(device))
    return frozen


@torch.no_grad()
def recompute_batchnorm_pair(
    generator: Generator, encoder: Encoder, batches: Iterable[tuple[MaskedBatch, Tensor]]
) -> tuple[Generator, Encoder]:
    """Return copies of G and E in evaluation mode whose statistics are those over ``batches`` of completions and prior samples."""
    frozen, frozen_encoder = copy.deepcopy(generator), copy.deepcopy(encoder)
    with _measured(frozen, frozen_encoder):
        for holed, z in batches:
            draw(frozen, frozen_encoder, holed, z)
    return frozen, frozen_encoder


@contextlib.contextmanager
def _measured(*networks: nn.Module) -> Iterator[None]:
    """Measure batch statistics anew as means over all passes made inside; then freeze the networks."""
    norms = [
        part
        for net in networks
        for part in net.train().modules()
        if isinstance(part, nn.BatchNorm2d)
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    yield
    for norm in norms:
        norm.momentum = 0.1
    for network in networks:
        network.eval().requires_grad_(False)
