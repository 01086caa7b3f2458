"""Workers that may die, and jobs that get done all the same.

Jobs are taken one ahead of the free workers, so that memory holds few of them. A job that fails is
retried once at the end. If its worker died, the next worker announces each input before it touches
it. An input at which a worker dies twice is left out and named.
"""

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from pixmend.cluster.session import Cluster, WorkerContract
from pixmend.errors import ClusterError, ModelFileError, PixmendError, SettingsError
from pixmend.records.pack_progress import JobProgress

_TICK_SECONDS = 0.2
_REPORT_SECONDS = 0.1  # between reports of a worker: one for each small image would cost too much
_STOP_SECONDS = 5.0  # that workers have to stop by themselves
_MAX_CRASHES = 4  # of a job, besides two for each input left out
_MAX_LEFT_OUT = 16  # inputs of one job; more are hardly the fault of images
_MAX_FAILED_STARTS = 3  # in a row
_NAMED_FAILURES = 3
_POISON = "its worker died twice at this input: it crashes the decoder, or needs too much memory"
_FATAL = (ClusterError, SettingsError, ModelFileError)  # the next job would fail as this one did


class Job(Protocol):
    """Work for one worker, with its index among all jobs."""

    @property
    def number(self) -> int: ...


JobT = TypeVar("JobT", bound=Job)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class RetryPolicy:
    """How to do a job; after a crash carefully, and without some inputs."""

    careful: bool = False  # announce each input before touching it
    left_out: dict[int, str] = field(default_factory=dict)  # position of an input -> why


class SharedProgress:
    """The actor that workers report to. If its machine dies, the next reports fill a new one."""

    def __init__(self) -> None:
        self._progress: dict[int, JobProgress] = {}
        self._positions: dict[int, int] = {}
        self._stopped = False

    def report(self, job: int, progress: JobProgress) -> bool:
        """Store the progress of a job; return whether to stop."""
        self._progress[job] = progress
        return self._stopped

    def begin(self, job: int, position: int) -> None:
        """Store which input of a job is about to be touched."""
        self._positions[job] = position

    def pop_position(self, job: int) -> int | None:
        """Return the input touched last and forget it: the next worker may die before any input."""
        return self._positions.pop(job, None)

    def pop_progress(self) -> dict[int, JobProgress]:
        progress, self._progress = self._progress, {}
        return progress

    def stop(self) -> None:
        self._stopped = True


class Reporter:
    """A worker's side of `SharedProgress`, given its Ray handle."""

    def __init__(self, progress: Any) -> None:  # noqa: ANN401
        self._progress = progress
        self._reply: Any = None
        self._next = 0.0

    def report(self, job: int, progress: JobProgress) -> bool:
        """Send progress now and then, without waiting; return whether a stop was requested."""
        if time.monotonic() < self._next:
            return False
        stopped = self._reply is not None and bool(self._get(self._reply))
        self._reply = self._progress.report.remote(job, progress)
        self._next = time.monotonic() + _REPORT_SECONDS
        return stopped

    def begin(self, job: int, position: int) -> None:
        """Announce the next input, and wait until that is stored."""
        self._get(self._progress.begin.remote(job, position))

    def _get(self, reference: object) -> object:
        import ray

        try:
            return ray.get(reference)
        except ray.exceptions.RayError:  # the actor is being restarted
            return None


class JobWorker:
    """Base of the actors: `setup` takes the pool's arguments, ``work(job, policy)`` does a job."""

    def begin(self, contract: WorkerContract, progress: object, *arguments: object) -> None:
        """Accept the contract and prepare for jobs."""
        contract.accept()
        self.reporter = Reporter(progress)
        self.setup(*arguments)

    def setup(self, *arguments: Any) -> None:  # noqa: ANN401
        """Prepare for jobs."""


@dataclass
class _Attempt(Generic[JobT]):
    job: JobT
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    failures: int = 0
    crashes: int = 0
    suspects: Counter[int] = field(default_factory=Counter)  # position -> deaths there


