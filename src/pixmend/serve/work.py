"""The queue and the one thread that has the device: what waits is completed together."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from pixmend.api import Model
from pixmend.completion import Completion, CompletionOptions, Preview, Task
from pixmend.serve.limits import Limits
from pixmend.serve.memory import give_back
from pixmend.serve.metrics import Metrics
from pixmend.serve.problems import Problem

_log = logging.getLogger("pixmend.serve")
_REST_SECONDS = 1.0  # without work, after which memory is given back


@dataclass(eq=False)
class Work:
    """One image of one request.

    Attributes
    ----------
    deadline
        By `time.monotonic`.
    watch
        Told of each step of the search; who watches is searched alone, to be stopped alone.
    gone
        The client has left: the work may be dropped.
    enough
        The client wants the best so far.
    """

    job: Task
    options: CompletionOptions
    model: str
    deadline: float
    watch: Callable[[Preview], None] | None = None
    gone: bool = False
    enough: bool = False
    answer: Future[Completion] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    def fits(self, other: "Work") -> bool:
        """Whether both may be completed together: the answers do not depend on it, but a budget of time would."""
        apart = self.watch or other.watch or self.options.seconds is not None
        return not apart and (self.model, self.options) == (other.model, other.options)

    def stopped(self) -> str | None:
        """Return why a search would have ended before its time."""
        if self.enough:
            return "cancelled"
        return "deadline" if time.monotonic() > self.deadline else None


class Worker:
    """A bounded queue and the thread that empties it, batch by batch."""

    def __init__(self, models: Mapping[str, Model], limits: Limits, metrics: Metrics) -> None:
        self._models, self._limits, self._metrics = models, limits, metrics
        self._waiting: deque[Work] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._drained_by = float("inf")
        self._pace = 0.1  # seconds a batch, a moving average
        self._thread = threading.Thread(target=self._run, name="pixmend-device", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def patience(self) -> int:
        """Return after how many seconds the queue should have moved on."""
        batches = len(self._waiting) / self._limits.batch + 1
        return max(1, min(60, round(batches * self._pace)))

    def submit(self, work: Work) -> None:
        """Let work wait for its turn.

        Raises
        ------
        Problem
            503: the queue is full, or the server leaves.
        """
        with self._changed:
            if self._closed:
                raise Problem(
                    503, "leaving", "The server is shutting down; try again later.", retry_after=10
                )
            if len(self._waiting) >= self._limits.queue:
                raise Problem(
                    503,
                    "queue-full",
                    "The server is busy; try again in a moment.",
                    retry_after=self.patience,
                )
            self._waiting.append(work)
            self._metrics.waiting.set(len(self._waiting))
            self._changed.notify()

    def drain(self, seconds: float) -> None:
        """End searches that still run in so many seconds with their best so far."""
        self._drained_by = time.monotonic() + seconds

    def close(self) -> None:
        """Finish what waits and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            begun = time.monotonic()
            self._metrics.batch_size.observe(len(batch))
            try:
                self._complete(batch)
            except Exception as error:
                _log.exception("a batch failed")
                _fail(batch, error)
            seconds = time.monotonic() - begun
            self._metrics.batch_seconds.observe(seconds)
            self._pace += 0.2 * (seconds - self._pace)
            batch = []  # its answers are their clients' alone, while this thread rests

    def _next(self) -> list[Work]:
        """Wait for work, and a little for others like it; return what is to be done now, nothing at the end."""
        with self._changed:
            rest: float | None = _REST_SECONDS
            while True:
                self._drop()
                if self._waiting:
                    break
                if self._closed:
                    return []
                if not self._changed.wait(rest):
                    give_back()
                    rest = None
            first, most = self._waiting[0], self._limits.batch
            until = first.arrived + self._limits.batch_wait_ms / 1000
            while not self._closed and len(self._like(first)) < most:
                left = until - time.monotonic()
                if left <= 0 or first.watch:
                    break
                self._changed.wait(left)
            batch = self._like(first)[:most]
            for work in batch:
                self._waiting.remove(work)
            self._metrics.waiting.set(len(self._waiting))
            return batch

    def _like(self, first: Work) -> list[Work]:
        return [first, *(each for each in self._waiting if each is not first and first.fits(each))]

    def _drop(self) -> None:
        """Take out whose client has gone or whose time is up."""
        now = time.monotonic()
        for work in list(self._waiting):
            if work.gone or work.enough or now > work.deadline:
                self._waiting.remove(work)
                reason = "gone" if work.gone else "cancelled" if work.enough else "deadline"
                self._metrics.dropped.labels(reason).inc()
                _fail([work], _too_late() if reason == "deadline" else _cancelled())
        self._metrics.waiting.set(len(self._waiting))

    def _complete(self, batch: list[Work]) -> None:
        def should_stop() -> bool:
            now = time.monotonic()
            late = now > self._drained_by
            return late or all(each.gone or each.enough or now > each.deadline for each in batch)

        first = batch[0]
        found = self._models[first.model].complete_tasks(
            [work.job for work in batch],
            first.options,
            on_preview=first.watch or (lambda glimpse: None),
            should_stop=should_stop,
        )
        done = list(found)
        if not done:
            _fail(batch, _too_late())
        for work, completion in zip(batch, done, strict=bool(done)):
            if work.gone:
                self._metrics.dropped.labels("gone").inc()
            _settle(work.answer, completion)


def _settle(answer: Future[Completion], value: Completion | Exception) -> None:
    """Hand over an answer, unless who waited for it has left."""
    try:
        if isinstance(value, Exception):
            answer.set_exception(value)
        else:
            answer.set_result(value)
    except InvalidStateError:
        pass


def _fail(batch: list[Work], error: Exception) -> None:
    for work in batch:
        _settle(work.answer, error)


def _too_late() -> Problem:
    return Problem(
        503,
        "deadline",
        "The server was too busy to begin within the time allowed; try again later.",
        retry_after=5,
    )


def _cancelled() -> Problem:
    return Problem(
        409,
        "cancelled",
        "Cancelled before the search began, so there is no answer yet; start it again.",
    )
