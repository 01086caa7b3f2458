"""A growing file of lines, on this machine or in a store."""

import tempfile
import time
from types import TracebackType
from typing import IO, Self

from pixmend.errors import OutputError
from pixmend.storage.local import append_line, reason_of
from pixmend.storage.remote import StorePath

_SECONDS = 10.0  # between two times that the lines are sent to a store


class JsonlWriter:
    """JsonlWriter that are in ``place`` soon after they were added: at once on this machine, within seconds and at the end in a store.

    A store's files cannot grow, so it gets them all again, fewer times than there are lines.
    """

    def __init__(self, place: StorePath, text: str = "") -> None:
        self._place = place
        self._kept: IO[bytes] | None = None
        self._sent = time.monotonic()
        place.write_bytes(text.encode())
        if place.local is None:
            self._kept = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the end of the block
            self._keep(text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._kept is not None:
            with self._kept:
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
        self._keep(f"{line}\n".encode())
        if time.monotonic() - self._sent >= _SECONDS:
            self._send()

    def _keep(self, content: bytes) -> None:
        assert self._kept is not None
        try:
            self._kept.write(content)
        except OSError as error:
            raise OutputError(f"{self._place}: cannot be kept: {reason_of(error)}") from error

    def _send(self) -> None:
        assert self._kept is not None
        self._kept.seek(0)
        with self._place.writing() as file:
            while part := self._kept.read(2**20):
                file.write(part)
        self._sent = time.monotonic()
