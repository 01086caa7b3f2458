"""TFRecord framing: a file of length-prefixed payloads, each under its own checksum.

A record is, in this order and little-endian (TensorFlow,
``tensorflow/core/lib/io/record_writer.h``)::

    uint64  length
    uint32  masked CRC32C of the 8 bytes of length
    bytes   payload[length]
    uint32  masked CRC32C of the payload

and a shard is records one after the other, with no header and no end mark. The mask, a rotation by
15 bits and an addition, keeps a checksum of data that itself holds checksums from being trivially
right.
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

import google_crc32c

from pixmend.errors import InputError, MissingError, RecordError
from pixmend.storage import RangeBuffer, StorePath

Buffer: TypeAlias = bytes | mmap.mmap

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = 12
_OVERHEAD = 16  # header and payload checksum: the bytes of an empty record
_MASK_DELTA = 0xA282EAD8
_GZIP = b"\x1f\x8b"


def masked_crc(content: bytes) -> int:
    """Return the CRC32C of ``content``, rotated right by 15 bits and offset, as a uint32."""
    crc = int(google_crc32c.value(content))
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


class Appendable(Protocol):
    """What a record can be written to: a binary file, or what counts or hashes on the way to one."""

    def write(self, content: bytes, /) -> int: ...  # noqa: D102
    def tell(self) -> int: ...  # noqa: D102


def write_record(file: Appendable, payload: bytes) -> int:
    """Append one record to ``file``; return the byte at which it starts."""
    offset = file.tell()
    length = _LENGTH.pack(len(payload))
    header = length + _CRC.pack(masked_crc(length))
    file.write(header + payload + _CRC.pack(masked_crc(payload)))
    return offset


def read_records(
    path: StorePath | Path,
    *,
    skip_bad: bool = False,
    on_bad: Callable[[RecordError], None] | None = None,
) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, payload) of every record of a shard, in order.

    Parameters
    ----------
    skip_bad
        Go on after a broken record instead of raising: past the payload when only the payload is
        broken, else at the next place where a header's checksum is right.
    on_bad
        Told of each broken record that is skipped.

    Raises
    ------
    RecordError
        A record is broken and ``skip_bad`` is not set; names the shard and the offset.
    InputError
        The file is missing or unreadable.
    """
    buffer = map_file(path)
    offset = 0
    while offset < len(buffer):
        following = None
        try:
            length = _read_length(buffer, offset, str(path))
            following = offset + _OVERHEAD + length
            yield offset, _read_payload(buffer, offset, length, str(path))
        except RecordError as error:
            if not skip_bad:
                raise
            if on_bad is not None:
                on_bad(error)
        offset = _resync(buffer, offset + 1) if following is None else following


def read_record_at(buffer: RangeBuffer, offset: int, shard: str = "record") -> bytes:
    """Return the payload of the record that starts at byte ``offset``, both checksums checked.

    Raises
    ------
    RecordError
        The record is broken; ``shard`` names the file in the message.
    """
    return _read_payload(buffer, offset, _read_length(buffer, offset, shard), shard)


def map_file(path: StorePath | Path) -> Buffer:
    """Map a shard into memory, read-only; an empty file, which cannot be mapped, is empty bytes.

    A store's file is fetched into a temporary one, which goes with the map.

    Raises
    ------
    InputError
        The file is missing or unreadable.
    """
    place = StorePath.of(path)
    try:
        with place.open() if place.local is not None else tempfile.TemporaryFile() as file:
            if place.local is None:
                place.copy_to(file)
                file.flush()
            if not file.seek(0, os.SEEK_END):
                return b""
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except MissingError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _read_length(buffer: RangeBuffer, offset: int, shard: str) -> int:
    """Return the length of the record at ``offset``, proven by its checksum and by the end of the file."""
    room = len(buffer) - offset - _OVERHEAD
    if offset < 0 or room < 0:
        raise _broken(shard, offset, "the file ends within this record: it was cut short")
    head = buffer[offset : offset + _HEADER_BYTES]
    header = head[:8]
    if _CRC.unpack_from(head, 8)[0] != masked_crc(header):
        if offset == 0 and buffer[:2] == _GZIP:
            raise _broken(shard, 0, "the file is compressed with gzip: decompress it")
        raise _broken(shard, offset, "the checksum of its length is wrong")
    length = int(_LENGTH.unpack(header)[0])
    if length > room:
        raise _broken(
            shard, offset, f"it is {length:,} bytes long but the file ends after {room:,}"
        )
    return length


def _read_payload(buffer: RangeBuffer, offset: int, length: int, shard: str) -> bytes:
    start = offset + _HEADER_BYTES
    payload = buffer[start : start + length]
    if _CRC.unpack(buffer[start + length : start + length + 4])[0] != masked_crc(payload):
        raise _broken(shard, offset, "the checksum of its payload is wrong")
    return payload


def _resync(buffer: Buffer, start: int) -> int:
    """Return the next byte from ``start`` that starts a header with a right checksum, or the end of the file.

    A chance hit is one in 2**32 places, and its payload would still have to pass its own checksum.
    """
    last = len(buffer) - _OVERHEAD
    # The upper half of a length under 4 GiB is zero: looking for that alone passes over nearly all
    # bytes at once.
    place = buffer.find(b"\0\0\0\0", start + 4) - 4
    while start <= place <= last:
        length = _LENGTH.unpack_from(buffer, place)[0]
        if length <= last - place and _CRC.unpack_from(buffer, place + 8)[0] == masked_crc(
            buffer[place : place + 8]
        ):
            return place
        place = buffer.find(b"\0\0\0\0", place + 5) - 4
    return len(buffer)


def _broken(shard: str, offset: int, what: str) -> RecordError:
    return RecordError(
        f"{shard}: record at byte {offset:,}: {what}; fetch or pack the file again, or read the rest with --skip-bad",
        shard=shard,
        offset=offset,
    )
