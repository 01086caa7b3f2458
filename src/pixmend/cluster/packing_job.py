"""Packing on a cluster: each worker writes one shard at a time, or finds it finished."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pixmend.cluster.session import Cluster, missing_on_node
from pixmend.cluster.worker_pool import JobWorker, RetryPolicy, WorkerPool
from pixmend.errors import ClusterError, OutputError, StoppedError
from pixmend.records.pack_progress import JobProgress, ProgressFile, ShardResult
from pixmend.records.shards import ShardJob, finished_result, write_shard
from pixmend.records.sources import ImageSource, source_from_line
from pixmend.storage import StorePath


@dataclass(frozen=True)
class _Shard:
    """A shard to write and the lines of its items: workers do not see the driver's listing."""

    job: ShardJob
    lines: bytes

    @property
    def number(self) -> int:
        return self.job.number


@dataclass(frozen=True)
class PackingJob:
    """An engine for `pixmend.records.pack`; by default one worker a core of the cluster."""

    cluster: Cluster
    workers: int | None = None

    def __call__(
        self,
        jobs: Sequence[ShardJob],
        progress: ProgressFile,
        on_change: Callable[[], None],
        on_result: Callable[[ShardResult], None],
    ) -> None:
        """Write the unfinished shards; OutputError: some cannot be written, the others are kept."""
        for path in (jobs[0].root, jobs[0].path):
            if not path.shared:
                raise ClusterError(
                    f"{path}: other processes do not see it; give a folder, s3:// or gs://"
                )
        workers = min(self.workers or self.cluster.cpus, len(jobs))
        pool: WorkerPool[_Shard, ShardResult]
        pool = WorkerPool(self.cluster, PackingWorker, workers=workers)
        shards = (_Shard(job, b"".join(job.lines())) for job in jobs)
        for _, result in pool.run(shards, on_progress=progress.report, on_tick=on_change):
            on_result(result)
        pool.raise_failures(OutputError, f"of {len(jobs)} shards")


class PackingWorker(JobWorker):
    """The actor."""

    def work(self, shard: _Shard, policy: RetryPolicy) -> ShardResult:
        """Write a shard, or return the result of an earlier run."""
        job = shard.job
        folder = job.note.parent
        if folder.local is not None and not folder.is_folder():
            raise missing_on_node(job.path.parent)
        if (finished := finished_result(job)) is not None:
            return finished
        _check_source(job.root, shard.lines)

        def report(progress: JobProgress) -> None:
            if self.reporter.report(job.number, progress):
                raise StoppedError

        def before(position: int) -> None:
            if policy.careful:
                self.reporter.begin(job.number, position)

        items = _items(shard.lines, policy.left_out)
        return write_shard(job, items, on_progress=report, before=before)


def _check_source(root: StorePath, lines: bytes) -> None:
    """Raise ClusterError if this machine lacks the folder or a container; an image may have been removed."""
    if root.local is None:
        return
    if not root.is_folder():
        raise missing_on_node(root)
    items = map(source_from_line, lines.splitlines())
    for file in {item.file for item in items if item.kind != "image" and not item.reason}:
        if not (root / file).exists():
            raise missing_on_node(root / file)


def _items(lines: bytes, left_out: dict[int, str]) -> Iterable[ImageSource]:
    for position, line in enumerate(lines.splitlines()):
        item = source_from_line(line)
        yield item._replace(reason=left_out[position]) if position in left_out else item
