"""From images to records: list the inputs, cut the list into shards, write each shard, write the manifest."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pixmend.errors import InputError, MissingError, OutputError, SettingsError, StoppedError
from pixmend.images import Channels
from pixmend.records.contents import contents
from pixmend.records.folder import Origin, clean, locked, previous_run
from pixmend.records.listing import Listing, shard_count, write_listing
from pixmend.records.manifest import INPUTS_NAME, MANIFEST_NAME, ORIGIN_NAME, Manifest, ShardInfo
from pixmend.records.settings import PackSettings
from pixmend.records.shards import ShardJob, ShardResult, kept_result, pixels_of
from pixmend.records.shared_progress import PackProgress, SharedProgress
from pixmend.records.sources import Source, find_source
from pixmend.records.summary import Limit, PackSummary
from pixmend.records.workers import Engine, run_jobs
from pixmend.storage import StorePath, make_folder

_WORK = ".pack"  # the sub-folder of an unfinished run
_SAMPLED = 64  # images that decide the channels
_SMALL_BYTES = 8 * 2**20
_VERSION = 1  # of what a shard holds: raised when equal inputs give other bytes than before


def pack(
    source: StorePath | Path | str,
    out: StorePath | Path | str,
    settings: PackSettings,
    *,
    workers: int | None = None,
    engine: Engine | None = None,
    max_bad: int | float | None = None,
    on_progress: Callable[[PackProgress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Manifest:
    """Pack the images of ``source`` into record shards in the folder ``out``; both may be URLs.

    Equal inputs and settings give equal bytes, whatever the number of workers. The same call resumes
    a stopped run: whole shards of unchanged inputs stay. A finished folder returns at once.

    Parameters
    ----------
    source
        A folder, zip, idx file, TFRecord or image; see `find_source`.
    workers
        Processes; by default one a core. With 1, everything happens in this process.
    engine
        Writes the shards instead of local processes; ``workers`` is ignored.
    max_bad
        Most inputs left out, as a count or as a share (a float below 1). By default any number.
    on_progress, should_stop
        Called a few times a second; workers stop at their next image when ``should_stop`` is True.

    Raises
    ------
    InputError
        Nothing to pack, no image readable, or too many that are not.
    OutputError
        ``out`` cannot be written, or holds something else.
    SettingsError
        ``workers`` or ``max_bad`` is out of range.
    StoppedError
        ``should_stop`` returned True; finished shards stay.
    """

    def check_stop() -> None:
        if should_stop():
            raise StoppedError

    out = StorePath.of(out)
    images = _source_outside(StorePath.of(source), out)
    limit = Limit.of(max_bad)
    if workers is not None and workers < 1:
        raise SettingsError(f"workers: {workers} cannot be used; it should be 1 or more")
    with _work_folder(out) as work:
        run = _begin(images, out, settings, work, check_stop)
        finished = previous_run(out, run.origin)
        if finished is not None:
            # Notes of a process killed after it wrote its manifest.
            (out / _WORK).remove_folder()
            return finished
        with SharedProgress(work / "board") as board:
            summary = PackSummary(images.path, len(run.listing), board, limit, on_progress)
            run.write(summary, workers, engine, check_stop)
            return run.finish(summary)


def _source_outside(path: StorePath, out: StorePath) -> Source:
    source = find_source(path, outside=None if _is_same(out, path) else out)
    if not source.file and _is_same(out, source.root):
        raise OutputError(f"{out}: records cannot go into the source itself; choose another folder")
    return source


def _begin(
    source: Source,
    out: StorePath,
    settings: PackSettings,
    work: Path,
    check_stop: Callable[[], None],
) -> "_Run":
    """List the inputs and decide the channels."""
    listing = write_listing(source, work / "listing.jsonl", outside=out, check_stop=check_stop)
    if not len(listing):
        raise InputError(
            f"{source.path}: no image in it; give a folder, zip or idx file with images"
        )
    if settings.channels is None:
        channels = _channels_of(source, listing, check_stop)
        settings = settings.model_copy(update={"channels": channels})
    return _Run(source, out, settings, listing, work)


@contextlib.contextmanager
def _work_folder(out: StorePath) -> Iterator[Path]:
    """Lock ``out`` and yield its work folder; empty folders are removed at the end.

    For a store, the work folder is a temporary folder of this machine.
    """
    if out.local is None:
        with locked(out), tempfile.TemporaryDirectory(prefix="pixmend-") as name:
            yield Path(name)
        return
    existed = out.local.exists()
    work = out.local / _WORK
    with locked(out):
        try:
            make_folder(work)
            (work / "board").unlink(missing_ok=True)
            yield work
        finally:
            (work / "listing.jsonl").unlink(missing_ok=True)
            (work / "board").unlink(missing_ok=True)
            for folder in [work] if existed else [work, out.local]:
                with contextlib.suppress(OSError):
                    folder.rmdir()


@dataclass(frozen=True)
class _Run:
    """The source, output and settings of one packing."""

    source: Source
    out: StorePath
    settings: PackSettings
    listing: Listing
    work: Path

    @cached_property
    def origin(self) -> Origin:
        """What the folder is begun with."""
        source = _printable(self.source.path)
        return Origin(settings=self.settings, source=source, listing=self.listing.digest)

    @cached_property
    def jobs(self) -> list[ShardJob]:
        """One job per shard: even shares of the list."""
        return list(self._jobs())

    def write(
        self,
        summary: PackSummary,
        workers: int | None,
        engine: Engine | None,
        check_stop: Callable[[], None],
    ) -> None:
        """Claim the folder and write the shards that it lacks."""
        # Without a manifest the folder counts as unfinished.
        (self.out / MANIFEST_NAME).remove(missing_ok=True)
        self.origin.claim(self.out)
        names = frozenset(job.path.name for job in self.jobs)
        clean(self.out, names)

        def on_change() -> None:
            check_stop()
            summary.refresh()

        board, on_result = summary.board, summary.add
        if engine is not None:
            summary.begin((), [job.number for job in self.jobs])
            engine.run(self.jobs, board=board, on_change=on_change, on_result=on_result)
            clean(self.out, names)  # temporary files of workers that died
            return
        results: dict[int, ShardResult] = {}
        for job in self.jobs:
            check_stop()
            if (result := kept_result(job)) is not None:
                results[job.number] = result
        rest = [job for job in self.jobs if job.number not in results]
        summary.begin(results.values(), [job.number for job in rest])
        if not (self.source.root.shared and self.out.shared):
            workers = 1
        workers = min(workers or _default_workers(self.listing), max(1, len(rest)))
        run_jobs(rest, workers=workers, board=board, on_change=on_change, on_result=on_result)

    def finish(self, summary: PackSummary) -> Manifest:
        """Merge the inputs' lines and write the manifest, which completes the folder."""
        try:
            return self._finish(summary)
        except MissingError:
            # A store has no locks: another run of the same command may have finished first.
            if (manifest := previous_run(self.out, self.origin)) is None:
                raise
            return manifest

    def _jobs(self) -> Iterator[ShardJob]:
        labels = {text: label for label, text in enumerate(self.listing.classes)}
        total = len(self.listing)
        count = shard_count(total, self.settings.images_per_shard)
        common = json.dumps([_VERSION, self.settings.model_dump(), labels], sort_keys=True)
        for number in range(count):
            start, stop = (total * edge // count for edge in (number, number + 1))
            name = f"images-{number:05d}-of-{count:05d}"
            key = f"{common}{start}:{self.listing.digest_of(start, stop)}"
            work = self.out / _WORK
            yield ShardJob(
                number=number,
                path=self.out / f"{name}.tfrecord",
                inputs=work / f"{name}.inputs.jsonl",
                note=work / f"{name}.done.json",
                key=hashlib.sha256(key.encode()).hexdigest(),
                root=self.source.root,
                listing=self.listing.path,
                start=self.listing.start_of(start),
                count=stop - start,
                settings=self.settings,
                labels=labels,
                board=self.work / "board",
            )

    def _finish(self, summary: PackSummary) -> Manifest:
        results = [summary.results[job.number] for job in self.jobs]
        if not any(result.count for result in results):
            clean(self.out, frozenset())
            (self.out / ORIGIN_NAME).remove(missing_ok=True)
            (self.out / _WORK).remove_folder()
            reasons = summary.first_reasons()
            raise InputError(f"{self.source.path}: no image in it can be read: {reasons}")
        with (self.out / INPUTS_NAME).writing() as merged:
            for job in self.jobs:
                job.inputs.copy_to(merged)
        manifest = Manifest(
            settings=self.settings,
            count=sum(result.count for result in results),
            left_out=sum(result.bad for result in results),
            classes=self.listing.classes,
            shards=tuple(
                ShardInfo(
                    name=job.path.name, count=done.count, bytes=done.bytes, sha256=done.sha256
                )
                for job, done in zip(self.jobs, results, strict=True)
            ),
        )
        manifest.write(self.out)
        (self.out / _WORK).remove_folder()
        return manifest


def _default_workers(listing: Listing) -> int:
    """Return the number of cores, or 1 for small sources."""
    if listing.bytes < _SMALL_BYTES:
        return 1
    # Not every system says which cores this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _channels_of(source: Source, listing: Listing, check_stop: Callable[[], None]) -> Channels:
    """Sample the inputs: RGBA if any has transparency, else L if all are grey, else RGB."""
    sampled = min(_SAMPLED, len(listing))
    numbers = [number * len(listing) // sampled for number in range(sampled)]
    grey: list[bool] = []
    for _, content in contents(source.root, listing.items(numbers)):
        check_stop()
        try:
            if isinstance(content, InputError):
                continue
            pixels, _ = pixels_of(content)
        except InputError:
            continue  # it is reported when its turn comes
        top = np.iinfo(pixels.dtype).max
        if pixels.shape[-1] == 4 and bool((pixels[..., 3] < top).any()):
            return "RGBA"
        colour = pixels[..., :3]
        grey.append(bool((colour == colour[..., :1]).all()))
    return "L" if grey and all(grey) else "RGB"


def _is_same(left: StorePath, right: StorePath) -> bool:
    if left.local is None or right.local is None:
        return left == right
    return left.local.exists() and right.local.exists() and left.local.samefile(right.local)


def _printable(path: StorePath) -> str:
    if path.local is None:
        return str(path)
    return os.fsencode(path.local.resolve()).decode("utf-8", "backslashreplace")
