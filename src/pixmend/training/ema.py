"""The exported networks: moving averages of the weights, with their own batch norm statistics."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pixmend.models import DCGANSettings, Encoder, Generator, sample_latents
from pixmend.rng import generator_for
from pixmend.training.masking import MaskedBatch, generate


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


def recompute_batchnorm(
    generator: Generator,
    settings: DCGANSettings,
    *,
    seed: int,
    batches: int = 32,
    batch_size: int = 128,
) -> Generator:
    """Return a copy in evaluation mode, with batch norm statistics over the prior.

    The running averages of training belong to weights that have moved since, and to the live G.
    """
    device = next(generator.parameters()).device
    latents = (
        sample_latents(settings, batch_size, generator_for(seed, "statistics", batch)).to(device)
        for batch in range(batches)
    )
    return _recompute(generator, None, ((None, z) for z in latents))[0]


def recompute_batchnorm_pair(
    generator: Generator, encoder: Encoder, batches: Iterable[tuple[MaskedBatch, Tensor]]
) -> tuple[Generator, Encoder]:
    """Return copies of G and E in evaluation mode, with statistics over ``batches``."""
    networks = _recompute(generator, encoder, batches)
    assert networks[1] is not None
    return networks[0], networks[1]


@torch.no_grad()
def _recompute(
    generator: Generator,
    encoder: Encoder | None,
    batches: Iterable[tuple[MaskedBatch | None, Tensor]],
) -> tuple[Generator, Encoder | None]:
    generator, encoder = copy.deepcopy(generator), copy.deepcopy(encoder)
    networks: list[nn.Module] = [generator] if encoder is None else [generator, encoder]
    modules = [module for network in networks for module in network.train().modules()]
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    for masked, z in batches:
        generate(generator, encoder, masked, z)
    for norm in norms:
        norm.momentum = 0.1
    for network in networks:
        network.eval().requires_grad_(False)
    return generator, encoder
