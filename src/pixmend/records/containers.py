"""Containers of images: zips, and the idx files of MNIST, gzipped or not.

A zip's members are decompressed in memory: no file is written under a name from the archive. An idx file holds
one array of uint8 images; its labels lie in a second file beside it. The idx format (LeCun, Cortes and Burges, "The MNIST database")::

    uint8    0, 0, type (8 is uint8), number of dimensions
    uint32   each dimension, big-endian
    data     in C order
"""

import gzip
import itertools
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError
from pixmend.images import EXTENSIONS
from pixmend.storage import StorePath

MAX_MEMBER_BYTES = 512 * 2**20


class Member(NamedTuple):
    """One image in a container: its name there, its class, where it lies, and why it is left out if it is."""

    name: str
    class_text: str | None
    place: tuple[int, ...]
    reason: str = ""


def class_depth(files: Iterable[str]) -> int:
    """Return the level of folders that tells files apart: the first below which there are several.

    An archive unpacked as English/Fnt/Sample001 ... has its classes two levels down. Where nothing
    branches, the first level is the class.
    """
    common: list[str] | None = None
    branches = False
    for file in files:
        parents = file.split("/")[:-1]
        if common is None:
            common = parents
        elif parents != common:
            branches = True
            pairs = zip(common, parents, strict=False)
            same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
            common = [name for name, _ in same]
    return len(common) if branches and common is not None else 0


_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of name and of extra field
_ENCRYPTED = 0x1
_MAX_RATIO = 1032  # of deflate and gzip; a zip over it has members that share their bytes
_SLACK = 2**20


def zip_members(path: StorePath | Path) -> Iterator[Member]:
    """Yield the images of a zip in order of name.

    A member's place is (header's offset, compressed bytes, bytes, method, CRC-32).

    Raises
    ------
    InputError
        Not a zip, a broken one, or a bomb of overlapping members.
    """
    place = StorePath.of(path)
    try:
        with place.open() as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise InputError(f"{path}: not a zip, or a broken one: {error}; make it anew") from error
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    total = sum(info.file_size for info in infos)
    if total > _MAX_RATIO * place.size() + _SLACK:
        raise InputError(
            f"{path}: a zip bomb: it claims to hold {total:,} bytes, more than zip can; leave it out"
        )
    found = sorted(
        ((_safe_name(info.filename), info) for info in infos if not info.is_dir()),
        key=lambda pair: (pair[0], pair[1].header_offset),
    )
    images = [(name, info) for name, info in found if _is_image(name)]
    depth = class_depth(name for name, _ in images)
    for name, info in images:
        parents = name.split("/")[:-1]
        text = parents[depth] if len(parents) > depth else None
        where = (
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.compress_type,
            info.CRC,
        )
        yield Member(name, text, where, _objection(info))


def read_zip_member(path: StorePath | Path, place: tuple[int, ...]) -> bytes:
    """Return the bytes of the member at ``place``, never more than the archive declared.

    Raises
    ------
    InputError
        The member is damaged or says less than it holds.
    """
    archive = StorePath.of(path)
    try:
        with archive.open() as file:
            return read_open_zip(file, archive.size(), place)
    except OSError as error:
        raise InputError(f"the archive is damaged: {error}") from error


def read_open_zip(file: IO[bytes], file_size: int, place: tuple[int, ...]) -> bytes:
    """Return the bytes of the member at ``place`` of an open archive; see `read_zip_member`."""
    offset, compressed_size, size, method, crc = place
    try:
        file.seek(offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise InputError("the archive is damaged: no member starts where it says")
        file.seek(name_bytes + extra_bytes, 1)
        content = file.read(min(compressed_size, file_size))
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"the archive is damaged: {error}") from error
    if len(content) != size or zlib.crc32(content) != crc:
        raise InputError("the archive is damaged: the member's size or checksum is wrong")
    return content


def _objection(info: zipfile.ZipInfo) -> str:
    """Return why a member cannot be read, or nothing."""
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; zip it without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}; zip it with deflate"
    if info.file_size > MAX_MEMBER_BYTES:
        return f"{info.file_size:,} bytes is over the limit of {MAX_MEMBER_BYTES:,}"
    return ""


def _safe_name(name: str) -> str:
    """Return a member's name without what would make it absolute or climb: it is a label, not a path."""
    parts = name.replace("\\", "/").split("/")
    kept = [part for part in parts if part not in ("", ".", "..") and not part.endswith(":")]
    return "/".join(kept).encode("utf-8", "replace").decode()


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not hidden


_UINT8 = 8
_MAX_SIDE = 8192
_DAMAGE = (OSError, EOFError, zlib.error, struct.error)


def idx_members(path: StorePath) -> Iterator[Member]:
    """Yield the images of an idx file, named by number; their classes are the labels of the file beside it.

    A member's place is its number.

    Raises
    ------
    InputError
        Not an idx file of images, a damaged one, or one whose labels do not fit it.
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


def read_idx_images(
    path: StorePath, numbers: Iterable[int]
) -> Iterator[NDArray[np.uint8] | InputError]:
    """Yield the images [H, W, C] of ascending ``numbers``, or for each what went wrong, reading the file once."""
    with _open_idx(path) as file:
        try:
            shape = _read_idx_shape(file, path)
        except InputError as error:
            yield from (error for _ in numbers)
            return
        size, following = math.prod(shape[1:]), 0
        for number in numbers:
            try:
                file.seek((number - following) * size, 1)
                content = file.read(size)
            except _DAMAGE as error:
                content = b""
                damage = f"damaged: {error}; fetch it again"
            else:
                damage = "cut short; fetch it again"
            following = number + 1
            if len(content) == size:
                height, width, *channels = shape[1:]
                yield np.frombuffer(content, np.uint8).reshape(height, width, *(channels or [1]))
            else:
                yield InputError(damage)


def _open_idx(path: StorePath) -> IO[bytes]:
    try:
        packed = path.suffix.lower() == ".gz"
        return cast("IO[bytes]", gzip.open(path.local or path.open())) if packed else path.open()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


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
    """Return the labels [N] of the images of ``path``, or None when no file of labels lies beside it."""
    name = path.name.removesuffix(".gz")
    for old, new in (("idx3", "idx1"), ("idx4", "idx1"), ("images", "labels")):
        name = name.replace(old, new)
    for candidate in (path.with_name(f"{name}.gz"), path.with_name(name)):
        if name != path.name.removesuffix(".gz") and candidate.is_file():
            with _open_idx(candidate) as file:
                shape = _read_idx_shape(file, candidate)
                try:
                    content = file.read(count + 1)
                except _DAMAGE as error:
                    raise InputError(f"{candidate}: damaged: {error}; fetch it again") from error
            if shape != (count,) or len(content) != count:
                raise InputError(
                    f"{candidate}: holds {list(shape)} labels for {count} images; fetch both again"
                )
            return np.frombuffer(content, np.uint8)
    return None
