"""Worker processes: one task per shard, with shared progress, stopped at the next image."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeAlias

from pixmend.errors import OutputError
from pixmend.records.pack_progress import ProgressFile, ShardResult
from pixmend.records.shards import ShardJob, pack_shard

_POLL_SECONDS = 0.2


# Writes shards by other means than local processes, with the first arguments of `run_jobs`.
PackEngine: TypeAlias = Callable[
    [Sequence[ShardJob], ProgressFile, Callable[[], None], Callable[[ShardResult], None]], None
]


def run_jobs(
    jobs: Sequence[ShardJob],
    progress: ProgressFile,
    on_change: Callable[[], None],
    on_result: Callable[[ShardResult], None],
    workers: int,
) -> None:
    """Write the shards of ``jobs``, with 1 worker in this process; OutputError: a worker died.

    ``on_change`` is called a few times a second, ``on_result`` with each finished shard. When
    either raises, or on Ctrl-C, all workers stop at their next image; finished shards stay.
    """
    if workers == 1:
        for job in jobs:
            on_result(pack_shard(job, on_change))
        return
    # Spawned, because a fork would copy the caller's threads and GPU state.
    pool = concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        waiting = {pool.submit(pack_shard, job) for job in jobs}
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                on_result(future.result())
            on_change()
    except BrokenProcessPool:
        raise OutputError(
            f"{jobs[0].path.parent}: a worker process died, perhaps for lack of memory; finished "
            "shards are kept: run the same command again with fewer workers (a script that packs "
            "with several needs the guard `if __name__ == '__main__':`)"
        ) from None
    finally:
        progress.stop()
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    # The parent handles interrupts, and workers must not outlive it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