class WorkerPool(Generic[JobT, ResultT]):
    """Actors of one class with one job each; ``failed`` holds the jobs that failed, and why."""

    def __init__(
        self,
        cluster: Cluster,
        worker_class: type,
        arguments: tuple[object, ...] = (),  # of `JobWorker.setup`
        *,
        workers: int,
        gpus: float = 0,  # for each worker
    ) -> None:
        self.failed: list[tuple[JobT, str]] = []
        self._cluster, self._ray = cluster, cluster.ray
        self._class, self._arguments, self._gpus = worker_class, arguments, gpus
        self._progress = cluster.start_here(SharedProgress)
        self._contract = WorkerContract.here()
        self._workers = max(1, workers)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}  # reference -> worker
        self._busy: dict[Any, tuple[Any, _Attempt[JobT]]] = {}
        self._crashed: deque[_Attempt[JobT]] = deque()  # retried at once
        self._last: deque[_Attempt[JobT]] = deque()  # retried when all else is done
        self._failed_starts, self._start_error = 0, ""
        self._pending_progress: Any = None

    def run(
        self,
        jobs: Iterable[JobT],
        *,
        on_progress: Callable[[int, JobProgress], None] = lambda number, progress: None,
        on_tick: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[JobT, ResultT]]:
        """Yield each job and its result as they finish; `failed` holds the others afterwards.

        ``on_progress`` receives the progress of running jobs. ``on_tick`` is called a few times a
        second; if it raises, all workers stop. ClusterError: no worker starts, or a machine does
        not fit the others.
        """
        fresh = map(_Attempt[JobT], jobs)
        try:
            upcoming = next(fresh, None)
            while upcoming or self._crashed or self._last or self._busy:
                self._start_workers()
                while self._idle and (attempt := self._crashed or upcoming or self._last):
                    if isinstance(attempt, deque):
                        attempt = attempt.popleft()
                    else:
                        upcoming = next(fresh, None)
                    worker = self._idle.pop()
                    self._busy[worker.work.remote(attempt.job, attempt.policy)] = worker, attempt
                if not (self._idle or self._starting or self._busy):
                    raise ClusterError(self._start_error)
                references = [*self._busy, *self._starting]
                for reference in self._ray.wait(references, timeout=_TICK_SECONDS)[0]:
                    if reference in self._starting:
                        self._finish_start(reference)
                    elif done := self._finish(reference):
                        yield done
                self._forward_progress(on_progress)
                on_tick()
        finally:
            self._end()

    def raise_failures(self, error: type[PixmendError], jobs: str) -> None:
        """Raise if any job failed; ``jobs`` is the noun of the message."""
        if self.failed:
            reasons = "; ".join(reason for _, reason in self.failed[:_NAMED_FAILURES])
            raise error(
                f"{len(self.failed)} {jobs} failed twice: {reasons}; the others are kept: fix that "
                "and run the same command again"
            )

    def _start_workers(self) -> None:
        present = len(self._idle) + len(self._starting) + len(self._busy)
        missing = self._workers - present if self._failed_starts < _MAX_FAILED_STARTS else 0
        for _ in range(missing):
            worker = self._cluster.start(self._class, gpus=self._gpus)
            started = worker.begin.remote(self._contract, self._progress, *self._arguments)
            self._starting[started] = worker

    def _finish_start(self, reference: object) -> None:
        worker = self._starting.pop(reference)
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            version = self._contract.versions["pixmend"]
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            self._start_error = (
                f"no worker can be started: {[type(error).__name__, *lines][-1]}; is pixmend {version} installed on "
                "every machine of the cluster?"
            )
        else:
            self._failed_starts = 0
            self._idle.append(worker)

    def _finish(self, reference: object) -> tuple[JobT, ResultT] | None:
        """Return a job and its result, or None if the job failed or its worker died."""
        worker, attempt = self._busy.pop(reference)
        try:
            result: ResultT = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            self._idle.append(worker)
            self._handle_failure(attempt, _cause(error))
        except self._ray.exceptions.RayError:
            self._handle_crash(attempt)
        else:
            self._idle.append(worker)
            return attempt.job, result
        return None

    def _handle_failure(self, attempt: _Attempt[JobT], cause: Exception) -> None:
        if isinstance(cause, _FATAL):
            raise cause
        attempt.failures += 1
        if attempt.failures == 1:
            self._last.append(attempt)
        elif isinstance(cause, PixmendError):
            self.failed.append((attempt.job, str(cause)))
        else:
            raise cause

    def _handle_crash(self, attempt: _Attempt[JobT]) -> None:
        attempt.crashes += 1
        self._failed_starts = 0  # the worker did start, so another may
        left_out = dict(attempt.policy.left_out)
        position = None
        if attempt.policy.careful:
            with contextlib.suppress(self._ray.exceptions.RayError):
                position = self._ray.get(self._progress.pop_position.remote(attempt.job.number))
        if position is not None:
            attempt.suspects[position] += 1
            if attempt.suspects[position] == 2:
                left_out[position] = _POISON
        attempt.policy = RetryPolicy(True, left_out)
        limit = _MAX_CRASHES + 2 * len(left_out)
        if len(left_out) > _MAX_LEFT_OUT or attempt.crashes > limit:
            reason = f"its worker died {attempt.crashes} times; see the machines' memory and logs"
            self.failed.append((attempt.job, reason))
        else:
            self._crashed.append(attempt)

    def _forward_progress(self, on_progress: Callable[[int, JobProgress], None]) -> None:
        """Request the progress without waiting, and forward what has arrived."""
        if self._pending_progress is None:
            self._pending_progress = self._progress.pop_progress.remote()
        if not self._ray.wait([self._pending_progress], timeout=0)[0]:
            return
        running = {attempt.job.number for _, attempt in self._busy.values()}
        with contextlib.suppress(self._ray.exceptions.RayError):  # the actor is being restarted
            for number, progress in self._ray.get(self._pending_progress).items():
                if number in running:
                    on_progress(number, progress)
        self._pending_progress = None

    def _end(self) -> None:
        """Let busy workers stop at their next report, then end all."""
        if self._busy:
            self._progress.stop.remote()
            self._ray.wait([*self._busy], num_returns=len(self._busy), timeout=_STOP_SECONDS)
        busy = [worker for worker, _ in self._busy.values()]
        for actor in [*self._idle, *self._starting.values(), *busy, self._progress]:
            self._ray.kill(actor)
        self._idle, self._starting, self._busy = [], {}, {}


def _cause(error: Any) -> Exception:  # noqa: ANN401 - Ray's RayTaskError
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, PixmendError) else error
