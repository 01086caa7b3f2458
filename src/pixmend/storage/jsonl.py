"""A growing file of JSON lines, on this machine or in a store."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from pixmend.storage.local import append_line, rewrite, temporary_file, write_bytes
from pixmend.storage.remote import StorePath

_SECONDS = 10.0  # between two uploads to a store


class JsonlWriter:
    """Appends lines to a file: at once on this machine, every 10 s and at the end in a store.

    ``merge`` makes the text of the file at the start and at the end from what is there. Several
    writers may share a file of this machine. A store's files cannot grow: each update uploads the
    whole file, and the last writer wins.
    """

    def __init__(self, path: StorePath, merge: Callable[[str], str]) -> None:
        self._path = path
        self._merge = merge

    def __enter__(self) -> Self:
        self._cleanup = ExitStack()
        self._file = self._path.local or self._cleanup.enter_context(temporary_file())
        if self._path.local is None and self._path.is_file():
            write_bytes(self._file, self._path.read_bytes())
        rewrite(self._file, self._merge)
        self._upload()
        return self

    def __exit__(self, *_: object) -> None:
        with self._cleanup:
            rewrite(self._file, self._merge)
            self._upload()

    def add(self, line: str) -> None:
        """Append a line."""
        append_line(self._file, line)
        if time.monotonic() - self._sent >= _SECONDS:
            self._upload()

    def _upload(self) -> None:
        if self._path.local is None:
            self._path.upload(self._file)
        self._sent = time.monotonic()
