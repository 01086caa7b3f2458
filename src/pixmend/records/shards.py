"""One shard: its share of the inputs, decoded, fitted and written as records by a worker."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

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
from pixmend.records.pack_progress import (
    FIRST_REASONS,
    ProgressFile,
    ShardProgress,
    ShardResult,
)
from pixmend.records.sources import ImageSource, source_from_line
from pixmend.records.tfrecord import encode_example, write_record
from pixmend.storage import StorePath, parse_json

_REPORT_EVERY = 16  # images, besides the first


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs to write one shard; small, whatever the number of images.

    Attributes
    ----------
    number
        Which shard, from 0.
    path, inputs
        The shard to write, and the file of what became of each input.
    note, key
        The file that says that the shard is done, and the digest of all that decides its bytes.
    root
        The folder that the sources' files are relative to.
    image_list, start, count
        The file of sources, the byte at which this shard's begin, and how many there are.
    settings
        With ``channels`` decided.
    labels
        From class text to label.
    progress
        The `ProgressFile`.
    """

    number: int
    path: StorePath
    inputs: StorePath
    note: StorePath
    key: str
    root: StorePath
    image_list: Path
    start: int
    count: int
    settings: PackSettings
    labels: dict[str, int]
    progress: Path

    def lines(self) -> Iterator[bytes]:
        """Yield the lines of the shard's sources."""
        with self.image_list.open("rb") as file:
            file.seek(self.start)
            for _ in range(self.count):
                yield file.readline()


def pack_shard(job: ShardJob, on_report: Callable[[], None] = lambda: None) -> ShardResult:
    """Write a shard, reporting its progress until a stop is requested."""
    with ProgressFile(job.progress) as file:

        def report(progress: ShardProgress) -> None:
            if file.stopped:
                raise StoppedError
            file.report(job.number, progress)
            on_report()

        return write_shard(job, map(source_from_line, job.lines()), on_progress=report)


def write_shard(
    job: ShardJob,
    sources: Iterable[ImageSource],
    *,
    on_progress: Callable[[ShardProgress], None],
    before: Callable[[int], None] = lambda position: None,
) -> ShardResult:
    """Write a shard, its index and its lines of inputs, each atomically, and last its note.

    Parameters
    ----------
    on_progress
        May raise to stop; then no shard is written.
    before
        Called with the position of each source before it is decoded.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    offsets: array[int] = array("Q")
    reasons: list[str] = []
    bad = 0
    with job.path.writing() as file, job.inputs.writing() as inputs:
        shard = _HashingFile(file)
        for done, (source, line, record) in enumerate(_records(job, sources, before), 1):
            if record is not None:
                offsets.append(write_record(shard, record))
            else:
                bad += 1
                reasons.append(f"{source.name}: {line['reason']}")
            inputs.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            if done % _REPORT_EVERY in (0, 1) or done == job.count:
                on_progress(ShardProgress(done, bad, source.name, *reasons[:1]))
            del reasons[FIRST_REASONS:]
        write_index(job.path, np.array(offsets, np.uint64))
        size, sha256 = shard.tell(), shard.sha256.hexdigest()
    result = ShardResult(job.number, len(offsets), bad, size, sha256, tuple(reasons))
    facts = {"key": job.key, "version": _version(job.path), **asdict(result)}
    job.note.write_bytes(json.dumps(facts).encode())
    return result


def finished_result(job: ShardJob) -> ShardResult | None:
    """Return the result of a shard that is there, whole and of the same inputs, else None."""
    try:
        note = parse_json(job.note.read_bytes())
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
    """Return an input's pixels, uint8 or uint16 [H, W, C] and upright, and the name of their mode.

    Raises
    ------
    ImageError
        Not an image, damaged, or over the limits.
    """
    if isinstance(content, bytes):
        picture = decode_image(content)
        return picture.pixels, picture.mode
    return content, {1: "L", 3: "RGB", 4: "RGBA"}[content.shape[-1]]


def square_of(
    pixels: NDArray[Any], settings: PackSettings, channels: Channels
) -> NDArray[np.uint8]:
    """Return pixels [H, W, C] as uint8 [size, size, C'] with C' of ``channels``.

    Colours are combined after the resampling, on the small image: resampling is linear, so the
    order changes a level at most, and a large photograph costs a tenth.
    """
    background = parse_colour(settings.background)
    if pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if settings.fit == "pad" and pixels.shape[-1] < channel_count(channels):
        # Else the border of a grey image would be grey, and that of an opaque one opaque.
        pixels = to_channels(pixels, channels, background)
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


class _HashingFile:
    """A file being written, with the SHA-256 of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self._file.tell()
