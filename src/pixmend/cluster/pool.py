"""Workers that may die, and jobs that get done all the same.

A job waits until a worker is free, so that no more are under way than there are workers, however many there are. A job
that fails is tried once more at the end. One whose worker died is tried again with care: the worker says which input it
is about to touch, and the input at which it dies twice is left out and named.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pixmend.cluster.board import Note, SharedProgress
from pixmend.cluster.session import Cluster, WorkerContract
from pixmend.errors import ClusterError, ModelFileError, PixmendError, SettingsError

_WAIT_SECONDS = 0.2  # between two looks at what the user wishes
_LAST_WORD_SECONDS = 5.0  # that workers are given to stop by themselves
_CRASHES = 4  # of a job, beside two for each input left out
_MOST_LEFT_OUT = 16  # inputs of one job: more is no matter of images
_STARTS = 3  # failures in a row until no more are tried
_POISON = "its worker died twice at this input: it crashes the decoder, or wants more memory than the worker has"
_FATAL = (ClusterError, SettingsError, ModelFileError)  # the next job would fail as this one


class Numbered(Protocol):
    """A job: its place among all jobs, from 0."""

    @property
    def number(self) -> int:
        """Which job."""
        ...


JobT = TypeVar("JobT", bound=Numbered)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class RetryPolicy:
    """How a job is to be done after its worker died: with a word before each input, and without some of them.

    Attributes
    ----------
    careful
        Whether to say which input is about to be touched.
    left_out
        Position of an input to leave out, and why.
    """

    careful: bool = False
    left_out: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure(Generic[JobT]):
    """A job that failed twice, and why."""

    job: JobT
    reason: str


@dataclass
class _Try(Generic[JobT]):
    job: JobT
    care: RetryPolicy = field(default_factory=RetryPolicy)
    failures: int = 0
    crashes: int = 0
    suspects: dict[int, int] = field(default_factory=dict)  # position -> deaths there


class Pool(Generic[JobT, ResultT]):
    """Actors of one class, each with one job at a time.

    Parameters
    ----------
    kind, arguments
        The actors' class, and what its ``begin`` is given after terms and board; ``work(job, care)`` returns a
        result.
    workers
        How many.
    gpus
        Of each.

    Attributes
    ----------
    failed
        The jobs that failed twice.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: type,
        arguments: tuple[object, ...] = (),
        *,
        workers: int,
        gpus: float = 0,
    ) -> None:
        self.failed: list[Failure[JobT]] = []
        self._cluster, self._ray = cluster, cluster.ray
        self._kind, self._arguments, self._gpus = kind, arguments, gpus
        self._board, self._terms = cluster.start_here(SharedProgress), WorkerContract.here()
        self._workers = max(1, workers)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # reference -> worker
        self._busy: dict[Any, tuple[Any, _Try[JobT]]] = {}
        self._bad_starts, self._hopeless = 0, ""
        self._asked: Any = None

    def run(
        self,
        jobs: Iterable[JobT],
        *,
        on_note: Callable[[int, Note], None] = lambda number, note: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[JobT, ResultT]]:
        """Yield each job that was done, in the order in which they end; `failed` has the others afterwards.

        Parameters
        ----------
        on_note
            Told how far a job is, now and then.
        on_tick
            Called a few times a second; may raise, and then all workers stop.

        Raises
        ------
        ClusterError
            No worker can be started, or a machine of the cluster does not fit the others.
        """
        fresh = (_Try(job) for job in jobs)
        again: deque[_Try[JobT]] = deque()  # after a crash: at once, for the note of where is fresh
        last: deque[_Try[JobT]] = deque()  # after a failure: when all else is done
        try:
            while True:
                while self._idle and (attempt := _next(again, fresh, last)) is not None:
                    worker = self._idle.pop()
                    self._busy[worker.work.remote(attempt.job, attempt.care)] = (worker, attempt)
                if not (self._busy or again or last) and (
                    self._idle or self._exhausted(fresh, again)
                ):
                    return
                self._fill()
                if not (self._idle or self._starting or self._busy):
                    raise ClusterError(self._hopeless)
                for reference in self._wait():
                    if reference in self._starting:
                        self._started(reference)
                        continue
                    worker, attempt = self._busy.pop(reference)
                    done = self._result(reference, worker, attempt, again, last)
                    if done is not None:
                        yield attempt.job, done[0]
                self._pass_on(on_note)
                on_tick()
        finally:
            self._end()

    def _exhausted(self, fresh: Iterator[_Try[JobT]], again: deque[_Try[JobT]]) -> bool:
        """Whether there is no job left, asked before the first worker stands."""
        attempt = next(fresh, None)
        if attempt is not None:
            again.append(attempt)
        return attempt is None

    def _fill(self) -> None:
        """Start workers for those that are missing."""
        there = len(self._idle) + len(self._starting) + len(self._busy)
        missing = self._workers - there if self._bad_starts < _STARTS else 0
        for _ in range(missing):
            worker = self._cluster.start(self._kind, gpus=self._gpus)
            begun = worker.begin.remote(self._terms, self._board, *self._arguments)
            self._starting[begun] = worker

    def _wait(self) -> list[Any]:
        under_way = [*self._busy, *self._starting]
        ready, _ = self._ray.wait(under_way, num_returns=1, timeout=_WAIT_SECONDS)
        return list(ready)

    def _started(self, reference: object) -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayError as error:
            self._bad_starts += 1
            self._hopeless = (
                f"no worker can be started: {_last_line(error)}; is pixmend {self._terms.versions.pixmend} installed on "
                "every machine of the cluster?"
            )
            return
        self._bad_starts = 0
        self._idle.append(worker)

    def _result(
        self,
        reference: object,
        worker: object,
        attempt: _Try[JobT],
        again: deque[_Try[JobT]],
        last: deque[_Try[JobT]],
    ) -> tuple[ResultT] | None:
        """Return what came of a job, or None where it is to be tried again or has failed."""
        try:
            result: ResultT = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(worker)
            self._failed(attempt, _cause(error), last)
            return None
        except self._ray.exceptions.RayError:
            self._crashed(attempt, again)
            return None
        self._idle.append(worker)
        return (result,)

    def _failed(self, attempt: _Try[JobT], cause: Exception, last: deque[_Try[JobT]]) -> None:
        if isinstance(cause, _FATAL):
            raise cause
        attempt.failures += 1
        if attempt.failures == 1:
            last.append(attempt)
        elif isinstance(cause, PixmendError):
            self.failed.append(Failure(attempt.job, str(cause)))
        else:
            raise cause

    def _crashed(self, attempt: _Try[JobT], again: deque[_Try[JobT]]) -> None:
        attempt.crashes += 1
        self._bad_starts = 0  # it was alive: another may be
        left_out = dict(attempt.care.left_out)
        position = self._where(attempt) if attempt.care.careful else None
        if position is not None:
            attempt.suspects[position] = attempt.suspects.get(position, 0) + 1
            if attempt.suspects[position] == 2:
                left_out[position] = _POISON
        attempt.care = RetryPolicy(True, left_out)
        if len(left_out) > _MOST_LEFT_OUT or attempt.crashes > _CRASHES + 2 * len(left_out):
            reason = (
                f"its worker died {attempt.crashes} times; look at the machines' memory and logs"
            )
            self.failed.append(Failure(attempt.job, reason))
        else:
            again.append(attempt)

    def _where(self, attempt: _Try[JobT]) -> int | None:
        try:
            position: int | None = self._ray.get(self._board.at.remote(attempt.job.number))
        except self._ray.exceptions.RayError:
            return None
        return position

    def _pass_on(self, on_note: Callable[[int, Note], None]) -> None:
        """Ask for the notes without waiting for them, and tell those that have come."""
        if self._asked is None:
            self._asked = self._board.notes.remote()
        if not self._ray.wait([self._asked], timeout=0)[0]:
            return
        running = {attempt.job.number for _, attempt in self._busy.values()}
        try:
            for number, note in self._ray.get(self._asked).items():
                if number in running:
                    on_note(number, note)
        except self._ray.exceptions.RayError:
            pass  # the board is being started anew
        self._asked = None

    def _end(self) -> None:
        """Let busy workers stop at their next report, then end all."""
        if self._busy:
            self._board.stop.remote()
            waiting, until = list(self._busy), time.monotonic() + _LAST_WORD_SECONDS
            self._ray.wait(waiting, num_returns=len(waiting), timeout=until - time.monotonic())
        workers = [
            *self._idle,
            *self._starting.values(),
            *(each for each, _ in self._busy.values()),
        ]
        for worker in [*workers, self._board]:
            self._ray.kill(worker)
        self._idle, self._starting, self._busy = [], {}, {}


def _next(*queues: Iterable[_Try[JobT]]) -> _Try[JobT] | None:
    for queue in queues:
        if isinstance(queue, deque):
            if queue:
                attempt: _Try[JobT] = queue.popleft()
                return attempt
        elif (found := next(iter(queue), None)) is not None:
            return found
    return None


def _cause(error: Any) -> Exception:  # noqa: ANN401 - Ray's RayTaskError
    """Return what was raised in the worker."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, PixmendError) else error


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
