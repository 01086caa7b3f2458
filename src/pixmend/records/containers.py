"""Containers of images: zips, the idx files of MNIST, and TFRecords of any origin.

``*_members`` lists the images of a container; ``read_*`` yields the contents at given places. Both
raise an InputError where the container itself cannot be read. A zip's members are decompressed in
memory: no file is written under a name from the archive. An idx file holds one array of uint8
images; its labels are in a second file beside it. The idx format (LeCun, Cortes and Burges, "The
MNIST database"), gzipped or not::

    uint8    0, 0, type (8 is uint8), number of dimensions
    uint32   each dimension, big-endian
    data     in C order
"""

import contextlib
import gzip
import itertools
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO, NamedTuple, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, RecordError
from pixmend.images import EXTENSIONS
from pixmend.records.tfrecord import (
    Features,
    decode_example,
    first_bytes,
    first_int,
    map_file,
    read_record_at,
    scan_records,
)
from pixmend.storage import Blocks, Buffer, CachedFile, StorePath

Content: TypeAlias = bytes | NDArray[np.uint8]  # an image file's bytes, or raw pixels [H, W, C]
Place: TypeAlias = tuple[int, ...]  # where in a container, in the terms of its kind

MAX_MEMBER_BYTES = 512 * 2**20
_MAX_SIDE = 8192
_MAX_RATIO = 1032  # of deflate and gzip; a zip over it has members that share their bytes


class Member(NamedTuple):
    """One image in a container: its name and class there, and why it is left out, if it is."""

    name: str
    class_text: str | None
    place: Place
    reason: str = ""


def class_depth(files: Iterable[str]) -> int:
    """Return the level of folders that are the classes: the first with several, or the first of all.

    An archive unpacked as English/Fnt/Sample001 ... has its classes two levels down.
    """
    folders = {tuple(file.split("/")[:-1]) for file in files}
    ends = zip(min(folders), max(folders), strict=False) if len(folders) > 1 else ()
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], ends)))


_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of name and of extra field
_ENCRYPTED = 0x1
_SLACK = 2**20


def zip_members(path: StorePath) -> Iterator[Member]:
    """Yield the images of a zip in order of name; InputError: no zip, a broken one, or a bomb.

    A member's place is (header's offset, compressed bytes, bytes, method, CRC-32).
    """
    try:
        with path.open() as file, zipfile.ZipFile(file) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise InputError(f"{path}: not a zip, or a broken one: {error}; make it anew") from error
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    total = sum(info.file_size for info in infos)
    if total > _MAX_RATIO * path.size() + _SLACK:
        raise InputError(
            f"{path}: a zip bomb: it claims {total:,} bytes, more than a zip can hold; leave it out"
        )
    named = [(_safe_name(info.filename), info) for info in infos]
    images = [(name, info) for name, info in named if _is_visible(name)]
    depth = class_depth(name for name, _ in images if not _is_zip(name))
    for name, info in sorted(images, key=lambda pair: (pair[0], pair[1].header_offset)):
        place = (
            *(info.header_offset, info.compress_size, info.file_size),
            *(info.compress_type, info.CRC),
        )
        if _is_zip(name):
            yield Member(name, None, place, "a zip within a zip; unpack it first")
        else:
            yield Member(name, class_of(name, depth), place, _objection(info))


def class_of(name: str, depth: int) -> str | None:
    """Return the folder at a level of a file's path, or None if the file is above it."""
    parents = name.split("/")[:-1]
    return parents[depth] if len(parents) > depth else None


def read_zip(path: StorePath, places: Iterable[Place]) -> Iterator[bytes | InputError]:
    """Yield the members at ``places``, or their errors; never more bytes than declared."""
    size = path.size()
    with path.open() as file:
        for place in places:
            try:
                yield _read_member(file, size, place)
            except InputError as error:
                yield error


def _read_member(file: IO[bytes], file_size: int, place: Place) -> bytes:
    offset, compressed_size, size, method, crc = place
    try:
        file.seek(offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise InputError("the archive is damaged: no member starts where it says")
        file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
        content = file.read(min(compressed_size, file_size))
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"the archive is damaged: {error}") from error
    if len(content) != size or zlib.crc32(content) != crc:
        raise InputError("the archive is damaged: the member's size or checksum is wrong")
    return content


