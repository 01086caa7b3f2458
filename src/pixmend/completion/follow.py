"""Following a search: what is kept of its states, and when it has gone on long enough."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pixmend.completion.state import SearchState


@dataclass(frozen=True)
class SearchTrace:
    """How the search of B images went.

    Attributes
    ----------
    last
        Its last state.
    snapshots
        Step -> [B, C, S, S], of each image's best lane by then.
    history
        The least total so far after each step, [steps + 1, B].
    steps
        After how many updates the last of an image's lanes stopped, B numbers.
    """

    last: SearchState
    snapshots: dict[int, Tensor]
    history: Tensor
    steps: list[int]


class StoppingCriterion:
    """Whether a search has gone on long enough: the time is used up, or somebody wants an answer now."""

    def __init__(
        self, started: float, seconds: float | None, should_stop: Callable[[], bool]
    ) -> None:
        self._end = math.inf if seconds is None else started + seconds
        self._should_stop = should_stop
        self._last = started

    def __call__(self, state: SearchState) -> bool:
        """Return whether to end at this state; a step that would end too late is not begun."""
        if not math.isinf(self._end):
            state.best.total[0].item()  # waits until the device has done what it was told
        now = time.perf_counter()
        late = now + (now - self._last) > self._end
        self._last = now
        return late or self._should_stop()

    def already(self) -> bool:
        """Return whether to end what goes before a search."""
        return time.perf_counter() > self._end or self._should_stop()


def follow(
    states: Iterator[SearchState],
    count: int,
    lanes: int,
    *,
    snapshots: tuple[int, ...],
    draw: Callable[[Tensor, Tensor], Tensor],
    on_state: Callable[[SearchState], None],
    enough: StoppingCriterion,
) -> SearchTrace:
    """Take the states of a search until it ends or has gone on long enough.

    Parameters
    ----------
    count, lanes
        Rows are laid out as image x lane, then spare ones.
    snapshots, draw
        At which steps the images of the best lanes are kept, and how to draw them: from z and numbers of rows.
    """
    kept: dict[int, Tensor] = {}
    history: list[Tensor] = []
    for state in states:
        totals = state.best.total[: count * lanes].view(count, lanes)
        going = state.active[: count * lanes].view(count, lanes).any(1)
        if not history:
            steps, before = torch.zeros_like(going, dtype=torch.int64), torch.ones_like(going)
        steps, before = torch.where(before, state.step, steps), going
        history.append(totals.amin(1))
        if state.step in snapshots:
            best = torch.arange(count, device=totals.device) * lanes + totals.argmin(1)
            kept[state.step] = draw(state.best_z, best)
        on_state(state)
        if enough(state):
            break
    return SearchTrace(state, kept, torch.stack(history), steps.tolist())
