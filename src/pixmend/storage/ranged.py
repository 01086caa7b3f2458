"""A store's file read by ranges: as a seekable file, and as a sliceable buffer."""

import io
import threading
from typing import IO, Protocol, cast

_WINDOW = 2**20  # bytes fetched at once


class RangeBuffer(Protocol):
    """A buffer that can be sliced like bytes, such as a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...


class Readable(Protocol):
    """A file that can be read by ranges, such as a `StorePath`."""

    def size(self) -> int: ...  # noqa: D102
    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes: ...  # noqa: D102


class Ranged:
    """A file as a buffer: slices are fetched on demand, in windows of at least 1 MiB."""

    def __init__(self, file: Readable, size: int | None = None) -> None:
        self._source = file
        self._size = file.size() if size is None else size
        self._start = 0
        self._window = b""
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: slice, /) -> bytes:
        start, stop, _ = key.indices(self._size)
        if stop <= start:
            return b""
        with self._lock:
            if not (self._start <= start and stop <= self._start + len(self._window)):
                self._window = self._source.read_bytes(
                    start, min(max(stop, start + _WINDOW), self._size)
                )
                self._start = start
            return self._window[start - self._start : stop - self._start]


def open_ranged(file: Readable) -> IO[bytes]:
    """Open a store's file for reading; it is fetched as it is read."""
    return cast("IO[bytes]", io.BufferedReader(_File(file), _WINDOW))


class _File(io.RawIOBase):
    def __init__(self, file: Readable) -> None:
        self._source = file
        self._size = file.size()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        stop = min(self._at + len(buffer), self._size)
        content = self._source.read_bytes(self._at, stop)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)