def _objection(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; zip it without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}; zip it with deflate"
    if info.file_size > MAX_MEMBER_BYTES:
        return f"{info.file_size:,} bytes is over the limit of {MAX_MEMBER_BYTES:,}"
    return ""


def _safe_name(name: str) -> str:
    """Return a member's name without what would make it absolute or climb: a label, not a path."""
    parts = name.replace("\\", "/").split("/")
    safe = [part for part in parts if part not in ("", ".", "..") and not part.endswith(":")]
    return "/".join(safe).encode("utf-8", "replace").decode()


def _is_visible(name: str) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    return PurePosixPath(name).suffix.lower() in {*EXTENSIONS, ".zip"} and not hidden


def _is_zip(name: str) -> bool:
    return name.lower().endswith(".zip")


_UINT8 = 8
_DAMAGE = (OSError, EOFError, zlib.error, struct.error)


def idx_members(path: StorePath) -> Iterator[Member]:
    """Yield the images of an idx file, named and placed by number; a file beside it has their classes.

    InputError: the file is damaged, not of images, or does not fit its labels.
    """
    with _open_idx(path) as file:
        shape = _read_idx_shape(file, path)
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3, 4)):
        raise InputError(f"{path}: an idx array of {list(shape)} is no images; give [N, H, W]")
    if not all(0 < side <= _MAX_SIDE for side in shape[1:]):
        raise InputError(f"{path}: images of {list(shape[1:])} are out of range")
    room = path.size() * (_MAX_RATIO if path.suffix.lower() == ".gz" else 1)
    if 4 + 4 * len(shape) + math.prod(shape) > room:
        raise InputError(f"{path}: cut short: {list(shape)} cannot be in it; fetch it again")
    labels = _labels_beside(path, shape[0])
    width = len(str(max(shape[0] - 1, 0)))
    for number in range(shape[0]):
        text = None if labels is None else str(labels[number])
        yield Member(f"{number:0{width}d}", text, (number,))


def read_idx(path: StorePath, places: Iterable[Place]) -> Iterator[NDArray[np.uint8] | InputError]:
    """Yield the images [H, W, C] at ascending ``places``, or their errors, in one pass."""
    with _open_idx(path) as file:
        height, width, *channels = _read_idx_shape(file, path)[1:]
        size, following = math.prod((height, width, *channels)), 0
        for (number,) in places:
            damage = "cut short"
            try:
                file.seek((number - following) * size, os.SEEK_CUR)
                content = file.read(size)
            except _DAMAGE as error:
                content, damage = b"", f"damaged: {error}"
            following = number + 1
            if len(content) == size:
                yield np.frombuffer(content, np.uint8).reshape(height, width, *(channels or [1]))
            else:
                yield InputError(f"{damage}; fetch it again")


@contextlib.contextmanager
def _open_idx(path: StorePath) -> Iterator[IO[bytes]]:
    with path.open() as file:
        gzipped = path.suffix.lower() == ".gz"
        yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if gzipped else file


def _read_idx_shape(file: IO[bytes], path: StorePath) -> tuple[int, ...]:
    try:
        zeros, kind, dimensions = struct.unpack(">HBB", file.read(4))
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
    except _DAMAGE as error:
        raise InputError(f"{path}: not an idx file, or a damaged one: {error}") from error
    if zeros or kind != _UINT8:
        raise InputError(f"{path}: not an idx file of uint8")
    return shape


def _labels_beside(path: StorePath, count: int) -> NDArray[np.uint8] | None:
    """Return the labels [N] of the images of ``path``, or None if no file beside it holds them."""
    images = path.name.removesuffix(".gz")
    name = images
    for old, new in (("idx3", "idx1"), ("idx4", "idx1"), ("images", "labels")):
        name = name.replace(old, new)
    candidates = [path.with_name(f"{name}.gz"), path.with_name(name)] if name != images else []
    file_path = next(filter(StorePath.is_file, candidates), None)
    if file_path is None:
        return None
    with _open_idx(file_path) as file:
        shape = _read_idx_shape(file, file_path)
        try:
            content = file.read(count + 1)
        except _DAMAGE as error:
            raise InputError(f"{file_path}: damaged: {error}; fetch it again") from error
    if shape != (count,) or len(content) != count:
        raise InputError(
            f"{file_path}: holds {list(shape)} labels for {count} images; fetch both again"
        )
    return np.frombuffer(content, np.uint8)


