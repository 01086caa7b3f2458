"""How far each job is, and the wish to stop: one small actor beside the driver that workers report to."""

import time
from collections import OrderedDict
from typing import Any, NamedTuple

_SECONDS = 0.1  # between two reports of a worker: one at each of a thousand small images a second costs more than they do
_KEPT = 10_000  # jobs remembered: far more than are ever at work at once


class Note(NamedTuple):
    """Inputs done of a job, how many of these are left out, the latest one's name, the first reason."""

    done: int = 0
    bad: int = 0
    current: str = ""
    reason: str = ""


class SharedProgress:
    """The actor. If it is lost with its machine, it starts again empty, and the next reports fill it."""

    def __init__(self) -> None:
        self._notes: OrderedDict[int, Note] = OrderedDict()
        self._at: OrderedDict[int, int] = OrderedDict()
        self._stopped = False

    def report(self, job: int, note: Note) -> bool:
        """Keep how far a job is; return whether to stop."""
        _keep(self._notes, job, note)
        return self._stopped

    def begin(self, job: int, position: int) -> None:
        """Keep which input of a job is about to be touched."""
        _keep(self._at, job, position)

    def at(self, job: int) -> int | None:
        """Return the input of a job that was touched last, and forget it: the next worker may die before it touches any."""
        return self._at.pop(job, None)

    def notes(self) -> dict[int, Note]:
        """Return what was reported since the last call."""
        notes, self._notes = dict(self._notes), OrderedDict()
        return notes

    def stop(self) -> None:
        """Ask all workers to stop at their next report."""
        self._stopped = True


class Reporter:
    """A worker's hand on the board: reports are sent off, never waited for, but before an input that may kill."""

    def __init__(self, board: Any) -> None:  # noqa: ANN401 - Ray's handle of a SharedProgress
        self._board = board
        self._sent: Any = None
        self._next = 0.0

    def report(self, job: int, note: Note) -> bool:
        """Send how far a job is, unless that was done a moment ago; return whether the driver wished to stop by then."""
        if time.monotonic() < self._next:
            return False
        stopped = self._sent is not None and bool(self._got(self._sent))
        self._sent = self._board.report.remote(job, note)
        self._next = time.monotonic() + _SECONDS
        return stopped

    def begin(self, job: int, position: int) -> None:
        """Say which input is about to be touched, and wait until that is known."""
        self._got(self._board.begin.remote(job, position))

    def _got(self, reference: object) -> object:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayError:  # the board is being started anew
            return None


def _keep(kept: "OrderedDict[int, Any]", job: int, value: object) -> None:
    kept[job] = value
    if len(kept) > _KEPT:
        kept.popitem(last=False)
