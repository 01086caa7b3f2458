"""The request queue and the device thread, which completes queued requests in batches."""

import ctypes
import gc
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from pixmend.completion import Completion, Preview
from pixmend.serve.prometheus import Metrics
from pixmend.serve.requests import CompletionRequest
from pixmend.serve.security import Limits, Problem

_log = logging.getLogger("pixmend.serve")
_IDLE_SECONDS = 1.0  # after which free memory is returned to the system
_CLOSE_SECONDS = 5.0
_IS_GLIBC = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})
_M_ARENA_MAX = -8  # of its malloc.h
_SEARCH_SHARE = 0.8  # of the time allowed; the rest is for blending, encoding and sending


@dataclass(eq=False)
class Work:
    """One image of one request."""

    request: CompletionRequest
    deadline: float  # of the response, on the clock of `time.monotonic`
    # Called after each search step; such a search runs alone, so that it can be ended alone.
    on_preview: Callable[[Preview], None] | None = None
    cancelled: bool = False  # the client asks for the best result so far
    stopped: str | None = None  # why its completion was asked to end, if it was
    answer: Future[Completion] = field(default_factory=Future)  # cancelled once the client has left
    arrived: float = field(default_factory=time.monotonic)

    def matches(self, other: "Work") -> bool:
        """Whether both may share a batch; a time budget would make them affect each other."""
        mine, others = self.request, other.request
        alone = self.on_preview or other.on_preview or mine.options.seconds is not None
        return not alone and (mine.model, mine.options) == (others.model, others.options)

    @property
    def stop_reason(self) -> str | None:
        """Why the work should end now, if it should."""
        if self.answer.cancelled():
            return "gone"
        if self.cancelled:
            return "cancelled"
        end = self.arrived + _SEARCH_SHARE * (self.deadline - self.arrived)
        return "deadline" if time.monotonic() > end else None

    def expire(self) -> None:
        """Refuse the work, whatever the device does: nobody waits past a deadline."""
        _settle(self.answer, Problem.late())


class _UnwantedError(Exception):
    """Every answer of a batch is settled or cancelled."""


class Worker:
    """A bounded queue and the thread that empties it."""

    def __init__(self, limits: Limits, metrics: Metrics) -> None:
        self._limits, self._metrics = limits, metrics
        self._queue: deque[Work] = deque()
        self._changed = threading.Condition()
        metrics.waiting.set_function(lambda: len(self._queue))
        self._closed = False
        self._drained_by = float("inf")
        self._batch_seconds = 0.1  # moving average
        self._thread = threading.Thread(target=self._run, name="pixmend-device", daemon=True)

    def start(self) -> None:
        if _IS_GLIBC:  # a heap of its own would go back to the system with every batch
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def retry_after(self) -> int:
        """Seconds after which the queue should have moved on."""
        batches = len(self._queue) / self._limits.batch + 1
        return max(1, min(60, round(batches * self._batch_seconds)))

    def submit(self, work: Work) -> None:
        """Queue work; a full queue or a closed worker is `Problem` 503."""
        with self._changed:
            if self._closed:
                message = "The server is shutting down; try again later."
                raise Problem(503, "leaving", message, retry_after=10)
            if len(self._queue) >= self._limits.queue:
                raise Problem.busy(self.retry_after)
            self._queue.append(work)
            self._changed.notify()

    def drain(self, seconds: float) -> None:
        """End searches with their best result so far, in time for answers within ``seconds``."""
        self._drained_by = time.monotonic() + _SEARCH_SHARE * seconds

    def close(self) -> None:
        """Finish the queue and end the thread, as far as it can be ended."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        while batch := self._next_batch():
            start = time.monotonic()
            self._metrics.batch_size.observe(len(batch))
            try:
                self._complete(batch)
            except _UnwantedError:
                for work in batch:
                    self._metrics.dropped.labels(work.stop_reason or "deadline").inc()
            except Exception as error:
                _log.exception("a batch failed")
                _fail(batch, error)
            seconds = time.monotonic() - start
            self._metrics.batch_seconds.observe(seconds)
            self._batch_seconds += 0.2 * (seconds - self._batch_seconds)
            batch = []  # an idle thread must not keep its last answers in memory

    def _next_batch(self) -> list[Work]:
        """Wait for work, and briefly for matching work; return nothing once closed."""
        with self._changed:
            idle: float | None = _IDLE_SECONDS
            while True:
                self._drop()
                if self._queue:
                    break
                if self._closed:
                    return []
                if not self._changed.wait(idle):
                    release_memory()
                    idle = None
            first, size = self._queue[0], self._limits.batch
            until = first.arrived + self._limits.batch_wait_ms / 1000
            while not self._closed and len(self._matching(first)) < size:
                remaining = until - time.monotonic()
                if remaining <= 0 or first.on_preview:
                    break
                self._changed.wait(remaining)
            batch = self._matching(first)[:size]
            for work in batch:
                self._queue.remove(work)
            return batch

    def _matching(self, first: Work) -> list[Work]:
        return [first, *(each for each in self._queue if each is not first and first.matches(each))]

    def _drop(self) -> None:
        """Remove work whose client has left or cancelled, or whose deadline has passed."""
        for work in list(self._queue):
            if reason := work.stop_reason:
                self._queue.remove(work)
                self._metrics.dropped.labels(reason).inc()
                _fail([work], Problem.late() if reason == "deadline" else _cancelled())

    def _complete(self, batch: Sequence[Work]) -> None:
        def should_stop() -> bool:
            if all(work.answer.done() for work in batch):
                raise _UnwantedError
            drained = time.monotonic() > self._drained_by
            reasons = ["leaving" if drained else work.stop_reason for work in batch]
            if not all(reasons):
                return False
            for work, reason in zip(batch, reasons, strict=True):
                work.stopped = work.stopped or reason
            return True

        first = batch[0]
        completions = list(
            first.request.model.model.complete_tasks(
                [work.request.task for work in batch],
                first.request.options,
                on_preview=first.on_preview or (lambda preview: None),
                should_stop=should_stop,
            )
        )
        if not completions:
            _fail(batch, Problem.late())
        for work, completion in zip(batch, completions, strict=bool(completions)):
            if work.answer.cancelled():
                self._metrics.dropped.labels("gone").inc()
            _settle(work.answer, completion)


def release_memory() -> None:
    """Return free memory to the system, if the C library can (glibc)."""
    gc.collect()
    if _IS_GLIBC:
        ctypes.CDLL(None).malloc_trim(0)


def _settle(answer: Future[Completion], value: Completion | Exception) -> None:
    try:
        if isinstance(value, Exception):
            answer.set_exception(value)
        else:
            answer.set_result(value)
    except InvalidStateError:
        pass  # the client has left


def _fail(batch: Sequence[Work], error: Exception) -> None:
    for work in batch:
        _settle(work.answer, error)


def _cancelled() -> Problem:
    message = "Cancelled before the search began, so there is no answer yet; start it again."
    return Problem(409, "cancelled", message)
