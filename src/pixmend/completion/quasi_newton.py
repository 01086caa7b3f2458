"""L-BFGS for the search over z, each row with its own step length and curvature.

torch's L-BFGS shares one step length across the batch, so that an image's answer would depend on its batch mates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pixmend.completion.objective import Losses
from pixmend.completion.solvers import (
    BestTracker,
    Function,
    Projection,
    SearchState,
    ValueAndGrad,
    unconstrained,
)

_MEMORY = 10  # pairs of steps and gradient changes that are kept
_HALVINGS = 10  # of a step that lowers the objective too little


def lbfgs(
    objective: Function,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float = 1.0,
    projection: Projection = unconstrained,
    patience: int = 0,
    tolerance: float = 0.0,
) -> Iterator[SearchState]:
    """Search by L-BFGS (Nocedal and Wright 2006, Algorithms 7.4 and 7.5) with backtracking (Algorithm 3.1).

    The first step length is the share ``learning_rate`` of the quasi-Newton step. A row also stops
    when steepest descent no longer lowers its objective. The rest is as in
    `pixmend.completion.solvers.adam`.
    """
    value_and_grad, tracker = ValueAndGrad(objective), BestTracker(patience, tolerance)
    history = _CurvaturePairs()
    point = _Point(z, *value_and_grad(z, None, None, None))
    stalled = torch.zeros_like(point.losses.total, dtype=torch.bool)
    for step in range(steps + 1):
        yield tracker.update(step, point.z, point.losses, stalled)
        if step == steps or tracker.finished:
            return
        direction = -history.times(point.gradient)
        uphill = (direction * point.gradient).sum(1) >= 0
        history.forget(uphill)
        direction = torch.where(uphill[:, None], -point.gradient, direction)
        length = learning_rate * history.first_length(point.gradient)
        reached, moved = _backtrack(
            value_and_grad, point, direction, length, tracker.rows, projection
        )
        stalled = ~moved & history.empty(point.gradient)
        history.forget(~moved)
        history.add(reached.z - point.z, reached.gradient - point.gradient)
        point = reached


@dataclass(frozen=True)
class _Point:
    """The position of all rows: z and gradient [B, latent_dim], losses [B]."""

    z: Tensor
    losses: Losses
    gradient: Tensor

    def where(self, rows: Tensor, other: "_Point") -> "_Point":
        """Return this point in ``rows`` [B], and the other elsewhere."""
        return _Point(
            torch.where(rows[:, None], self.z, other.z),
            self.losses.where(rows, other.losses),
            torch.where(rows[:, None], self.gradient, other.gradient),
        )


class _CurvaturePairs:
    """The last steps s and gradient changes y of each row; a missing pair has weight 0."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y [B, latent_dim]; 1 / (s y) [B]

    def times(self, gradient: Tensor) -> Tensor:
        """Return H g, H the inverse Hessian's estimate (Nocedal and Wright 2006, Algorithm 7.4)."""
        q, shares = gradient, []
        for s, y, inverse in reversed(self._pairs):
            share = inverse * (s * q).sum(1)
            q = q - share[:, None] * y
            shares.append(share)
        r = self._scale(gradient)[:, None] * q
        for (s, y, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            r = r + (share - inverse * (y * r).sum(1))[:, None] * s
        return r

    def _scale(self, gradient: Tensor) -> Tensor:
        """Return s y / y y of each row's latest pair (equation 7.20), or 1."""
        scale = gradient.new_ones(len(gradient))
        for _, y, inverse in self._pairs:
            has = inverse > 0
            scale = torch.where(has, 1 / (inverse * y.square().sum(1)).clamp_min(1e-30), scale)
        return scale

    def first_length(self, gradient: Tensor) -> Tensor:
        """Return 1, or, for steepest descent, the length that bounds the step's L1 norm by 1."""
        bare = 1 / gradient.abs().sum(1).clamp_min(1)
        return torch.where(self.empty(gradient), bare, torch.ones_like(bare))

    def empty(self, gradient: Tensor) -> Tensor:
        """Return the rows that have no pair, bool [B]."""
        empty = torch.ones(len(gradient), dtype=torch.bool, device=gradient.device)
        for _, _, inverse in self._pairs:
            empty = empty & (inverse == 0)
        return empty

    def forget(self, rows: Tensor) -> None:
        """Drop all pairs of ``rows`` [B]."""
        self._pairs = [
            (s, y, torch.where(rows, torch.zeros_like(inverse), inverse))
            for s, y, inverse in self._pairs
        ]

    def add(self, s: Tensor, y: Tensor) -> None:
        """Add a pair in the rows of positive curvature along the step (equation 7.7)."""
        product = (s * y).sum(1)
        good = product > 1e-10 * s.square().sum(1).sqrt() * y.square().sum(1).sqrt()
        inverse = torch.where(good, 1 / product, torch.zeros_like(product))
        self._pairs = [*self._pairs, (s, y, inverse)][-_MEMORY:]


def _backtrack(
    value_and_grad: ValueAndGrad,
    start: _Point,
    direction: Tensor,
    length: Tensor,
    rows: Tensor | None,
    projection: Projection,
) -> tuple[_Point, Tensor]:
    """Halve the steps of ``rows`` until their totals fall by a ten-thousandth of what the slope promises.

    Return the points they reach, and which of them moved; the fall is measured after projection.
    """
    reached, moved = start, torch.zeros_like(start.losses.total, dtype=torch.bool)
    waiting = torch.ones_like(moved) if rows is None else rows
    for trial in range(_HALVINGS + 1):
        z = projection(start.z + (length * 0.5**trial)[:, None] * direction)
        evaluated = None if trial == 0 and rows is None else waiting
        point = _Point(z, *value_and_grad(z, evaluated, start.losses, start.gradient))
        promised = (start.gradient * (z - start.z)).sum(1)
        bound = start.losses.total + 1e-4 * promised.clamp_max(0)
        good = waiting & (point.losses.total < start.losses.total) & (point.losses.total <= bound)
        reached, moved = point.where(good, reached), moved | good
        waiting = waiting & ~good
        if not waiting.any():
            break
    return reached, moved
