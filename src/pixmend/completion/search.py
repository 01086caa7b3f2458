"""The search over z by first-order solvers; `pixmend.completion.second_order` has the others. All have one signature.

    solver(objective, z, *, steps, ...) -> SearchState at step 0, 1, ..., steps

The progress bar, the snapshots and the film are consumers of the same iterator; a solver never prints, draws or saves. Rows that have
stopped improving stay as they are (see `BestTracker`), and when all have, the iterator ends.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pixmend.completion.bounds import Projection, unconstrained
from pixmend.completion.objective import Losses
from pixmend.completion.state import BestTracker, Function, SearchState, ValueAndGrad


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
    """Search by Adam (Kingma and Ba 2015, Algorithm 1; beta 0.9, 0.999).

    Parameters
    ----------
    z
        The starts, [B, latent_dim].
    projection
        What keeps z in range after each update.
    warmup
        Share of the period over which the rate grows linearly from 0.
    cosine
        Let the rate fall to 0 over the rest of it by half a cosine.
    period
        Steps of the schedule, which then begins again (Loshchilov and Hutter 2017, section 3); all ``steps`` if not given.
    patience, tolerance
        When a row stops: see `BestTracker`.
    """
    first, second = torch.zeros_like(z), torch.zeros_like(z)
    length = period or steps

    def update(at: Tensor, gradient: Tensor, step: int) -> Tensor:
        share = ((step - 1) % length + 1) / length
        rate = learning_rate * _schedule(share, warmup, cosine=cosine)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square(), 0.001)
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        return projection(at - rate * mean / (square.sqrt() + 1e-8), step)

    return _descend(objective, z, update, steps, BestTracker(patience, tolerance))


def nesterov(
    objective: Function,
    z: Tensor,
    *,
    steps: int,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    decay: float = 1.0,
    projection: Projection = unconstrained,
    patience: int = 0,
    tolerance: float = 0.0,
) -> Iterator[SearchState]:
    """Search by Nesterov's accelerated gradient (the seed system's solver).

    v <- m v - r g;  z <- z - m v_before + (1 + m) v  (Bengio et al. 2013, equation 7).

    Parameters
    ----------
    decay
        The rate r is multiplied by it after each 100 steps.
    z, projection, patience, tolerance
        As in `adam`.
    """
    velocity = torch.zeros_like(z)

    def update(at: Tensor, gradient: Tensor, step: int) -> Tensor:
        before = velocity.clone()
        rate = learning_rate * decay ** ((step - 1) // 100)
        velocity.mul_(momentum).sub_(gradient, alpha=rate)
        return projection(at - momentum * before + (1 + momentum) * velocity, step)

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
    track: BestTracker,
) -> Iterator[SearchState]:
    """Evaluate, yield, update, `steps` times."""
    evaluate = ValueAndGrad(objective)
    losses: Losses | None = None
    gradient: Tensor | None = None
    for step in range(steps):
        losses, gradient = evaluate.slopes(z, track.rows, losses, gradient)
        yield track.look(step, z, losses)
        if track.over:
            return
        moved = update(z, gradient, step + 1)
        z = moved if track.rows is None else torch.where(track.rows[:, None], moved, z)
    yield track.look(steps, z, evaluate.losses(z, track.rows, losses))
