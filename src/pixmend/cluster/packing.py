"""Shards over a cluster: each worker writes one at a time, whole and noted, or finds that it is there."""

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from pixmend.cluster.board import Note, Reporter
from pixmend.cluster.pool import Pool, RetryPolicy
from pixmend.cluster.session import Cluster, WorkerContract
from pixmend.errors import ClusterError, OutputError, StoppedError
from pixmend.records.pack_progress import ProgressFile, ShardProgress, ShardResult
from pixmend.records.shards import ShardJob, finished_result, write_shard
from pixmend.records.sources import ImageSource, source_from_line
from pixmend.storage import StorePath

_NAMED = 3  # shards that failed, in the message


@dataclass(frozen=True)
class _Share:
    """A shard to write and the lines of its items: workers do not see the driver's listing."""

    job: ShardJob
    lines: bytes

    @property
    def number(self) -> int:
        return self.job.number


@dataclass(frozen=True)
class Packing:
    """An engine for `pixmend.records.pack`: ``workers`` at most, by default one a core of the cluster."""

    cluster: Cluster
    workers: int | None = None

    def run(
        self,
        jobs: Sequence[ShardJob],
        *,
        progress: ProgressFile,
        on_change: Callable[[], None],
        on_result: Callable[[ShardResult], None],
    ) -> None:
        """Write the shards of ``jobs`` but those that are there already.

        Raises
        ------
        OutputError
            Some cannot be written, also at the second try; the others are, and the same command goes on.
        ClusterError
            The cluster cannot do it.
        """
        for place in (jobs[0].root, jobs[0].path):
            if not place.shared:
                raise ClusterError(
                    f"{place}: other processes do not see it; give a folder, s3:// or gs://"
                )
        workers = min(self.workers or self.cluster.cpus, len(jobs))
        pool: Pool[_Share, ShardResult] = Pool(self.cluster, _Packer, workers=workers)

        def note(number: int, found: Note) -> None:
            progress.report(number, ShardProgress(*found))

        shares = (_Share(job, b"".join(job.lines())) for job in jobs)
        for _, result in pool.run(shares, on_note=note, on_tick=on_change):
            on_result(result)
        if pool.failed:
            first = "; ".join(each.reason for each in pool.failed[:_NAMED])
            raise OutputError(
                f"{len(pool.failed)} of {len(jobs)} shards failed twice: {first}; the others are kept: mend that and run "
                "the same command again"
            )


class _Packer:
    """The actor."""

    def begin(self, terms: WorkerContract, board: object) -> None:
        terms.accept()
        self._pen = Reporter(board)

    def work(self, share: _Share, care: RetryPolicy) -> ShardResult:
        job = share.job
        folder = job.note.parent
        if folder.local is not None and not folder.is_folder():
            raise _unseen(job.path.parent)
        if (kept := finished_result(job)) is not None:
            return kept
        _check_source(job.root, share.lines)

        def report(progress: ShardProgress) -> None:
            if self._pen.report(job.number, Note(*progress)):
                raise StoppedError

        def before(position: int) -> None:
            if care.careful:
                self._pen.begin(job.number, position)

        return write_shard(
            job, _items(share.lines, care.left_out), on_progress=report, before=before
        )


def _check_source(root: StorePath, lines: bytes) -> None:
    """Refuse to write a shard where the source is not seen: all its inputs would be left out of it as missing.

    A single image may be gone because somebody removed it; the folder, or a container of images, is not.

    Raises
    ------
    ClusterError
        This machine has no such folder or container.
    """
    if root.local is None:
        return
    if not root.is_folder():
        raise _unseen(root)
    items = map(source_from_line, lines.splitlines())
    for file in {item.file for item in items if item.kind != "image" and not item.reason}:
        if not (root / file).exists():
            raise _unseen(root / file)


def _unseen(place: StorePath) -> ClusterError:
    return ClusterError(
        f"node {platform.node()}: sees no {place}; all machines need the same folders: a shared file system, or URLs"
    )


def _items(lines: bytes, left_out: dict[int, str]) -> Iterable[ImageSource]:
    for position, line in enumerate(lines.splitlines()):
        item = source_from_line(line)
        yield replace(item, reason=left_out[position]) if position in left_out else item
