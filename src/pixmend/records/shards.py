"""One shard: its share of the inputs, decoded, fitted and written as records. Runs in a worker process."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError
from pixmend.images import (
    Channels,
    channel_count,
    decode_image,
    encode_png,
    fit_square,
    parse_colour,
    to_channels,
)
from pixmend.records.contents import Content, contents, sha256
from pixmend.records.manifest import read_index, write_index
from pixmend.records.settings import PackSettings
from pixmend.records.shared_progress import Row
from pixmend.records.sources import ImageSource
from pixmend.records.tfrecord import encode_example, write_record
from pixmend.storage import StorePath, parse_json

FIRST_REASONS = 3  # how many of the inputs left out are named in messages
_LOOK_EVERY = 16  # images between two reports, besides the first


@dataclass(frozen=True)
class ShardJob:
    """What a worker needs to write one shard; small, whatever the number of images.

    Attributes
    ----------
    number
        Which shard, from 0: its row on the board.
    path
        The shard to write; its index and inputs go beside it.
    inputs
        Where to write what became of each input, one line of JSON each.
    note, key
        Where to write that the shard is done, and the digest of all that decides its bytes.
    root
        The folder that items' files are relative to.
    listing, start, count
        The file of items, the byte at which this shard's begin, and how many there are.
    settings
        With ``channels`` decided.
    labels
        Class text to label.
    board
        The file of progress and of the stop request.
    """

    number: int
    path: StorePath
    inputs: StorePath
    note: StorePath
    key: str
    root: StorePath
    listing: Path
    start: int
    count: int
    settings: PackSettings
    labels: dict[str, int]
    board: Path


@dataclass(frozen=True)
class ShardResult:
    """The result of a shard: its images, inputs left out, bytes, SHA-256 and the first reasons."""

    number: int
    count: int
    bad: int
    bytes: int
    sha256: str
    reasons: tuple[str, ...]


def write_shard(
    job: ShardJob,
    items: Iterable[ImageSource],
    *,
    on_row: Callable[[Row], None],
    before: Callable[[int], None] = lambda position: None,
) -> ShardResult:
    """Write one shard of these items, its index and its lines of inputs, each atomically, and last the note that it is done.

    Parameters
    ----------
    on_row
        Called with the progress; may raise, and no shard is written.
    before
        Called with the position of each item before it is decoded.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    offsets: array[int] = array("Q")
    reasons: list[str] = []
    bad = 0
    with job.path.writing() as raw, job.inputs.writing() as log:
        shard = _Hashed(raw)
        for done, (item, line, record) in enumerate(_records(job, items, before), 1):
            if record is None:
                bad += 1
                if len(reasons) < FIRST_REASONS:
                    reasons.append(f"{item.name}: {line['reason']}")
            else:
                offsets.append(write_record(shard, record))
            log.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            if done % _LOOK_EVERY in (0, 1) or done == job.count:
                on_row(Row(done, bad, item.name, *reasons[:1]))
        write_index(job.path, np.array(offsets, np.uint64))
    result = ShardResult(
        job.number, len(offsets), bad, shard.tell(), shard.hexdigest(), tuple(reasons)
    )
    facts = {"key": job.key, "version": _version(job.path), **asdict(result)}
    job.note.write_bytes(json.dumps(facts).encode())
    return result


def kept_result(job: ShardJob) -> ShardResult | None:
    """Return the result of a shard that an earlier run finished from the same inputs, or None if it did not."""
    try:
        note = parse_json(job.note.read_bytes())
        if note.pop("key") != job.key or not job.inputs.is_file():
            return None
        version = note.pop("version")
        result = ShardResult(**note | {"reasons": tuple(note["reasons"])})
        index = read_index(job.path)
        # A store's own version of the file spares fetching it all; another run may have left its own.
        same = job.path.local is None and _version(job.path) == version
        whole = len(index) == result.count and (same or job.path.sha256() == result.sha256)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return None
    return result if whole else None


def pixels_of(content: Content) -> tuple[NDArray[Any], str]:
    """Return an input's pixels uint8 or uint16 [H, W, C], upright, and the name of their mode.

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
    job: ShardJob, items: Iterable[ImageSource], before: Callable[[int], None]
) -> Iterator[tuple[ImageSource, dict[str, Any], bytes | None]]:
    """Yield each item with its line of inputs and its record, None if it is left out."""
    for position, (item, content) in enumerate(contents(job.root, items)):
        before(position)
        line: dict[str, Any] = {"name": item.name}
        record = None
        try:
            if isinstance(content, InputError):
                raise content
            line |= {"sha256": sha256(content), "bytes": _size(content)}
            pixels, mode = pixels_of(content)
            height, width = pixels.shape[:2]
            line |= {"height": height, "width": width, "mode": mode, "class": item.class_text}
            record = _record(item, pixels, job)
        except InputError as error:
            line["reason"] = str(error).removeprefix("image: ")
        yield item, line, record


def _record(item: ImageSource, pixels: NDArray[Any], job: ShardJob) -> bytes:
    channels = job.settings.channels
    assert channels is not None
    square = square_of(pixels, job.settings, channels)
    text = item.class_text
    return encode_example(
        {
            "image/encoded": encode_png(square, quick=True),
            "image/format": "png",
            "image/height": square.shape[0],
            "image/width": square.shape[1],
            "image/channels": square.shape[2],
            "image/filename": item.name,
            "image/class/label": -1 if text is None else job.labels[text],
            "image/class/text": text or "",
        }
    )


def _version(path: StorePath) -> str:
    return "" if path.local is not None else path.info().version


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.nbytes


class _Hashed:
    """A file being written whose SHA-256 grows with it, so that it need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = hashlib.sha256()
        self._bytes = 0

    def write(self, content: bytes) -> int:
        self._hash.update(content)
        self._bytes += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self._bytes

    def hexdigest(self) -> str:
        return self._hash.hexdigest()