_MAX_KEYS = 200  # characters of them in a message
_ENCODED_KEYS = ("image/encoded", "image_encoded", "encoded")
_RAW_KEYS = ("image_raw", "image/raw", "image")
_HEIGHT_KEYS = ("height", "image/height")
_WIDTH_KEYS = ("width", "image/width")
_DEPTH_KEYS = ("depth", "channels", "image/channels")
_LABEL_KEYS = ("image/class/label", "label", "image/label", "class/label")
_TEXT_KEYS = ("image/class/text", "text", "label", "image/label", "class/text")
_NAME_KEYS = ("image/filename", "filename", "file_name")
_SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")


def tfrecord_members(path: StorePath) -> Iterator[Member]:
    """Yield the records of a TFRecord file by offset; their names are those in them, or numbers."""
    numbers = itertools.count()
    for offset, payload in scan_records(path):
        try:
            if isinstance(payload, RecordError):
                raise payload
            features = decode_example(payload)
        except RecordError as error:
            yield Member(f"{offset}", None, (offset,), str(error).removeprefix(f"{path}: "))
            continue
        label = first_int(features, _LABEL_KEYS)
        text = _text(features, _TEXT_KEYS) or (str(label) if label >= 0 else None)
        parts = _text(features, _NAME_KEYS).replace("\\", "/").split("/")
        name = "/".join(part for part in parts if part not in ("", ".", ".."))
        number = next(numbers)
        yield Member(name or f"{number:08d}", text, (offset,))


def read_tfrecord(path: StorePath, places: Iterable[Place]) -> Iterator[Content | InputError]:
    """Yield the images at ``places``, or their errors."""
    buffer: Buffer = (
        Blocks([CachedFile(path, path.size(), "")], None).file(0)
        if path.local is None
        else map_file(path)
    )
    for (offset,) in places:
        try:
            payload = read_record_at(buffer, offset, path.name)
            yield image_of_example(decode_example(payload))
        except RecordError as error:
            yield error


def image_of_example(features: Features) -> Content:
    """Return a record's image, by the usual schemas; RecordError if it holds none, or of another length.

    Known are ``image/encoded`` (TensorFlow's own), ``image_raw`` with ``height`` and ``width`` (raw
    bytes HWC; channels from the length, or ``depth``), and ``image`` as an image file.
    """
    if encoded := first_bytes(features, _ENCODED_KEYS):
        return encoded
    content = first_bytes(features, _RAW_KEYS)
    if not content:
        raise RecordError(
            f"holds no image: its keys are {', '.join(sorted(features))[:_MAX_KEYS] or 'none'}; "
            "known are image/encoded, image, or image_raw with height and width"
        )
    height, width = first_int(features, _HEIGHT_KEYS), first_int(features, _WIDTH_KEYS)
    fits = height > 0 and width > 0 and len(content) in [height * width * c for c in (1, 3, 4)]
    # One schema keeps raw pixels under a key, another an image file; a length that fits decides.
    if not fits and content.startswith(_SIGNATURES):
        return content
    return _raw_pixels(content, height, width, first_int(features, _DEPTH_KEYS))


def _raw_pixels(content: bytes, height: int, width: int, depth: int) -> NDArray[np.uint8]:
    if not (0 < height <= _MAX_SIDE and 0 < width <= _MAX_SIDE):
        raise RecordError(f"height {height} and width {width} are out of range, or missing")
    channels, rest = divmod(len(content), height * width)
    if rest or channels not in (1, 3, 4) or depth not in (-1, channels):
        shape = f"{height} x {width}" + (f" x {depth}" if depth > 0 else "")
        raise RecordError(f"image_raw holds {len(content):,} bytes, which is not {shape} of uint8")
    return np.frombuffer(content, np.uint8).reshape(height, width, channels)


def _text(features: Features, keys: Iterable[str]) -> str:
    return first_bytes(features, keys).decode("utf-8", "replace")
