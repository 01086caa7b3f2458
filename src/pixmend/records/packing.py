"""From images to records: list the inputs, write each shard of the list, then the manifest."""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from pixmend.errors import InputError, MissingError, OutputError, SettingsError, StoppedError
from pixmend.images import Channels
from pixmend.records.contents import contents
from pixmend.records.folder import PackOrigin, clean, finished_manifest, locked
from pixmend.records.manifest import (
    INPUTS_NAME,
    MANIFEST_NAME,
    ORIGIN_NAME,
    Manifest,
    PackSettings,
    ShardInfo,
)
from pixmend.records.pack_progress import PackProgress, PackSummary, ProgressFile
from pixmend.records.shards import ShardJob, finished_result, pixels_of
from pixmend.records.sources import (
    ImageCollection,
    ImageList,
    find_source,
    write_image_list,
)
from pixmend.records.workers import PackEngine, run_jobs
from pixmend.storage import StorePath, make_folder

_WORK = ".pack"  # the subfolder of an unfinished run
_CHANNEL_SAMPLES = 64  # images that decide the channels
_SMALL_BYTES = 8 * 2**20
_MAX_SPREAD = 16  # shards that a small folder is cut into, so that as many workers have work
_MIN_SPREAD_IMAGES = 64  # ... as long as each has this many
_VERSION = 1  # of a shard's content: raised when equal inputs give other bytes than before


