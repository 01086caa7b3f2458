"""TFRecords that others wrote: what their usual schemas say, as pixels.

Known are ``image/encoded`` (TensorFlow's own), ``height``, ``width`` and ``image_raw`` (raw bytes
HWC; channels from the length, or from ``depth``), and ``image`` as an encoded file, each with the
labels that go with it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, RecordError
from pixmend.images import decode_image
from pixmend.records.containers import Member
from pixmend.records.tfrecord import Features, decode_example, first_bytes, first_int, read_records
from pixmend.storage import StorePath

_ENCODED_KEYS = ("image/encoded", "image_encoded", "encoded")
_RAW_KEYS = ("image_raw", "image/raw", "image")
_HEIGHT_KEYS = ("height", "image/height")
_WIDTH_KEYS = ("width", "image/width")
_LABEL_KEYS = ("image/class/label", "label", "image/label", "class/label")
_TEXT_KEYS = ("image/class/text", "text", "label", "image/label", "class/text")
_NAME_KEYS = ("image/filename", "filename", "file_name")
_DEPTH_KEYS = ("depth", "channels", "image/channels")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_MAX_SIDE = 8192


@dataclass(frozen=True)
class ForeignImage:
    """An image of a foreign record.

    Attributes
    ----------
    pixels
        uint8 (uint16 for 16-bit grey) [H, W, C] with C of 1, 3 or 4.
    label
        Its class number, -1 if none.
    text, filename
        Its class and file name, empty if not given.
    """

    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    label: int
    text: str
    filename: str


def read_foreign(paths: Iterable[StorePath | Path]) -> Iterator[ForeignImage]:
    """Yield the images of TFRecord files, in order.

    Raises
    ------
    RecordError
        A record is broken or of no known schema; names the shard and the offset.
    """
    for path in paths:
        for offset, payload in read_records(path):
            try:
                features = decode_example(payload)
                content = foreign_content(features)
                pixels = decode_image(content).pixels if isinstance(content, bytes) else content
            except InputError as error:
                raise RecordError(
                    f"{path}: record at byte {offset:,}: {error}", shard=str(path), offset=offset
                ) from error
            yield ForeignImage(pixels, _label(features), _text(features), _name(features))


def tfrecord_members(path: StorePath | Path) -> Iterator[Member]:
    """Yield the records of a TFRecord file, named by the file name in them or else by number.

    A member's place is its offset. A broken record is a member that is left out.
    """
    broken: list[RecordError] = []
    number = 0
    for offset, payload in read_records(path, skip_bad=True, on_bad=broken.append):
        yield from _reported(broken, path)
        try:
            features = decode_example(payload)
        except RecordError as error:
            yield Member(f"{offset}", None, (offset,), str(error))
            continue
        text = _text(features)
        if not text and (label := _label(features)) >= 0:
            text = str(label)
        name = _name(features).replace("\\", "/")
        name = "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
        yield Member(name or f"{number:08d}", text or None, (offset,))
        number += 1
    yield from _reported(broken, path)


def foreign_content(features: Features) -> bytes | NDArray[np.uint8]:
    """Return a record's image: the bytes of an image file, or raw pixels uint8 [H, W, C].

    Raises
    ------
    RecordError
        No known key holds an image, or its length does not fit its height and width.
    """
    encoded = first_bytes(features, _ENCODED_KEYS)
    if encoded:
        return encoded
    content = first_bytes(features, _RAW_KEYS)
    if not content:
        raise RecordError(
            f"holds no image: its keys are {', '.join(sorted(features)) or 'none'}; known are image/encoded, image, "
            "or image_raw with height and width"
        )
    height, width = first_int(features, _HEIGHT_KEYS), first_int(features, _WIDTH_KEYS)
    fits = height > 0 and width > 0 and len(content) in [height * width * c for c in (1, 3, 4)]
    # The same key names raw pixels in one schema and an image file in another; a length that fits
    # decides.
    if not fits and content.startswith(_SIGNATURES):
        return content
    return _raw_pixels(content, height, width, first_int(features, _DEPTH_KEYS))


def _raw_pixels(content: bytes, height: int, width: int, declared: int) -> NDArray[np.uint8]:
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise RecordError(f"height {height} and width {width} are out of range, or missing")
    channels, rest = divmod(len(content), height * width)
    if rest or channels not in (1, 3, 4) or declared not in (-1, channels):
        wanted = f"{height} x {width}" + (f" x {declared}" if declared > 0 else "")
        raise RecordError(f"image_raw holds {len(content):,} bytes, which is not {wanted} of uint8")
    return np.frombuffer(content, np.uint8).reshape(height, width, channels)


def _reported(broken: list[RecordError], path: StorePath | Path) -> Iterator[Member]:
    for error in broken:
        yield Member(f"{error.offset}", None, (error.offset,), str(error).removeprefix(f"{path}: "))
    broken.clear()


def _label(features: Features) -> int:
    return first_int(features, _LABEL_KEYS)


def _text(features: Features) -> str:
    return first_bytes(features, _TEXT_KEYS).decode("utf-8", "replace")


def _name(features: Features) -> str:
    return first_bytes(features, _NAME_KEYS).decode("utf-8", "replace")
