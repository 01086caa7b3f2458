"""A growing file of JSON lines, on this machine or in a store."""

import time
from contextlib import ExitStack
from typing import Self

from pixmend.storage.local import append_line, temporary_file, write_text
from pixmend.storage.remote import StorePath

_SECONDS = 10.0  # between two uploads to a store


class JsonlWriter:
    """Appends lines to a file: at once on this machine, every 10 s and at the end in a store.

    A store's files cannot grow, so each update uploads the whole file.
    """

    def __init__(self, path: StorePath, text: str = "") -> None:
        self._path = path
        self._text = text

    def __enter__(self) -> Self:
        self._cleanup = ExitStack()
        self._file = self._path.local or self._cleanup.enter_context(temporary_file())
        write_text(self._file, self._text)
        self._upload()
        return self

    def __exit__(self, *_: object) -> None:
        with self._cleanup:
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
