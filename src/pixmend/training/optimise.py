"""Adam and AdamW: their state, its learning rates, updates that must be finite, and their average."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.training.settings import Schedule, TrainSettings


def make_optimiser(name: str, network: nn.Module, settings: TrainSettings) -> Adam:
    """Return Adam (AdamW for the inpainter) over the network of that name, at its full learning rate."""
    rate, weights = _full_rate(name, settings), network.parameters()
    if name == "inpainter":
        # Which is Adam with another law of weight decay.
        optimiser: Adam = AdamW(weights, rate, (0.9, 0.99), weight_decay=1e-3, fused=True)
    else:
        betas = (0.0, 0.99) if name == "hole_discriminator" else (settings.beta1, settings.beta2)
        optimiser = Adam(weights, rate, betas, fused=True)
    for weight in network.parameters():
        # Made here, not at the first update, which may be skipped: a checkpoint holds all of it.
        optimiser.state[weight] = {
            "step": torch.zeros((), device=weight.device),
            "exp_avg": torch.zeros_like(weight, memory_format=torch.preserve_format),
            "exp_avg_sq": torch.zeros_like(weight, memory_format=torch.preserve_format),
        }
    return optimiser


@torch.no_grad()
def update_if_finite(loss: Tensor, *optimisers: Adam, group: Group = SINGLE_PROCESS) -> Tensor:
    """Step by the group's mean gradient if all of it and the loss [B] are finite; return the loss or NaN."""
    parameters = [params for each in optimisers for params in each.param_groups]
    weights = [weight for params in parameters for weight in params["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    total = loss.sum()
    # One exchange: a non-finite value of one process reaches all, so that all decide alike.
    group.all_reduce_mean([*gradients, total])
    if not torch.isfinite(torch.nn.utils.get_total_norm(gradients) + total):
        return torch.full_like(loss, torch.nan)
    for optimiser in optimisers:
        optimiser.step()
    return loss


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


def set_learning_rates(
    optimisers: Mapping[str, Adam], settings: TrainSettings, step: int, steps: int
) -> None:
    """Set the rates of optimisers, by their networks' names, at step number ``step``."""
    factor = lr_factor(step, steps, schedule=settings.lr_schedule, warmup=settings.warmup)
    for name, optimiser in optimisers.items():
        for parameters in optimiser.param_groups:
            parameters["lr"] = _full_rate(name, settings) * factor


def lr_factor(step: int, steps: int, *, schedule: Schedule, warmup: float) -> float:
    """Return the factor of the learning rates at step number ``step`` of ``steps``, from 0.

    It rises linearly over the first ``warmup`` of the steps; then it stays 1, or falls to 0 at step
    ``steps``, linearly or as half a cosine (Loshchilov & Hutter 2017, equation 5, no restarts).
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / (steps - rising)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1.0


def _full_rate(name: str, settings: TrainSettings) -> float:
    if name == "inpainter":
        return settings.inpainter_learning_rate
    if name == "hole_discriminator":
        return settings.inpainter_learning_rate / 4
    own = settings.discriminator_learning_rate if name == "discriminator" else None
    return own or settings.learning_rate
