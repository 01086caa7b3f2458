"""A growing file of JSON lines, on this machine or in a store."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Self

from pixmend.errors import MissingError
from pixmend.storage.local import append_line, locked_file, make_folder
from pixmend.storage.remote import StorePath

_SECONDS = 10.0  # between two updates of a store
_STALE_SECONDS = 60.0  # after which a lock is that of a process which died
_POLL_SECONDS = 0.2


class JsonlWriter:
    """Appends lines to a file: at once on this machine, every 10 s and at the end in a store.

    ``merge`` makes the text of the file at the start and at the end from what is there. Several
    writers may share a file: a store's files cannot grow, so each update replaces the file under a
    lock, and keeps the lines of the others.
    """

    def __init__(self, path: StorePath, merge: Callable[[str], str]) -> None:
        self._path = path
        self._merge = merge
        self._pending = ""  # lines that the store lacks

    def __enter__(self) -> Self:
        self._update()
        return self

    def __exit__(self, *_: object) -> None:
        self._update()

    def add(self, line: str) -> None:
        if self._path.local is not None:
            append_line(self._path.local, line)
            return
        self._pending += f"{line}\n"
        if time.monotonic() - self._updated >= _SECONDS:
            self._update()

    def _update(self) -> None:
        with locked(self._path):
            text = self._path.read_text() if self._path.is_file() else ""
            gap = "\n" if text and not text.endswith("\n") else ""
            merged = self._merge(text + gap + self._pending)
            if merged != text:
                self._path.write_bytes(merged.encode(errors="backslashreplace"))
        self._pending, self._updated = "", time.monotonic()


@contextlib.contextmanager
def locked(path: StorePath) -> Iterator[None]:
    """Hold the lock of a file: its own on this machine, which makes it if it is missing.

    In a store it is a file beside it, where the store can create a file exclusively.
    """
    if path.local is not None:
        make_folder(path.local.parent)
        with locked_file(path.local):
            yield
        return
    lock = path.with_name(f".{path.name}.lock")
    own, other, since = secrets.token_hex().encode(), b"", time.monotonic()
    while not lock.create(own):
        with contextlib.suppress(MissingError):  # just removed
            if (holder := lock.read_bytes()) != other:
                other, since = holder, time.monotonic()
            elif time.monotonic() - since > _STALE_SECONDS:
                lock.remove()
        time.sleep(_POLL_SECONDS * (0.5 + secrets.randbelow(1000) / 1000))
    try:
        yield
    finally:
        with contextlib.suppress(MissingError):
            if lock.read_bytes() == own:
                lock.remove()
