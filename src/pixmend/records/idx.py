"""The idx files of MNIST and its kin, gzipped or not: one array of uint8 images, and one of labels beside it.

The format (LeCun, Cortes and Burges, "The MNIST database")::

    uint8    0, 0, type (8 is uint8), number of dimensions
    uint32   each dimension, big-endian
    data     in C order
"""

import gzip
import math
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError
from pixmend.records.members import Member
from pixmend.storage import StorePath

_UINT8 = 8
_MAX_SIDE = 8192
_MAX_RATIO = 1032  # what gzip can reach
_DAMAGE = (OSError, EOFError, zlib.error, struct.error)


def members(path: StorePath) -> Iterator[Member]:
    """Yield the images of an idx file, named by number; their classes are the labels of the file beside it.

    A member's place is its number.

    Raises
    ------
    InputError
        Not an idx file of images, a damaged one, or one whose labels do not fit it.
    """
    with _open(path) as file:
        shape = _read_shape(file, path)
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


def read_members(
    path: StorePath, numbers: Iterable[int]
) -> Iterator[NDArray[np.uint8] | InputError]:
    """Yield the images [H, W, C] of ascending ``numbers``, or for each what went wrong, reading the file once."""
    with _open(path) as file:
        try:
            shape = _read_shape(file, path)
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


def _open(path: StorePath) -> IO[bytes]:
    try:
        packed = path.suffix.lower() == ".gz"
        return cast("IO[bytes]", gzip.open(path.local or path.open())) if packed else path.open()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _read_shape(file: IO[bytes], path: StorePath) -> tuple[int, ...]:
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
            with _open(candidate) as file:
                shape = _read_shape(file, candidate)
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
