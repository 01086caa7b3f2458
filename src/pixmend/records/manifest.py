"""The settings, manifest and shard indices of a record folder.

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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from pixmend.errors import InputError, MissingError, RecordError, SettingsError
from pixmend.images import Channels, Fit, parse_colour
from pixmend.records.tfrecord import masked_crc
from pixmend.storage import StorePath

MANIFEST_NAME = "manifest.json"
INPUTS_NAME = "inputs.jsonl"
ORIGIN_NAME = ".pack.json"
SHARD_FILE = re.compile(r"images-\d{5,}-of-\d{5,}\.(tfrecord|index)")
_FORMAT = 1
_FIX = "pack the folder again"
_MAX_INDEX = 2**20  # bytes; a shard has at most 100,000 images
FIX_SHARD = "pack the folder again, or train on the rest with --skip-bad"


class PackSettings(BaseModel):
    """What decides the bytes of the shards, besides the images; a SettingsError names the field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(default=64, ge=8, le=1024)  # side of the square images, in pixels
    # None samples the images: RGBA if one has transparency, else L if all are grey, else RGB.
    channels: Channels | None = None
    fit: Fit = "crop"  # the centre square; or ``pad`` to a square, or ``stretch``
    background: str = "white"  # or #rrggbb: the colour shown through alpha and added by ``pad``
    images_per_shard: int = Field(default=4096, ge=1, le=100_000)  # maximum

    @field_validator("background")
    @classmethod
    def _known_colour(cls, value: str) -> str:
        parse_colour(value)
        return value

    @model_validator(mode="wrap")
    @classmethod
    def _for_users(
        cls,
        data: Any,  # noqa: ANN401 - pydantic passes on whatever it was given
        handler: ModelWrapValidatorHandler["PackSettings"],
    ) -> "PackSettings":
        try:
            return handler(data)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "settings"
            expected = first["msg"].removeprefix("Input should be ")
            raise SettingsError(
                f"{field}: {first['input']!r} cannot be used; it should be {expected}"
            ) from error


class ShardInfo(BaseModel):
    """One shard: its file name, number of images, bytes and SHA-256."""

    model_config = ConfigDict(frozen=True)

    # A name, never a path out of the folder, nor one that no file can have.
    name: str = Field(pattern=r"^[^/\\\x00-\x1f]+\.tfrecord$")
    count: int = Field(ge=0)
    bytes: int = Field(ge=0)
    sha256: str


class Manifest(BaseModel):
    """The summary of a record folder; `Manifest.read` opens it."""

    model_config = ConfigDict(frozen=True)

    format: int = _FORMAT  # version of the folder's layout
    settings: PackSettings  # with ``channels`` decided
    count: int = Field(ge=0)  # images in all shards
    left_out: int = Field(ge=0)  # unusable inputs; ``inputs.jsonl`` lists them with the reason
    classes: tuple[str, ...] = ()  # class texts, by label
    shards: tuple[ShardInfo, ...] = ()  # image i is the i-th of all of them

    @cached_property
    def digest(self) -> str:
        """SHA-256 of settings and shards: equal digests mean equal images in equal order."""
        parts = [self.settings.model_dump_json(), *(shard.sha256 for shard in self.shards)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def write(self, folder: StorePath | Path) -> None:
        content = self.model_dump(mode="json") | {"digest": self.digest}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (StorePath.of(folder) / MANIFEST_NAME).write_bytes(text.encode())

    @classmethod
    def read(cls, folder: StorePath | Path) -> "Manifest":
        """Read a record folder's manifest; InputError: missing, unfinished, altered or of another version."""
        path = StorePath.of(folder) / MANIFEST_NAME
        try:
            content = path.read_json()
        except MissingError:
            raise InputError(_no_records(path.parent)) from None
        except InputError as error:
            raise InputError(f"{error}; {_FIX}") from error
        except ValueError as error:
            raise InputError(f"{path}: cannot be read: {error}; {_FIX}") from error
        version = content.get("format") if isinstance(content, dict) else None
        if version != _FORMAT:
            raise InputError(f"{path}: unknown format {version!r} (only {_FORMAT}); {_FIX}")
        digest = content.pop("digest", None)
        try:
            manifest = cls.model_validate(content)
        except (ValidationError, SettingsError) as error:
            raise InputError(f"{path}: not a manifest of records; {_FIX}") from error
        if manifest.digest != digest or manifest.count != sum(s.count for s in manifest.shards):
            raise InputError(f"{path}: altered since it was written; {_FIX}")
        return manifest


def _no_records(folder: StorePath) -> str:
    if not folder.exists():
        return f"{folder}: no such folder; give one that `pixmend pack` wrote"
    if (folder / ORIGIN_NAME).exists():
        return f"{folder}: the packing was not finished; run the same `pixmend pack` again"
    return (
        f"{folder}: holds no records ({MANIFEST_NAME}); "
        f"make some with `pixmend pack {folder} RECORDS`"
    )


_INDEX_HEADER = struct.Struct("<8sQII")
_INDEX_MAGIC = b"PXMINDEX"


def _index_path(shard: StorePath | Path) -> StorePath:
    path = StorePath.of(shard)
    return path.with_name(f"{path.stem}.index")


def write_index(shard: StorePath | Path, offsets: NDArray[np.uint64]) -> None:
    """Write the index of ``shard`` beside it, atomically; ``offsets`` is [N]."""
    body = offsets.astype("<u8").tobytes()
    header = _INDEX_HEADER.pack(_INDEX_MAGIC, len(offsets), masked_crc(body), 0)
    _index_path(shard).write_bytes(header + body)


def read_index(shard: StorePath | Path) -> NDArray[np.int64]:
    """Return the offsets [N] of the records of ``shard``; a RecordError if there is no index."""
    path = _index_path(shard)
    try:
        content = path.read_bytes(limit=_MAX_INDEX)
    except InputError as error:
        raise RecordError(f"{error}; {FIX_SHARD}") from error
    header, body = content[: _INDEX_HEADER.size], content[_INDEX_HEADER.size :]
    count, rest = divmod(len(body), 8)
    if rest or header != _INDEX_HEADER.pack(_INDEX_MAGIC, count, masked_crc(body), 0):
        raise RecordError(f"{path}: not an index, or a broken one; {FIX_SHARD}")
    return np.frombuffer(body, "<u8").astype(np.int64)
