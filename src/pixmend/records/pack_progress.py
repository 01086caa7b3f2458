"""The progress of packing: of each shard, in a file that all processes share, and of all."""

import math
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from pixmend.errors import InputError
from pixmend.storage import StorePath

FIRST_REASONS = 3  # how many of the inputs left out are named in messages
_RECORD = struct.Struct("<II120s400s")
_UPDATE_SECONDS = 0.1


class PackProgress(NamedTuple):
    """Inputs done of all, how many of these are left out, and the name of a recent one."""

    done: int
    total: int
    bad: int
    current: str


class JobProgress(NamedTuple):
    """Inputs of a job that are done, and left out of it; the latest name and the first reason."""

    done: int = 0
    bad: int = 0
    current: str = ""
    reason: str = ""


@dataclass(frozen=True)
class ShardResult:
    """A finished shard: its images, inputs left out, bytes, SHA-256 and the first reasons."""

    number: int
    count: int
    bad: int
    bytes: int
    sha256: str
    reasons: tuple[str, ...]


class ProgressFile:
    """The workers' progress in one small file, opened by each process: no queue, no lock.

    Byte 0 is the request to stop; record ``1 + i`` is the progress of shard ``i``.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def report(self, shard: int, progress: JobProgress) -> None:
        done, bad, *texts = progress
        name, reason = (text.encode("utf-8", "replace") for text in texts)
        record = _RECORD.pack(done, bad, name[-120:], reason[:400])
        os.pwrite(self._file, record, (1 + shard) * _RECORD.size)

    def read(self, shard: int) -> JobProgress:
        """Return the progress of a shard; zeros before its first report."""
        record = os.pread(self._file, _RECORD.size, (1 + shard) * _RECORD.size)
        if len(record) < _RECORD.size:
            return JobProgress()
        done, bad, *texts = _RECORD.unpack(record)
        name, reason = (text.rstrip(b"\0").decode("utf-8", "ignore") for text in texts)
        return JobProgress(done, bad, name, reason)

    def stop(self) -> None:
        os.pwrite(self._file, b"\1", 0)

    @property
    def stopped(self) -> bool:
        return os.pread(self._file, 1, 0) == b"\1"


@dataclass
class PackSummary:
    """The sum over finished and running shards; InputError once more than ``max_bad`` inputs are bad."""

    source: StorePath
    total: int
    progress: ProgressFile
    max_bad: int | float | None  # a count, or a share of ``total``
    on_progress: Callable[[PackProgress], None] | None
    results: dict[int, ShardResult] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    _next_update: float = -math.inf

    def add(self, result: ShardResult) -> None:
        self.results[result.number] = result
        self.running.discard(result.number)
        if not self.running:
            self._next_update = -math.inf
        self.update()

    def update(self) -> None:
        """Report the progress, at most every 0.1 s and in a tenth of the time."""
        begun = time.monotonic()
        if begun < self._next_update:
            return
        results = self.results.values()
        running = [self.progress.read(number) for number in self.running]
        bad = sum(each.bad for each in results) + sum(each.bad for each in running)
        done = sum(each.count + each.bad for each in results) + sum(each.done for each in running)
        now = time.monotonic()
        self._next_update = now + max(_UPDATE_SECONDS, 9 * (now - begun))
        if self.on_progress is not None:
            latest = max(running, key=lambda shard: shard.done, default=JobProgress())
            self.on_progress(PackProgress(done, self.total, bad, latest.current))
        limit = math.inf if self.max_bad is None else self.max_bad
        if bad > (limit * self.total if isinstance(self.max_bad, float) else limit):
            raise InputError(
                f"{self.source}: {bad} of {self.total} inputs cannot be used, more than allowed: "
                f"{self.first_reasons()}; fix them, or allow more with --max-bad"
            )

    def first_reasons(self) -> str:
        results = [self.results[number] for number in sorted(self.results)]
        reasons = [reason for result in results for reason in result.reasons]
        running = [self.progress.read(number).reason for number in sorted(self.running)]
        return "; ".join([*reasons, *filter(None, running)][:FIRST_REASONS])
