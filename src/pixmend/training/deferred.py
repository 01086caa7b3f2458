"""Writes that survive a full disk: what cannot be written now is written later."""

import copy
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pixmend.errors import OutputError

_RETRY_SECONDS = 60.0

Value = TypeVar("Value")


class DeferredWriter:
    """Writes values; keeps copies of those that cannot be written, and retries each minute.

    A late write is the write that was due, so a full disk changes no file in the end. Only the
    latest value of each name is kept, so memory is bounded.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._pending: dict[str, tuple[object, Callable[[], None]]] = {}
        self._error: OutputError | None = None
        self._next_retry = 0.0

    def put(self, name: str, value: Value, write: Callable[[Value], None]) -> None:
        """Call ``write(value)``; on OutputError keep a copy for later, the latest of that name."""
        late = self._pending.pop(name, None) is not None
        try:
            write(value)
        except OutputError as error:
            first = not late and not self._pending
            snapshot = copy.deepcopy(value)
            self._pending[name] = snapshot, lambda: write(snapshot)
            self._defer(error)
            if first:
                self._warn(f"{error}; training goes on and the write will be retried")
        else:
            self._report(late)

    def pending(self, name: str) -> Any:  # noqa: ANN401 - whatever was put
        return self._pending.get(name, (None,))[0]

    def drop(self, name: str) -> None:
        self._pending.pop(name, None)

    def retry_if_due(self) -> None:
        """Retry the pending writes, at most once a minute."""
        if self._pending and time.monotonic() >= self._next_retry:
            self.retry()

    def retry(self) -> None:
        late = bool(self._pending)
        for name, (_, write) in list(self._pending.items()):
            try:
                write()
            except OutputError as error:
                self._defer(error)
            else:
                del self._pending[name]
        self._report(late)

    def flush(self) -> None:
        """Retry the pending writes for the last time; raises OutputError if one fails."""
        self.retry()
        if self._pending and self._error is not None:
            raise self._error

    def _defer(self, error: OutputError) -> None:
        self._error, self._next_retry = error, time.monotonic() + _RETRY_SECONDS

    def _report(self, late: bool) -> None:
        if late and not self._pending:
            self._warn("all deferred writes are done")
