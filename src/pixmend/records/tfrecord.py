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

The payload is a tf.train.Example, a map from names to lists of one kind of value. Its wire format (protocol buffers;
``tensorflow/core/example/example.proto``, ``feature.proto``)::

    Example  { Features features = 1; }
    Features { map<string, Feature> feature = 1; }          an entry is { key = 1; value = 2; }
    Feature  { oneof { BytesList = 1; FloatList = 2; Int64List = 3; } }
    BytesList { repeated bytes = 1; }   FloatList { repeated float = 1; }   Int64List { repeated
    int64 = 1; }

Numbers are packed (one length-delimited run); parsers must also take them one by one. A negative
int64 is its 64-bit two's complement, a varint of ten bytes.
"""

import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import google_crc32c

from pixmend.errors import InputError, MissingError, RecordError
from pixmend.storage import Buffer, StorePath

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


def read_record_at(buffer: Buffer, offset: int, shard: str = "record") -> bytes:
    """Return the payload of the record that starts at byte ``offset``, both checksums checked.

    Raises
    ------
    RecordError
        The record is broken; ``shard`` names the file in the message.
    """
    return _read_payload(buffer, offset, _read_length(buffer, offset, shard), shard)


def map_file(path: StorePath | Path) -> bytes | mmap.mmap:
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


def _read_length(buffer: Buffer, offset: int, shard: str) -> int:
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


def _read_payload(buffer: Buffer, offset: int, length: int, shard: str) -> bytes:
    start = offset + _HEADER_BYTES
    payload = buffer[start : start + length]
    if _CRC.unpack(buffer[start + length : start + length + 4])[0] != masked_crc(payload):
        raise _broken(shard, offset, "the checksum of its payload is wrong")
    return payload


def _resync(buffer: bytes | mmap.mmap, start: int) -> int:
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


Value: TypeAlias = bytes | str | int | float | Sequence[bytes] | Sequence[int] | Sequence[float]
Feature: TypeAlias = list[bytes] | list[int] | list[float]
Features: TypeAlias = dict[str, Feature]

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5
_BYTES, _FLOATS, _INTS = 1, 2, 3  # the members of Feature's oneof
_FLOAT = struct.Struct("<f")
_Span: TypeAlias = tuple[int, int]  # [start, end) of bytes in the message


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Return ``features`` as a serialised tf.train.Example; equal features give equal bytes.

    Keys are written in sorted order, which the format leaves open. Text becomes UTF-8; a single value
    is a list of one; an empty sequence is a feature of no kind.
    """
    entries = b"".join(
        _delimited(1, _delimited(1, key.encode()) + _delimited(2, _encode_feature(features[key])))
        for key in sorted(features)
    )
    return _delimited(1, entries)


def decode_example(payload: bytes) -> Features:
    """Return the features of a serialised tf.train.Example.

    Raises
    ------
    RecordError
        The message is malformed.
    """
    features: Features = {}
    for number, wire, content in _fields(payload, (0, len(payload))):
        if number == 1 and wire == _DELIMITED and isinstance(content, tuple):
            for inner, kind, entry in _fields(payload, content):
                if inner == 1 and kind == _DELIMITED and isinstance(entry, tuple):
                    key, feature = _decode_entry(payload, entry)
                    features[key] = feature
    return features


def first_bytes(features: Features, keys: Iterable[str]) -> bytes:
    """Return the first bytes under the first of ``keys`` that has any, or none at all."""
    for key in keys:
        for value in features.get(key, [])[:1]:
            if isinstance(value, bytes):
                return value
    return b""


def first_int(features: Features, keys: Iterable[str]) -> int:
    """Return the first integer under the first of ``keys`` that has one, or -1."""
    for key in keys:
        for value in features.get(key, [])[:1]:
            if isinstance(value, int):
                return value
    return -1


