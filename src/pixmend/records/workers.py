"""Worker processes: one task per shard, with shared progress, stopped at the next image."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

from pixmend.errors import OutputError, StoppedError
from pixmend.records.shards import ShardJob, ShardResult, write_shard
from pixmend.records.shared_progress import Row, SharedProgress
from pixmend.records.sources import source_from_line

_WATCH_SECONDS = 0.2


class Engine(Protocol):
    """Writes shards by other means than local processes."""

    def run(
        self,
        jobs: Sequence[ShardJob],
        *,
        board: SharedProgress,
        on_change: Callable[[], None],
        on_result: Callable[[ShardResult], None],
    ) -> None:
        """Write the shards of ``jobs`` but those that are there already; see `run_jobs` for the rest."""
        ...


def run_jobs(
    jobs: Sequence[ShardJob],
    *,
    workers: int,
    board: SharedProgress,
    on_change: Callable[[], None],
    on_result: Callable[[ShardResult], None],
) -> None:
    """Write the shards of ``jobs``.

    ``on_change`` is called a few times a second, ``on_result`` once for each finished shard; when
    either raises, or the user interrupts, all workers stop at their next image and finished shards
    stay.

    Raises
    ------
    OutputError
        A file cannot be written, or a worker process died.
    """
    if workers == 1:
        for job in jobs:
            on_result(pack_shard(job, on_change))
        return
    # Spawned, for the caller may have threads or a GPU, which a fork would copy in the middle of
    # something.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        waiting = {pool.submit(pack_shard, job) for job in jobs}
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, _WATCH_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                on_result(future.result())
            on_change()
    except BrokenProcessPool:
        raise OutputError(
            f"{jobs[0].path.parent}: a worker process died, perhaps for want of memory; finished shards are kept: run "
            "the same command again with fewer workers (a script that packs with several needs the guard "
            "`if __name__ == '__main__':`)"
        ) from None
    finally:
        board.stop()
        pool.shutdown(cancel_futures=True)


def lines_of(job: ShardJob) -> Iterator[bytes]:
    """Yield the lines of a shard's items from the listing."""
    with job.listing.open("rb") as file:
        file.seek(job.start)
        for _ in range(job.count):
            yield file.readline()


def pack_shard(job: ShardJob, on_report: Callable[[], None] = lambda: None) -> ShardResult:
    """Write a shard, reporting its progress until a stop is requested."""
    with SharedProgress(job.board) as board:

        def report(row: Row) -> None:
            if board.stopped:
                raise StoppedError
            board.report(job.number, row)
            on_report()

        return write_shard(job, map(source_from_line, lines_of(job)), on_row=report)


def _start_worker() -> None:
    # The parent handles interrupts, and workers must not outlive it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
