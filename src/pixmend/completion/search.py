"""The search over z: solvers of one signature, each an iterator of `SearchState`.

    solver(objective, z, *, steps, ...) -> SearchState at step 0, 1, ..., steps

The progress bar, the snapshots and the film are consumers of the same iterator; a solver never prints, draws or saves.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pixmend.completion.objective import Losses

__all__ = ["SearchState", "adam", "nesterov"]

Function = Callable[[Tensor], Losses]


@dataclass(frozen=True)
class SearchState:
    """A search after `step` updates.

    Attributes
    ----------
    z, losses
        The iterate [B, latent_dim] and the objective there, each [B].
    best_z, best
        Of each image, the iterate of the least total so far, and the losses there.
    """

    step: int
    z: Tensor
    losses: Losses
    best_z: Tensor
    best: Losses


def adam(
    objective: Function,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float = 0.01,
    clip: float = math.inf,
    warm_up: float = 0.0,
    cosine: bool = False,
) -> Iterator[SearchState]:
    """Search by Adam (Kingma and Ba 2015, Algorithm 1; beta 0.9, 0.999), |z_i| clipped to ``clip``.

    Parameters
    ----------
    z
        The starts, [B, latent_dim].
    warm_up
        Share of the steps over which the rate grows linearly from 0.
    cosine
        Let the rate fall to 0 over the rest by half a cosine.
    """
    first, second = torch.zeros_like(z), torch.zeros_like(z)

    def update(at: Tensor, gradient: Tensor, step: int) -> Tensor:
        rate = learning_rate * _schedule(step / steps, warm_up, cosine=cosine)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        return (at - rate * mean / (square.sqrt() + 1e-8)).clamp(-clip, clip)

    return _descend(objective, z, update, steps)


def nesterov(
    objective: Function,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    clip: float = math.inf,
) -> Iterator[SearchState]:
    """Search by Nesterov's accelerated gradient, |z_i| clipped to ``clip`` (the seed system's solver).

    v <- m v - r g;  z <- z - m v_before + (1 + m) v  (Bengio et al. 2013, equation 7).
    """
    velocity = torch.zeros_like(z)

    def update(at: Tensor, gradient: Tensor, step: int) -> Tensor:
        del step
        before = velocity.clone()
        velocity.mul_(momentum).sub_(gradient, alpha=learning_rate)
        return (at - momentum * before + (1 + momentum) * velocity).clamp(-clip, clip)

    return _descend(objective, z, update, steps)


def _schedule(share: float, warm_up: float, *, cosine: bool) -> float:
    if share < warm_up:
        return share / warm_up
    if not cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (share - warm_up) / (1 - warm_up)))


def _descend(
    objective: Function, z: Tensor, update: Callable[[Tensor, Tensor, int], Tensor], steps: int
) -> Iterator[SearchState]:
    """Evaluate, yield, update, `steps` times, and keep the best iterate of each image."""
    best_z, best = z, None
    for step in range(steps + 1):
        at = z.detach().requires_grad_(step < steps)
        with torch.set_grad_enabled(step < steps):
            losses = objective(at)
        gradient = torch.autograd.grad(losses.total.sum(), at)[0] if step < steps else None
        losses = _detach(losses)
        if best is None:
            best = losses
        else:
            better = losses.total < best.total
            best_z = torch.where(better[:, None], z, best_z)
            best = _where(better, losses, best)
        yield SearchState(step, z, losses, best_z, best)
        if gradient is not None:
            # A gradient that overflowed must not spoil the iterate for good.
            z = update(z, torch.nan_to_num(gradient), step + 1)


def _detach(losses: Losses) -> Losses:
    return Losses(losses.total.detach(), losses.contextual.detach(), losses.perceptual.detach())


def _where(condition: Tensor, ours: Losses, theirs: Losses) -> Losses:
    return Losses(
        torch.where(condition, ours.total, theirs.total),
        torch.where(condition, ours.contextual, theirs.contextual),
        torch.where(condition, ours.perceptual, theirs.perceptual),
    )
