"""The content of items: fetched in order, each container opened once."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, RecordError
from pixmend.records.archives import read_member
from pixmend.records.example import decode_example
from pixmend.records.foreign import foreign_content
from pixmend.records.framing import map_file, read_record_at
from pixmend.records.idx import read_members
from pixmend.records.members import MAX_MEMBER_BYTES
from pixmend.records.sources import Item

__all__ = ["Content", "contents", "sha256"]

Content: TypeAlias = bytes | NDArray[np.uint8]  # an image file's bytes, or raw pixels [H, W, C]


def contents(root: Path, items: Iterable[Item]) -> Iterator[tuple[Item, Content | InputError]]:
    """Yield each item with its content, or with what went wrong: one bad item never loses the rest."""
    for (kind, file), group in itertools.groupby(items, key=lambda item: (item.kind, item.file)):
        path = root / file
        batch = list(group)
        wanted = [item for item in batch if not item.reason]
        reader = {"image": _files, "zip": _zipped, "idx": _idx, "tfrecord": _recorded}[kind]
        found = reader(path, wanted)
        for item in batch:
            yield item, InputError(item.reason) if item.reason else next(found)


def sha256(content: Content) -> str:
    """Return the SHA-256 of an image file's bytes, or of raw pixels in C order, in hexadecimal."""
    plain = content if isinstance(content, bytes) else content.tobytes()
    return hashlib.sha256(plain).hexdigest()


def _files(path: Path, items: list[Item]) -> Iterator[Content | InputError]:
    for _ in items:
        try:
            with path.open("rb") as file:
                content = file.read(MAX_MEMBER_BYTES + 1)
        except OSError as error:
            yield InputError(f"cannot be read: {error.strerror or error}")
            continue
        if len(content) > MAX_MEMBER_BYTES:
            yield InputError(f"over the limit of {MAX_MEMBER_BYTES >> 20} MiB a file")
        elif not content:
            yield InputError("the file is empty")
        else:
            yield content


def _zipped(path: Path, items: list[Item]) -> Iterator[Content | InputError]:
    for item in items:
        try:
            yield read_member(path, item.place)
        except InputError as error:
            yield error


def _idx(path: Path, items: list[Item]) -> Iterator[Content | InputError]:
    try:
        yield from read_members(path, (item.place[0] for item in items))
    except InputError as error:
        yield from (error for _ in items)


def _recorded(path: Path, items: list[Item]) -> Iterator[Content | InputError]:
    try:
        buffer = map_file(path)
    except InputError as error:
        yield from (error for _ in items)
        return
    for item in items:
        try:
            payload = read_record_at(buffer, item.place[0], path.name)
            yield foreign_content(decode_example(payload))
        except RecordError as error:
            yield error
