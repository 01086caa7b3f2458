"""The manifest and the shard indices of a record folder.

An index holds the offset of each record of a shard, little-endian::

    8 bytes  magic "PXMINDEX"
    uint64   number of records
    uint32   masked CRC32C of the offsets
    uint32   zero, so that the offsets are aligned
    uint64[] offsets, in bytes
"""

import hashlib
import json
import re
import struct
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pixmend.errors import InputError, MissingError, RecordError, SettingsError
from pixmend.records.settings import PackSettings
from pixmend.records.tfrecord import masked_crc
from pixmend.storage import StorePath, parse_json

MANIFEST_NAME = "manifest.json"
INPUTS_NAME = "inputs.jsonl"
ORIGIN_NAME = ".pack.json"
SHARD_FILE = re.compile(r"images-\d{5,}-of-\d{5,}\.(tfrecord|index)")
_FORMAT = 1


class ShardInfo(BaseModel):
    """One shard: its file's name, images, bytes and SHA-256."""

    model_config = ConfigDict(frozen=True)

    # A name, never a path out of the folder, nor one that no file can have.
    name: str = Field(pattern=r"^[^/\\\x00-\x1f]+\.tfrecord$")
    count: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """The summary of a record folder; `Manifest.read` opens it.

    Attributes
    ----------
    format
        Version of the folder's layout.
    settings
        As packed: ``channels`` is never None here.
    count
        Images, over all shards.
    left_out
        Inputs that could not be used; ``inputs.jsonl`` says which and why.
    classes
        Class texts; the label of a class is its place in this list.
    shards
        In order; image i is the i-th over all of them.
    """

    model_config = ConfigDict(frozen=True)

    format: int = _FORMAT
    settings: PackSettings
    count: int = Field(ge=0)
    left_out: int = Field(ge=0)
    classes: tuple[str, ...] = ()
    shards: tuple[ShardInfo, ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the settings and every shard's SHA-256: equal digests, equal images in equal order."""
        parts = [self.settings.model_dump_json(), *(shard.sha256 for shard in self.shards)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def write(self, folder: StorePath | Path) -> None:
        """Write ``manifest.json`` into ``folder`` atomically."""
        content = self.model_dump(mode="json") | {"digest": self.digest}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (StorePath.of(folder) / MANIFEST_NAME).write_bytes(text.encode())

    @classmethod
    def read(cls, folder: StorePath | Path) -> "Manifest":
        """Read the manifest of a record folder.

        Raises
        ------
        InputError
            No records there, unfinished ones, or a manifest that was altered or is of another
            version.
        """
        path = StorePath.of(folder) / MANIFEST_NAME
        try:
            content = parse_json(path.read_bytes().decode())
        except MissingError:
            raise InputError(_no_records(path.parent)) from None
        except InputError as error:
            raise InputError(f"{error}; {_AGAIN}") from error
        except ValueError as error:
            raise InputError(f"{path}: cannot be read: {error}; {_AGAIN}") from error
        version = content.get("format") if isinstance(content, dict) else None
        if version != _FORMAT:
            raise InputError(
                f"{path}: format {version!r} is not known here (only {_FORMAT}); {_AGAIN}"
            )
        digest = content.pop("digest", None)
        try:
            manifest = cls.model_validate(content)
        except (ValidationError, SettingsError) as error:
            raise InputError(f"{path}: not a manifest of records; {_AGAIN}") from error
        if manifest.digest != digest or manifest.count != sum(s.count for s in manifest.shards):
            raise InputError(f"{path}: altered since it was written; {_AGAIN}")
        return manifest


_AGAIN = "pack the folder again"


def _no_records(folder: StorePath) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; give one that `pixmend pack` wrote"
    if (folder / ORIGIN_NAME).exists():
        return f"{folder}: the packing was not finished; run the same `pixmend pack` again"
    return f"{folder}: holds no records ({MANIFEST_NAME}); make some with `pixmend pack {folder} RECORDS`"


_INDEX_HEADER = struct.Struct("<8sQII")
_INDEX_MAGIC = b"PXMINDEX"


def index_path(shard: StorePath | Path) -> StorePath:
    """Return where the index of ``shard`` lies: beside it, under ``.index``."""
    place = StorePath.of(shard)
    return place.with_name(f"{place.stem}.index")


def write_index(shard: StorePath | Path, offsets: NDArray[np.uint64]) -> None:
    """Write the index of ``shard`` atomically; ``offsets`` is [N]."""
    body = offsets.astype("<u8").tobytes()
    index_path(shard).write_bytes(
        _INDEX_HEADER.pack(_INDEX_MAGIC, len(offsets), masked_crc(body), 0) + body
    )


def read_index(shard: StorePath | Path) -> NDArray[np.int64]:
    """Return the offsets [N] of the records of ``shard``.

    Raises
    ------
    RecordError
        The index is missing, broken or of another kind.
    """
    path = index_path(shard)
    try:
        content = path.read_bytes()
    except InputError as error:
        raise RecordError(f"{error}; {_FIX_INDEX}", shard=str(shard)) from error
    magic, count, crc, _ = (
        _INDEX_HEADER.unpack_from(content) if len(content) >= _INDEX_HEADER.size else (b"", 0, 0, 0)
    )
    body = content[_INDEX_HEADER.size :]
    if magic != _INDEX_MAGIC or len(body) != 8 * count or masked_crc(body) != crc:
        raise RecordError(f"{path}: not an index, or a broken one; {_FIX_INDEX}", shard=str(shard))
    return np.frombuffer(body, "<u8").astype(np.int64)


_FIX_INDEX = "pack the folder again, or read on with --skip-bad"