def pack(
    source: StorePath | Path | str,
    out: StorePath | Path | str,
    settings: PackSettings,
    *,
    workers: int | None = None,
    engine: PackEngine | None = None,
    max_bad: int | float | None = None,
    on_progress: Callable[[PackProgress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Manifest:
    """Pack the images of ``source`` into record shards in the folder ``out``; both may be URLs.

    Equal inputs and settings give equal bytes, whatever the number of workers. The same call
    resumes a stopped run: whole shards of unchanged inputs stay. InputError: no image is readable,
    or too many are not. OutputError: ``out`` is not writable or holds something else.

    There are ``workers`` processes (default: one per core; 1: this one), or an ``engine`` in their
    place. At most ``max_bad`` inputs may be unusable: a count, or a share as a float below 1. Where
    ``should_stop`` returns True, workers stop at their next image and a StoppedError is raised.
    """

    def check_stop() -> None:
        if should_stop():
            raise StoppedError

    source, out = StorePath.of(source), StorePath.of(out)
    same = out.relative_to(source) == PurePosixPath()
    collection = find_source(source, outside=None if same else out)
    if not collection.file and same:
        raise OutputError(f"{out}: records cannot go into the source itself; choose another folder")
    if workers is not None and workers < 1:
        raise SettingsError(f"workers: {workers} cannot be used; it should be 1 or more")
    if max_bad is not None and not (max_bad >= 0 and (isinstance(max_bad, int) or max_bad < 1)):
        raise SettingsError(
            f"max_bad: {max_bad!r} cannot be used; give a count, or a share below 1 such as 0.05"
        )
    with _work_folder(out) as work:
        run = _begin(collection, out, settings, work, check_stop)
        manifest = finished_manifest(out, run.origin)
        if manifest is not None:
            # Notes of a process that was killed after it wrote its manifest.
            (out / _WORK).remove_folder()
            return manifest
        with ProgressFile(work / "progress") as progress:
            count = run.image_list.count
            summary = PackSummary(collection.path, count, progress, max_bad, on_progress)
            run.write(summary, workers, engine, check_stop)
            try:
                return run.finish(summary)
            except MissingError:
                # A store has no locks: another run of the same command may have finished first.
                if (manifest := finished_manifest(out, run.origin)) is None:
                    raise
                return manifest


def shard_count(images: int, images_per_shard: int) -> int:
    """Return the number of shards: a function of these numbers alone, never of the machine."""
    spread = min(_MAX_SPREAD, -(-images // _MIN_SPREAD_IMAGES))
    return max(1, -(-images // images_per_shard), spread)


def _begin(
    collection: ImageCollection,
    out: StorePath,
    settings: PackSettings,
    work: Path,
    check_stop: Callable[[], None],
) -> "_Run":
    path = work / "listing.jsonl"
    image_list = write_image_list(collection, path, outside=out, check_stop=check_stop)
    if not image_list.count:
        raise InputError(
            f"{collection.path}: no image in it; give a folder, zip or idx file with images"
        )
    if settings.channels is None:
        channels = _sample_channels(collection, image_list, check_stop)
        settings = settings.model_copy(update={"channels": channels})
    return _Run(collection, out, settings, image_list, work)


@contextlib.contextmanager
def _work_folder(out: StorePath) -> Iterator[Path]:
    """Lock ``out`` and yield its work folder, a temporary local one for a store; empty ones are removed."""
    if out.local is None:
        with locked(out), tempfile.TemporaryDirectory(prefix="pixmend-") as name:
            yield Path(name)
        return
    existed = out.exists()
    work = out.local / _WORK
    with locked(out):
        if work.is_symlink():
            raise OutputError(f"{work}: a link, which could lead to files of others; remove it")
        try:
            make_folder(work)
            StorePath(work / "progress").remove(missing_ok=True)
            yield work
        finally:
            (work / "listing.jsonl").unlink(missing_ok=True)
            (work / "progress").unlink(missing_ok=True)
            for folder in [work] if existed else [work, out.local]:
                with contextlib.suppress(OSError):
                    folder.rmdir()


@dataclass(frozen=True)
class _Run:
    collection: ImageCollection
    out: StorePath
    settings: PackSettings
    image_list: ImageList
    work: Path

    @cached_property
    def origin(self) -> PackOrigin:
        path = self.collection.path
        text = str(path)
        if path.local is not None:
            text = os.fsencode(path.local.resolve()).decode("utf-8", "backslashreplace")
        return PackOrigin(settings=self.settings, source=text, listing=self.image_list.digest)

    @cached_property
    def jobs(self) -> list[ShardJob]:
        """One job per shard: even shares of the list."""
        labels = {text: label for label, text in enumerate(self.image_list.classes)}
        count = shard_count(self.image_list.count, self.settings.images_per_shard)
        common = json.dumps([_VERSION, self.settings.model_dump(), labels], sort_keys=True)
        jobs = []
        for number, share in enumerate(self.image_list.shares(count)):
            first, start, length, digest = share
            name = f"images-{number:05d}-of-{count:05d}"
            job = ShardJob(
                number=number,
                path=self.out / f"{name}.tfrecord",
                inputs=self.out / _WORK / f"{name}.inputs.jsonl",
                note=self.out / _WORK / f"{name}.done.json",
                key=hashlib.sha256(f"{common}{first}:{digest}".encode()).hexdigest(),
                root=self.collection.root,
                image_list=self.image_list.path,
                start=start,
                count=length,
                settings=self.settings,
                labels=labels,
                progress=self.work / "progress",
            )
            jobs.append(job)
        return jobs

    def write(
        self,
        summary: PackSummary,
        workers: int | None,
        engine: PackEngine | None,
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
            summary.update()

        summary.running = {job.number for job in self.jobs}
        if engine is not None:
            engine(self.jobs, summary.progress, on_change, summary.add)
            clean(self.out, names)  # temporary files of workers that died
            return
        for job in self.jobs:
            check_stop()
            if (result := finished_result(job)) is not None:
                summary.add(result)
        rest = [job for job in self.jobs if job.number in summary.running]
        if not (self.collection.root.shared and self.out.shared):
            workers = 1
        workers = min(workers or _default_workers(self.image_list), max(1, len(rest)))
        run_jobs(rest, summary.progress, on_change, summary.add, workers)

    def finish(self, summary: PackSummary) -> Manifest:
        """Merge the inputs' lines and write the manifest, which completes the folder."""
        results = [summary.results[job.number] for job in self.jobs]
        if not any(result.count for result in results):
            clean(self.out, frozenset())
            (self.out / ORIGIN_NAME).remove(missing_ok=True)
            (self.out / _WORK).remove_folder()
            reasons = summary.first_reasons()
            raise InputError(f"{self.collection.path}: no image in it can be read: {reasons}")
        with (self.out / INPUTS_NAME).writing() as merged:
            for job in self.jobs:
                job.inputs.copy_to(merged)
        shards = [
            ShardInfo(name=job.path.name, count=done.count, bytes=done.bytes, sha256=done.sha256)
            for job, done in zip(self.jobs, results, strict=True)
        ]
        manifest = Manifest(
            settings=self.settings,
            count=sum(result.count for result in results),
            left_out=sum(result.bad for result in results),
            classes=self.image_list.classes,
            shards=tuple(shards),
        )
        manifest.write(self.out)
        (self.out / _WORK).remove_folder()
        return manifest


def _default_workers(image_list: ImageList) -> int:
    if image_list.bytes < _SMALL_BYTES:
        return 1
    # Not every system says which cores this process may use.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _sample_channels(
    collection: ImageCollection, image_list: ImageList, check_stop: Callable[[], None]
) -> Channels:
    """Sample the inputs: RGBA if any has transparency, else L if all are grey, else RGB."""
    grey: list[bool] = []
    for _, content in contents(collection.root, image_list.sample(_CHANNEL_SAMPLES)):
        check_stop()
        try:
            if isinstance(content, InputError):
                continue
            pixels, _ = pixels_of(content)
        except InputError:
            continue  # reported when its shard is written
        if pixels.shape[-1] == 4 and bool((pixels[..., 3] < np.iinfo(pixels.dtype).max).any()):
            return "RGBA"
        colour = pixels[..., :3]
        grey.append(bool((colour == colour[..., :1]).all()))
    return "L" if grey and all(grey) else "RGB"
