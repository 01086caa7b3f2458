"""A growing file of lines, on this machine or in a store."""

import tempfile
import time
from types import TracebackType
from typing import IO, Self

from pixmend.errors import OutputError
from pixmend.storage.local import append_line, reason_of
from pixmend.storage.remote import StorePath

_SECONDS = 10.0  # between two uploads to a store


class JsonlWriter:
    """Appends lines to a file: at once on this machine, every 10 s and at the end in a store.

    A store's files cannot grow, so each update writes the whole file.
    """

    def __init__(self, place: StorePath, text: str = "") -> None:
        self._place = place
        self._buffer: IO[bytes] | None = None
        self._sent = time.monotonic()
        place.write_bytes(text.encode())
        if place.local is None:
            self._buffer = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the block
            self._append(text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._buffer is not None:
            with self._buffer:
                self._send()

    def add(self, line: str) -> None:
        """Add a line.

        Raises
        ------
        OutputError
            It cannot be written.
        """
        if self._place.local is not None:
            append_line(self._place.local, line)
            return
        self._append(f"{line}\n".encode())
        if time.monotonic() - self._sent >= _SECONDS:
            self._send()

    def _append(self, content: bytes) -> None:
        assert self._buffer is not None
        try:
            self._buffer.write(content)
        except OSError as error:
            raise OutputError(f"{self._place}: cannot be kept: {reason_of(error)}") from error

    def _send(self) -> None:
        assert self._buffer is not None
        self._buffer.seek(0)
        with self._place.writing() as file:
            while part := self._buffer.read(2**20):
                file.write(part)
        self._sent = time.monotonic()
