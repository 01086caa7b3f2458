"""The workers' progress in one small shared file: no queue, no lock, whichever process dies.

Byte 0 is the request to stop; row ``1 + i`` is shard ``i``: images done, images left out, the latest name,
and the first reason.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_ROW = struct.Struct("<II120s400s")


@dataclass(frozen=True)
class PackProgress:
    """Inputs done of all, how many of these are left out, and the name of a recent one."""

    done: int
    total: int
    bad: int
    current: str


class Row(NamedTuple):
    """Inputs done of one shard, how many of these are left out, the latest one's name, the first reason."""

    done: int = 0
    bad: int = 0
    current: str = ""
    reason: str = ""


class SharedProgress:
    """The shared file; open it in each process, as a context."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._file)

    def report(self, shard: int, row: Row) -> None:
        """Write how far shard number ``shard`` is."""
        name, reason = (text.encode("utf-8", "replace") for text in (row.current, row.reason))
        content = _ROW.pack(row.done, row.bad, name[-120:], reason[:400])
        os.pwrite(self._file, content, (1 + shard) * _ROW.size)

    def read(self, shard: int) -> Row:
        """Return how far a shard is; zeros before its first report."""
        content = os.pread(self._file, _ROW.size, (1 + shard) * _ROW.size)
        if len(content) < _ROW.size:
            return Row()
        done, bad, name, reason = _ROW.unpack(content)
        texts = (text.rstrip(b"\0").decode("utf-8", "ignore") for text in (name, reason))
        return Row(done, bad, *texts)

    def stop(self) -> None:
        """Ask all workers to stop at their next image."""
        os.pwrite(self._file, b"\1", 0)

    @property
    def stopped(self) -> bool:
        """Whether somebody asked to stop."""
        return os.pread(self._file, 1, 0) == b"\1"
