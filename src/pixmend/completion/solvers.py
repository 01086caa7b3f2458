"""First-order solvers of the search over z; `pixmend.completion.quasi_newton` has L-BFGS. All have one signature.

    solver(objective, z, *, steps, ...) -> SearchState at step 0, 1, ..., steps

A row is one search: one image, one initial latent. Rows never interact, so each may stop on its own, and those that go on are evaluated
without the others. A solver never prints, draws or saves: progress, snapshots and animations consume its states.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

import torch
from torch import Tensor

from pixmend.completion.objective import Losses
from pixmend.models import whole_blocks

_MOMENTUM = 0.9  # of Nesterov's method

Projection = Callable[[Tensor], Tensor]
"""From z [B, latent_dim] after an update to the z that is kept."""


def unconstrained(z: Tensor) -> Tensor:
    """Return z unchanged."""
    return z


def latent_clip(radius: float) -> Projection:
    """Clip each |z_i| to ``radius`` (Yeh 2017, section 3.3)."""
    return unconstrained if math.isinf(radius) else partial(torch.clamp, min=-radius, max=radius)


class Function(Protocol):
    """What a solver minimises, row by row."""

    def __call__(self, z: Tensor) -> Losses:
        """Return the losses at z [B, latent_dim]."""
        ...

    def take(self, rows: Tensor) -> Self:
        """Return the function restricted to row numbers ``rows`` [N]."""
        ...


@dataclass(frozen=True)
class SearchState:
    """A search after `step` updates."""

    step: int
    z: Tensor  # the iterate [B, latent_dim]
    losses: Losses  # there
    best_z: Tensor  # the iterate of the least total so far
    best: Losses  # there
    active: Tensor  # the rows that go on, bool [B]; the others have converged


class BestTracker:
    """Tracks the best iterate of each row, and stops rows that no longer improve.

    A row stops when its least total has not fallen by more than the share ``tolerance`` of itself
    within ``patience`` steps; patience 0 never stops it.
    """

    def __init__(self, patience: int, tolerance: float) -> None:
        self._patience, self._tolerance = patience, tolerance
        self._best: Losses | None = None
        self.rows: Tensor | None = None  # that go on, bool [B]; None while all do

    @property
    def finished(self) -> bool:
        return self.rows is not None and not bool(self.rows.any())

    def update(
        self, step: int, z: Tensor, losses: Losses, stalled: Tensor | None = None
    ) -> SearchState:
        """Record an iterate; rows that are ``stalled`` [B] stop whatever the patience."""
        if self._best is None:
            self._best_z, self._best = z, losses
            self._mark = losses.total  # the least total at the last step that counted as better
            self._since = torch.zeros_like(losses.total, dtype=torch.int64)
            self._active = torch.ones_like(losses.total, dtype=torch.bool)
        else:
            better = losses.total < self._best.total
            self._best_z = torch.where(better[:, None], z, self._best_z)
            self._best = losses.where(better, self._best)
            if self._patience:
                self._active = self._active & self._improving(self._best.total)
        if stalled is not None:
            self._active = self._active & ~stalled
        if (self._patience or stalled is not None) and not bool(self._active.all()):
            self.rows = self._active
        return SearchState(step, z, losses, self._best_z, self._best, self._active)

    def _improving(self, least: Tensor) -> Tensor:
        lower = least < self._mark - self._tolerance * self._mark.abs()
        self._mark = torch.where(lower, least, self._mark)
        self._since = torch.where(lower, 0, self._since + 1)
        return self._since < self._patience


class ValueAndGrad:
    """Losses and gradients, computed anew for the requested rows only."""

    def __init__(self, objective: Function) -> None:
        self._objective = objective
        self._restricted: tuple[list[int], Function] = ([], objective)

    def losses(self, z: Tensor, rows: Tensor | None, before: Losses | None) -> Losses:
        """Return the losses at z [B, latent_dim], [B]: anew in ``rows`` (bool [B], None = all), else those of before."""
        with torch.no_grad():
            if rows is None or before is None:
                return self._objective(z)
            numbers = whole_blocks(torch.nonzero(rows).flatten())
            return before.put(numbers, self._restrict(numbers)(z[numbers]))

    def __call__(
        self, z: Tensor, rows: Tensor | None, before: Losses | None, gradient: Tensor | None
    ) -> tuple[Losses, Tensor]:
        """Return the losses as `losses` does, and the gradient of the total, [B, latent_dim]."""
        if rows is None or before is None or gradient is None:
            return _value_and_grad(self._objective, z)
        numbers = whole_blocks(torch.nonzero(rows).flatten())
        losses, some = _value_and_grad(self._restrict(numbers), z[numbers])
        return before.put(numbers, losses), gradient.index_put((numbers,), some)

    def _restrict(self, numbers: Tensor) -> Function:
        key = numbers.tolist()
        if self._restricted[0] != key:  # the same rows go on for many steps
            self._restricted = (key, self._objective.take(numbers))
        return self._restricted[1]


def _value_and_grad(objective: Function, z: Tensor) -> tuple[Losses, Tensor]:
    at = z.detach().requires_grad_()
    with torch.enable_grad():
        losses = objective(at)
    (gradient,) = torch.autograd.grad(losses.total.sum(), at)
    # A gradient that overflowed must not spoil the iterate for good.
    return losses.detach(), torch.nan_to_num(gradient)


def adam(
    objective: Function,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float = 0.01,
    projection: Projection = unconstrained,
    warmup: float = 0.0,
    cosine: bool = False,
    period: int | None = None,
    patience: int = 0,
    tolerance: float = 0.0,
) -> Iterator[SearchState]:
    """Search from z [B, latent_dim] by Adam (Kingma and Ba 2015, Algorithm 1; beta 0.9, 0.999).

    The rate rises linearly over the share ``warmup`` of a ``period`` of steps (default: all), then
    stays, or falls to 0 by half a ``cosine``; then it restarts (Loshchilov and Hutter 2017, section
    3). ``projection`` follows each update. ``patience`` and ``tolerance``: see `BestTracker`.
    """
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    length = period or steps

    def update(at: Tensor, gradient: Tensor, step: int) -> Tensor:
        share = ((step - 1) % length + 1) / length
        rate = learning_rate * _schedule(share, warmup, cosine=cosine)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        return projection(at - rate * mean / (square.sqrt() + 1e-8))

    return _descend(objective, z, update, steps, BestTracker(patience, tolerance))


def nesterov(
    objective: Function,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float = 0.01,
    decay: float = 1.0,
    projection: Projection = unconstrained,
    patience: int = 0,
    tolerance: float = 0.0,
) -> Iterator[SearchState]:
    """Search by Nesterov's accelerated gradient, the solver of the classic method.

    v <- m v - r g; z <- z - m v_before + (1 + m) v (Bengio et al. 2013, equation 7). The rate r
    falls by the factor ``decay`` after each 100 steps.
    """
    velocity = torch.zeros_like(z)

    def update(at: Tensor, gradient: Tensor, step: int) -> Tensor:
        before = velocity.clone()
        rate = learning_rate * decay ** ((step - 1) // 100)
        velocity.mul_(_MOMENTUM).sub_(gradient, alpha=rate)
        return projection(at - _MOMENTUM * before + (1 + _MOMENTUM) * velocity)

    return _descend(objective, z, update, steps, BestTracker(patience, tolerance))


def _schedule(share: float, warmup: float, *, cosine: bool) -> float:
    if share < warmup:
        return share / warmup
    if not cosine:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


def _descend(
    objective: Function,
    z: Tensor,
    update: Callable[[Tensor, Tensor, int], Tensor],
    steps: int,
    tracker: BestTracker,
) -> Iterator[SearchState]:
    """Evaluate, yield and update ``steps`` times."""
    value_and_grad = ValueAndGrad(objective)
    losses = gradient = None
    for step in range(steps):
        losses, gradient = value_and_grad(z, tracker.rows, losses, gradient)
        yield tracker.update(step, z, losses)
        if tracker.finished:
            return
        moved = update(z, gradient, step + 1)
        z = moved if tracker.rows is None else torch.where(tracker.rows[:, None], moved, z)
    yield tracker.update(steps, z, value_and_grad.losses(z, tracker.rows, losses))
