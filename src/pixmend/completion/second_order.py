"""The search over z by solvers that learn or compute how the objective curves; `pixmend.completion.search` has the others.

Every row has its own step length and damping: torch's L-BFGS has one for the whole batch, so that an image's answer would depend on
its batch mates.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pixmend.completion.bounds import Projection, unconstrained
from pixmend.completion.objective import Losses
from pixmend.completion.state import (
    BestTracker,
    Function,
    SearchState,
    ValueAndGrad,
    where_losses,
)


def lbfgs(
    objective: Function,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float = 1.0,
    memory: int = 10,
    halvings: int = 10,
    projection: Projection = unconstrained,
    patience: int = 0,
    tolerance: float = 0.0,
) -> Iterator[SearchState]:
    """Search by L-BFGS (Nocedal and Wright 2006, Algorithms 7.4 and 7.5) with backtracking (Algorithm 3.1), each row by itself.

    A row stops, too, when not even the steepest descent lets it get better.

    Parameters
    ----------
    learning_rate
        The step length that is tried first, of the quasi-Newton step.
    memory
        Pairs of steps and changes of the gradient that are remembered.
    halvings
        How often a step that does not lower the objective enough is halved before it is given up.
    z, projection, patience, tolerance
        As in `pixmend.completion.search.adam`.
    """
    evaluate, track, pairs = (
        ValueAndGrad(objective),
        BestTracker(patience, tolerance),
        _Pairs(memory),
    )
    losses, gradient = evaluate.slopes(z, None, None, None)
    stalled = torch.zeros_like(losses.total, dtype=torch.bool)
    for step in range(steps + 1):
        yield track.look(step, z, losses, stalled)
        if step == steps or track.over:
            return
        direction = -pairs.times(gradient)
        uphill = (direction * gradient).sum(1) >= 0
        pairs.forget(uphill)
        direction = torch.where(uphill[:, None], -gradient, direction)
        length = learning_rate * pairs.first_length(gradient)
        at = _Point(z, losses, gradient)
        keep = partial(projection, step=step + 1)
        found, moved = _backtrack(evaluate, at, direction, length, halvings, track.rows, keep)
        stalled = ~moved & pairs.empty(gradient)
        pairs.forget(~moved)
        pairs.remember(found.z - z, found.gradient - gradient)
        z, losses, gradient = found.z, found.losses, found.gradient


@dataclass(frozen=True)
class _Point:
    """Where the rows are: z and gradient [B, latent_dim], losses [B]."""

    z: Tensor
    losses: Losses
    gradient: Tensor

    def where(self, rows: Tensor, other: "_Point") -> "_Point":
        """Return ourselves in ``rows`` [B], else the other."""
        return _Point(
            torch.where(rows[:, None], self.z, other.z),
            where_losses(rows, self.losses, other.losses),
            torch.where(rows[:, None], self.gradient, other.gradient),
        )


class _Pairs:
    """The last steps s and changes of gradient y of each row; a pair that a row does not have weighs 0 there."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y [B, latent_dim]; 1 / (s y) [B]

    def times(self, gradient: Tensor) -> Tensor:
        """Return H g by two loops, H the inverse Hessian's estimate (Nocedal and Wright 2006, Algorithm 7.4)."""
        q, shares = gradient, []
        for s, y, inverse in reversed(self._kept):
            share = inverse * (s * q).sum(1)
            q = q - share[:, None] * y
            shares.append(share)
        r = self._scale(gradient)[:, None] * q
        for (s, y, inverse), share in zip(self._kept, reversed(shares), strict=True):
            r = r + (share - inverse * (y * r).sum(1))[:, None] * s
        return r

    def _scale(self, gradient: Tensor) -> Tensor:
        """Return s y / y y of each row's latest pair (equation 7.20); 1 where there is none."""
        scale = gradient.new_ones(len(gradient))
        for _, y, inverse in self._kept:
            has = inverse > 0
            scale = torch.where(has, 1 / (inverse * y.square().sum(1)).clamp_min(1e-30), scale)
        return scale

    def first_length(self, gradient: Tensor) -> Tensor:
        """Return 1, or where the direction is only the gradient's, what keeps the first step's sum of changes within 1."""
        bare = 1 / gradient.abs().sum(1).clamp_min(1)
        return torch.where(self.empty(gradient), bare, torch.ones_like(bare))

    def empty(self, gradient: Tensor) -> Tensor:
        """Return which rows remember nothing, bool [B]."""
        empty = torch.ones(len(gradient), dtype=torch.bool, device=gradient.device)
        for _, _, inverse in self._kept:
            empty = empty & (inverse == 0)
        return empty

    def forget(self, rows: Tensor) -> None:
        """Let ``rows`` [B] remember nothing."""
        self._kept = [
            (s, y, torch.where(rows, torch.zeros_like(inverse), inverse))
            for s, y, inverse in self._kept
        ]

    def remember(self, s: Tensor, y: Tensor) -> None:
        """Take up a pair in the rows where the gradient grew along the step (equation 7.7's condition)."""
        product = (s * y).sum(1)
        good = product > 1e-10 * s.square().sum(1).sqrt() * y.square().sum(1).sqrt()
        inverse = torch.where(good, 1 / product, torch.zeros_like(product))
        self._kept = [*self._kept, (s, y, inverse)][-self._memory :]


def _backtrack(
    evaluate: ValueAndGrad,
    at: _Point,
    direction: Tensor,
    length: Tensor,
    halvings: int,
    rows: Tensor | None,
    projection: Callable[[Tensor], Tensor],
) -> tuple[_Point, Tensor]:
    """Return where each of ``rows`` gets to, and which of them moved: the longest of the step and its halves that lowers the total.

    Enough is a ten-thousandth of what the slope promises (Armijo), with what ``bound`` does to the step taken into account.
    """
    found, moved = at, torch.zeros_like(at.losses.total, dtype=torch.bool)
    waiting = torch.ones_like(moved) if rows is None else rows
    for trial in range(halvings + 1):
        tried = projection(at.z + (length * 0.5**trial)[:, None] * direction)
        everyone = None if trial == 0 and rows is None else waiting
        there = _Point(tried, *evaluate.slopes(tried, everyone, at.losses, at.gradient))
        promised = (at.gradient * (tried - at.z)).sum(1)
        enough = at.losses.total + 1e-4 * promised.clamp_max(0)
        good = waiting & (there.losses.total < at.losses.total) & (there.losses.total <= enough)
        found, moved = there.where(good, found), moved | good
        waiting = waiting & ~good
        if not waiting.any():
            break
    return found, moved
