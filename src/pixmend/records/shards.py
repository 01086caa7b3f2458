"""One shard: its share of the inputs, decoded, framed and written as records by a worker."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, StoppedError
from pixmend.images import (
    Channels,
    channel_count,
    decode_image,
    encode_png,
    fit_square,
    parse_colour,
    to_channels,
)
from pixmend.records.containers import Content
from pixmend.records.contents import contents
from pixmend.records.manifest import PackSettings, read_index, write_index
from pixmend.records.pack_progress import FIRST_REASONS, JobProgress, ProgressFile, ShardResult
from pixmend.records.sources import ImageSource, source_from_line
from pixmend.records.tfrecord import encode_example, frame_record
from pixmend.storage import StorePath

_REPORT_EVERY = 16  # images, besides the first


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs to write one shard; small, whatever the number of images."""

    number: int  # from 0
    path: StorePath
    inputs: StorePath  # what became of each input
    note: StorePath  # written last: the shard is done
    key: str  # digest of all that decides the shard's bytes
    root: StorePath  # of the sources' files
    image_list: Path  # the file of all sources
    start: int  # byte of this shard's first source there
    count: int
    settings: PackSettings  # with ``channels`` decided
    labels: dict[str, int]  # from class text to label
    progress: Path  # the `ProgressFile`

    def lines(self) -> Iterator[bytes]:
        with self.image_list.open("rb") as file:
            file.seek(self.start)
            for _ in range(self.count):
                yield file.readline()


def pack_shard(job: ShardJob, on_report: Callable[[], None] = lambda: None) -> ShardResult:
    """Write a shard, reporting its progress until a stop is requested."""
    with ProgressFile(job.progress) as file:

        def report(progress: JobProgress) -> None:
            if file.stopped:
                raise StoppedError
            file.report(job.number, progress)
            on_report()

        return write_shard(job, map(source_from_line, job.lines()), on_progress=report)


def write_shard(
    job: ShardJob,
    sources: Iterable[ImageSource],
    *,
    on_progress: Callable[[JobProgress], None],
    before: Callable[[int], None] = lambda position: None,
) -> ShardResult:
    """Write a shard, its index and its lines of inputs, each atomically, and last its note.

    ``on_progress`` may raise, and no shard is written. ``before`` gets the position of each source.
    """
    offsets: array[int] = array("Q")
    reasons: list[str] = []
    bad = size = 0
    digest = hashlib.sha256()
    with job.path.writing() as shard, job.inputs.writing() as inputs:
        for done, (source, line, record) in enumerate(_records(job, sources, before), 1):
            if record is not None:
                framed = frame_record(record)
                digest.update(framed)
                offsets.append(size)
                size += shard.write(framed)
            else:
                bad += 1
                reasons.append(f"{source.name}: {line['reason']}")
            inputs.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            if done % _REPORT_EVERY in (0, 1) or done == job.count:
                on_progress(JobProgress(done, bad, source.name, *reasons[:1]))
            del reasons[FIRST_REASONS:]
        write_index(job.path, np.array(offsets, np.uint64))
    sha256 = digest.hexdigest()
    result = ShardResult(job.number, len(offsets), bad, size, sha256, tuple(reasons))
    facts = {"key": job.key, "version": _version(job.path), **asdict(result)}
    job.note.write_bytes(json.dumps(facts).encode())
    return result


def finished_result(job: ShardJob) -> ShardResult | None:
    """Return the result of a shard that is there, whole and of the same inputs, else None."""
    try:
        note = job.note.read_json()
        if note.pop("key") != job.key or not job.inputs.is_file():
            return None
        version = note.pop("version")
        result = ShardResult(**note | {"reasons": tuple(note["reasons"])})
        index = read_index(job.path)
        # In a store, an equal version spares reading the shard.
        same = job.path.local is None and _version(job.path) == version
        whole = len(index) == result.count and (same or job.path.sha256() == result.sha256)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return None
    return result if whole else None


def pixels_of(content: Content) -> tuple[NDArray[Any], str]:
    """Return an input's upright pixels, uint8 or uint16 [H, W, C], and the name of their mode."""
    if isinstance(content, bytes):
        picture = decode_image(content).check_known()
        return picture.pixels, picture.mode
    return content, {1: "L", 3: "RGB", 4: "RGBA"}[content.shape[-1]]


def square_of(
    pixels: NDArray[Any], settings: PackSettings, channels: Channels
) -> NDArray[np.uint8]:
    """Return pixels [H, W, C] as uint8 [size, size, C'] with C' of ``channels``."""
    background = parse_colour(settings.background)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if settings.fit == "pad" and pixels.shape[-1] < channel_count(channels):
        # Else the border of a grey image would be grey, and that of an opaque one opaque.
        pixels = to_channels(pixels, channels, background)
    # Colours are combined after the resampling, which is linear: a large photograph costs a tenth.
    square = fit_square(pixels, settings.size, settings.fit, background)
    return to_channels(square, channels, background)


def _records(
    job: ShardJob, sources: Iterable[ImageSource], before: Callable[[int], None]
) -> Iterator[tuple[ImageSource, dict[str, Any], bytes | None]]:
    """Yield each source with its line of inputs.jsonl and its record, None if it is left out."""
    for position, (source, content) in enumerate(contents(job.root, sources)):
        before(position)
        line: dict[str, Any] = {"name": source.name}
        record = None
        try:
            if isinstance(content, InputError):
                raise content
            encoded = content if isinstance(content, bytes) else content.tobytes()
            line |= {"sha256": hashlib.sha256(encoded).hexdigest(), "bytes": len(encoded)}
            pixels, mode = pixels_of(content)
            height, width = pixels.shape[:2]
            line |= {"height": height, "width": width, "mode": mode, "class": source.class_text}
            record = _record(source, pixels, job)
        except InputError as error:
            line["reason"] = str(error).removeprefix("image: ")
        yield source, line, record


def _record(source: ImageSource, pixels: NDArray[Any], job: ShardJob) -> bytes:
    channels = job.settings.channels
    assert channels is not None
    square = square_of(pixels, job.settings, channels)
    text = source.class_text
    return encode_example(
        {
            "image/encoded": encode_png(square, quick=True),
            "image/format": "png",
            "image/height": square.shape[0],
            "image/width": square.shape[1],
            "image/channels": square.shape[2],
            "image/filename": source.name,
            "image/class/label": -1 if text is None else job.labels[text],
            "image/class/text": text or "",
        }
    )


def _version(path: StorePath) -> str:
    return "" if path.local is not None else path.info().version
