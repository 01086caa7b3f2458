"""What a run writes: when the disk is full, training goes on and the files follow as soon as there is room."""

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pixmend.errors import OutputError

_RETRY_SECONDS = 60.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class _Held:
    value: object
    write: Callable[[], None]


class DeferredWriter:
    """Writes what it is given, or holds a copy of it and tries again a minute later.

    What is written late is what would have been written in time, so a full disk changes no file in the end. Of each name only the
    latest value is held: memory stays bounded.

    Parameters
    ----------
    warn
        Told in words when something cannot be written, and when all of it is there after all.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._held: dict[str, _Held] = {}
        self._error: OutputError | None = None
        self._next_try = 0.0

    def put(self, name: str, value: Value, write: Callable[[Value], None]) -> None:
        """Call ``write(value)``; if that raises OutputError, hold a copy, in the place of an older one of that name."""
        held = self._held.pop(name, None)
        try:
            write(value)
        except OutputError as error:
            first = held is None and not self._held
            kept = copy.deepcopy(value)
            self._held[name] = _Held(kept, lambda: write(kept))
            self._error, self._next_try = error, time.monotonic() + _RETRY_SECONDS
            if first:
                self._warn(f"{error}; training goes on, and what is missing is tried again")
        else:
            self._tell_when_empty(held is not None)

    def held(self, name: str) -> object | None:
        """Return what is held under ``name``."""
        held = self._held.get(name)
        return None if held is None else held.value

    def drop(self, name: str) -> None:
        """Hold nothing under ``name`` any longer."""
        self._held.pop(name, None)

    def retry_when_due(self) -> None:
        """Try to write what is held, unless that was less than a minute ago."""
        if self._held and time.monotonic() >= self._next_try:
            self.retry()

    def retry(self) -> None:
        """Try to write what is held, now."""
        before = len(self._held)
        for name, held in list(self._held.items()):
            try:
                held.write()
            except OutputError as error:
                self._error, self._next_try = error, time.monotonic() + _RETRY_SECONDS
            else:
                del self._held[name]
        self._tell_when_empty(before > 0)

    def deliver(self) -> None:
        """Write what is held, at the end.

        Raises
        ------
        OutputError
            It still cannot be written.
        """
        self.retry()
        if self._held and self._error is not None:
            raise self._error

    def _tell_when_empty(self, wrote_late: bool) -> None:
        if wrote_late and not self._held:
            self._warn("what could not be written is written now")
