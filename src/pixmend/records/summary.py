"""The progress of all shards together, and the limit of bad inputs."""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from pixmend.errors import InputError, SettingsError
from pixmend.records.shards import FIRST_REASONS, ShardResult
from pixmend.records.shared_progress import PackProgress, Row, SharedProgress
from pixmend.storage import StorePath

_REFRESH_SECONDS = 0.1


@dataclass(frozen=True)
class Limit:
    """How many inputs may be left out: a count, a share, or (both None) any number."""

    count: int | None = None
    share: float | None = None

    @classmethod
    def of(cls, max_bad: int | float | None) -> "Limit":
        """Read a limit as users write it: an int is a count, a float below 1 a share.

        Raises
        ------
        SettingsError
            Neither.
        """
        if max_bad is None:
            return cls()
        if isinstance(max_bad, int) and max_bad >= 0:
            return cls(count=max_bad)
        if isinstance(max_bad, float) and 0 <= max_bad < 1:
            return cls(share=max_bad)
        raise SettingsError(
            f"max_bad: {max_bad!r} cannot be used; give a count, or a share below 1 such as 0.05"
        )

    def passed(self, bad: int, total: int) -> bool:
        """Return whether ``bad`` of ``total`` is too many."""
        if self.count is not None:
            return bad > self.count
        return self.share is not None and bad > self.share * total


@dataclass
class PackSummary:
    """The sum over finished and running shards.

    Raises
    ------
    InputError
        From any method, once more inputs are bad than ``limit`` allows.
    """

    source: StorePath
    total: int
    board: SharedProgress
    limit: Limit
    on_progress: Callable[[PackProgress], None] | None
    results: dict[int, ShardResult] = field(default_factory=dict)
    _running: set[int] = field(default_factory=set)
    _done: int = 0  # of finished shards
    _bad: int = 0
    _next: float = -math.inf

    def begin(self, kept: Iterable[ShardResult], running: Iterable[int]) -> None:
        """Start from the shards of an earlier run, and the numbers of those to do."""
        self.results = {}
        self._running = set(running)
        for result in kept:
            self._count(result)
        self._update()

    def add(self, result: ShardResult) -> None:
        """Count a finished shard."""
        self._count(result)
        self._running.discard(result.number)
        if self._running:
            self.refresh()
        else:
            self._update()

    def refresh(self) -> None:
        """Report the progress, at most every 0.1 s."""
        if time.monotonic() >= self._next:
            self._update()

    def first_reasons(self) -> str:
        """Return why the first few bad inputs are bad."""
        finished = [self.results[number].reasons for number in sorted(self.results)]
        reasons = [reason for reasons in finished for reason in reasons]
        reasons += [row.reason for row in map(self.board.read, sorted(self._running)) if row.reason]
        return "; ".join(reasons[:FIRST_REASONS])

    def _count(self, result: ShardResult) -> None:
        self.results[result.number] = result
        self._done += result.count + result.bad
        self._bad += result.bad

    def _update(self) -> None:
        begun = time.monotonic()
        rows = [self.board.read(number) for number in self._running]
        bad = self._bad + sum(row.bad for row in rows)
        done = self._done + sum(row.done for row in rows)
        # At most a tenth of the time, whatever the number of shards.
        now = time.monotonic()
        self._next = now + max(_REFRESH_SECONDS, 9 * (now - begun))
        if self.on_progress is not None:
            latest = max(rows, key=lambda row: row.done, default=Row())
            self.on_progress(PackProgress(done, self.total, bad, latest.current))
        if self.limit.passed(bad, self.total):
            raise InputError(
                f"{self.source}: {bad} of {self.total} inputs cannot be used, more than allowed: "
                f"{self.first_reasons()}; mend them, or allow more with --max-bad"
            )
