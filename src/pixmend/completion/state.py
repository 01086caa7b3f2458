"""What all solvers share: the state that each step yields, which rows still run, and the best of each row so far.

A row is one search: one image, one start. Rows never meet, so each may stop when it has stopped improving; those that go on are
evaluated without the others.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

from pixmend.completion.objective import Losses

# Rows of a batch are made a multiple of this. Matrix kernels work in blocks of rows and treat a last, partial block
# differently; with none, a row's arithmetic is the same in any batch, bit for bit (tests hold this on CPUs).
ROW_BLOCK = 8


class Function(Protocol):
    """What a solver minimises, row by row."""

    def __call__(self, z: Tensor) -> Losses:
        """Return the losses at z [B, latent_dim]."""
        ...

    def take(self, rows: Tensor) -> Self:
        """Return the function of the rows numbered ``rows`` [N]; asked only where some rows stopped before others."""
        ...


@dataclass(frozen=True)
class SearchState:
    """A search after `step` updates.

    Attributes
    ----------
    z, losses
        The iterate [B, latent_dim] and the objective there, each [B].
    best_z, best
        Of each row, the iterate of the least total so far, and the losses there.
    active
        Which rows go on, bool [B]; the others have stopped improving and stay as they are.
    """

    step: int
    z: Tensor
    losses: Losses
    best_z: Tensor
    best: Losses
    active: Tensor


class BestTracker:
    """The best iterate of each row, and which rows are worth going on with.

    A row stops when its least total has not fallen by more than the share ``tolerance`` of itself within ``patience`` steps; with
    patience 0 it never does.

    Attributes
    ----------
    rows
        The rows that go on, bool [B]; None while all do.
    """

    def __init__(self, patience: int = 0, tolerance: float = 0.0) -> None:
        self._patience = patience
        self._tolerance = tolerance
        self._best: Losses | None = None
        self.rows: Tensor | None = None

    @property
    def over(self) -> bool:
        """Whether all rows have stopped."""
        return self.rows is not None and not bool(self.rows.any())

    def look(
        self, step: int, z: Tensor, losses: Losses, stalled: Tensor | None = None
    ) -> SearchState:
        """Take note of an iterate; rows that are ``stalled`` [B] cannot go on, whatever the patience."""
        if self._best is None:
            self._best_z, self._best = z, losses
            self._mark = losses.total  # the least total at the last step that counted as better
            self._since = torch.zeros_like(losses.total, dtype=torch.int64)
            self._active = torch.ones_like(losses.total, dtype=torch.bool)
        else:
            better = losses.total < self._best.total
            self._best_z = torch.where(better[:, None], z, self._best_z)
            self._best = where_losses(better, losses, self._best)
            if self._patience:
                self._active = self._active & self._patient(self._best.total)
        if stalled is not None:
            self._active = self._active & ~stalled
        if (self._patience or stalled is not None) and not bool(self._active.all()):
            self.rows = self._active
        return SearchState(step, z, losses, self._best_z, self._best, self._active)

    def _patient(self, least: Tensor) -> Tensor:
        counts = least < self._mark - self._tolerance * self._mark.abs()
        self._mark = torch.where(counts, least, self._mark)
        self._since = torch.where(counts, 0, self._since + 1)
        return self._since < self._patience


class ValueAndGrad:
    """Losses and gradients of the rows that are asked for; the others keep what they had."""

    def __init__(self, objective: Function) -> None:
        self._objective = objective
        self._taken: tuple[list[int], Function] = ([], objective)

    def losses(self, z: Tensor, rows: Tensor | None, before: Losses | None) -> Losses:
        """Return the losses at z [B, latent_dim], [B], anew in ``rows`` (bool [B], None = all)."""
        with torch.no_grad():
            if rows is None or before is None:
                return self._objective(z)
            numbers = padded_rows(rows)
            return _put(before, numbers, self.of(numbers)(z[numbers]))

    def slopes(
        self, z: Tensor, rows: Tensor | None, before: Losses | None, gradient: Tensor | None
    ) -> tuple[Losses, Tensor]:
        """Return the losses as `losses` does, and the gradient of the total, [B, latent_dim]."""
        if rows is None or before is None or gradient is None:
            return _with_gradient(self._objective, z)
        numbers = padded_rows(rows)
        some, slopes = _with_gradient(self.of(numbers), z[numbers])
        return _put(before, numbers, some), gradient.index_put((numbers,), slopes)

    def of(self, numbers: Tensor) -> Function:
        """Return the objective of the rows of these numbers; the last one taken is kept."""
        key = numbers.tolist()
        if self._taken[0] != key:
            self._taken = (key, self._objective.take(numbers))
        return self._taken[1]


def padded_rows(rows: Tensor) -> Tensor:
    """Return the numbers of the rows that are True, the first of them again until they fill whole blocks."""
    numbers = torch.nonzero(rows).flatten()
    return torch.cat([numbers, numbers[:1].expand(-len(numbers) % ROW_BLOCK)])


def where_losses(condition: Tensor, ours: Losses, theirs: Losses) -> Losses:
    """Return our losses where ``condition`` [B], else theirs."""
    parts = zip(ours.parts(), theirs.parts(), strict=True)
    return Losses(*(torch.where(condition, one, other) for one, other in parts))


def _put(before: Losses, numbers: Tensor, anew: Losses) -> Losses:
    parts = zip(before.parts(), anew.parts(), strict=True)
    return Losses(*(old.index_put((numbers,), new) for old, new in parts))


def _with_gradient(objective: Function, z: Tensor) -> tuple[Losses, Tensor]:
    at = z.detach().requires_grad_()
    with torch.enable_grad():
        losses = objective(at)
    (gradient,) = torch.autograd.grad(losses.total.sum(), at)
    # A gradient that overflowed must not spoil the iterate for good.
    return Losses(*(part.detach() for part in losses.parts())), torch.nan_to_num(gradient)