def _encode_feature(value: Value) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    values = [value] if isinstance(value, bytes | int | float) else list(value)
    if not values:
        return b""
    if all(isinstance(item, bytes) for item in values):
        return _delimited(_BYTES, b"".join(_delimited(1, item) for item in values))  # type: ignore[arg-type]
    if all(isinstance(item, int) for item in values):
        return _delimited(_INTS, _delimited(1, b"".join(map(_int64, values))))  # type: ignore[arg-type]
    return _delimited(_FLOATS, _delimited(1, struct.pack(f"<{len(values)}f", *values)))


def _int64(value: int) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} does not fit an int64")
    return _varint(value & 0xFFFF_FFFF_FFFF_FFFF)


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _decode_entry(payload: bytes, span: _Span) -> tuple[str, Feature]:
    key, feature = "", list[bytes]()  # what protocol buffers say of a missing key and value
    decoded: Feature = feature
    for number, wire, content in _fields(payload, span):
        if wire != _DELIMITED or not isinstance(content, tuple):
            continue
        if number == 1:
            try:
                key = payload[content[0] : content[1]].decode()
            except UnicodeDecodeError:
                raise _malformed(content[0], "a feature's name is not UTF-8") from None
        elif number == 2:
            decoded = _decode_feature(payload, content)
    return key, decoded


def _decode_feature(payload: bytes, span: _Span) -> Feature:
    decoded: Feature = []
    for number, wire, content in _fields(payload, span):
        if wire != _DELIMITED or not isinstance(content, tuple):
            continue
        # Of a oneof written twice, the last counts.
        if number == _BYTES:
            decoded = [
                payload[inner[0] : inner[1]]
                for field, kind, inner in _fields(payload, content)
                if field == 1 and kind == _DELIMITED and isinstance(inner, tuple)
            ]
        elif number == _FLOATS:
            decoded = list(_floats(payload, content))
        elif number == _INTS:
            decoded = list(_ints(payload, content))
    return decoded


def _floats(payload: bytes, span: _Span) -> Iterator[float]:
    for number, wire, content in _fields(payload, span):
        if number != 1 or not isinstance(content, tuple) or wire not in (_DELIMITED, _FIXED32):
            continue
        start, end = content
        if (end - start) % 4:
            raise _malformed(start, "a run of floats is not a multiple of 4 bytes")
        yield from (value for (value,) in _FLOAT.iter_unpack(payload[start:end]))


def _ints(payload: bytes, span: _Span) -> Iterator[int]:
    for number, wire, content in _fields(payload, span):
        if number != 1:
            continue
        if wire == _VARINT and isinstance(content, int):
            yield _signed(content)
        elif wire == _DELIMITED and isinstance(content, tuple):
            place, end = content
            while place < end:
                value, place = _read_varint(payload, place, end)
                yield _signed(value)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _fields(payload: bytes, span: _Span) -> Iterator[tuple[int, int, int | _Span]]:
    """Yield (field number, wire type, content) of a message; content is a varint's value or a span of bytes."""
    place, end = span
    while place < end:
        tag, start = _read_varint(payload, place, end)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise _malformed(place, f"there is no field number {number}")
        if wire == _VARINT:
            value, place = _read_varint(payload, start, end)
            yield number, wire, value
            continue
        if wire == _DELIMITED:
            length, start = _read_varint(payload, start, end)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise _malformed(place, f"wire type {wire} is not of this format")
        if length > end - start:
            raise _malformed(
                place, f"a field of {length} bytes has only {end - start} left to be in"
            )
        place = start + length
        yield number, wire, (start, place)


def _read_varint(payload: bytes, place: int, end: int) -> tuple[int, int]:
    """Return (value, place after it); the bits beyond 64 are dropped, as protocol buffers do."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise _malformed(place, "it ends within a number")
        byte = payload[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place
    raise _malformed(place, "a number is longer than ten bytes")


def _malformed(place: int, what: str) -> RecordError:
    return RecordError(f"not a tf.train.Example: at byte {place} of the record, {what}")
