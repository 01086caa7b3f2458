"""The sidecar index of a shard: where each record starts, so that any image is one seek away.

    8 bytes  magic "PXMINDEX"
    uint64   number of records
    uint32   masked CRC32C of the offsets
    uint32   zero, so that the offsets are aligned
    uint64[] offsets, in bytes

all little-endian.
"""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, RecordError
from pixmend.records.framing import masked_crc
from pixmend.storage import StorePath

_HEADER = struct.Struct("<8sQII")
_MAGIC = b"PXMINDEX"


def index_path(shard: StorePath | Path) -> StorePath:
    """Return where the index of ``shard`` lies: beside it, under ``.index``."""
    place = StorePath.of(shard)
    return place.with_name(f"{place.stem}.index")


def write_index(shard: StorePath | Path, offsets: NDArray[np.uint64]) -> None:
    """Write the index of ``shard`` atomically; ``offsets`` is [N]."""
    body = offsets.astype("<u8").tobytes()
    index_path(shard).write_bytes(_HEADER.pack(_MAGIC, len(offsets), masked_crc(body), 0) + body)


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
        raise RecordError(f"{error}; {_FIX}", shard=str(shard)) from error
    magic, count, crc, _ = (
        _HEADER.unpack_from(content) if len(content) >= _HEADER.size else (b"", 0, 0, 0)
    )
    body = content[_HEADER.size :]
    if magic != _MAGIC or len(body) != 8 * count or masked_crc(body) != crc:
        raise RecordError(f"{path}: not an index, or a broken one; {_FIX}", shard=str(shard))
    return np.frombuffer(body, "<u8").astype(np.int64)


_FIX = "pack the folder again, or read on with --skip-bad"
