"""TFRecord files and the tf.train.Example messages in them.

A record is, in this order and little-endian (TensorFlow,
``tensorflow/core/lib/io/record_writer.h``)::

    uint64  length
    uint32  masked CRC32C of the 8 bytes of length
    bytes   payload[length]
    uint32  masked CRC32C of the payload

A file is records one after the other, without header or end mark. The mask (a rotation by 15 bits
and an addition) keeps a checksum of data that contains checksums from being trivially right.

A payload is a tf.train.Example, a map from names to lists of values of one kind. Its wire format
(protocol buffers; ``tensorflow/core/example/example.proto``, ``feature.proto``)::

    Example   { Features features = 1; }
    Features  { map<string, Feature> feature = 1; }          an entry is { key = 1; value = 2; }
    Feature   { oneof { BytesList = 1; FloatList = 2; Int64List = 3; } }
    BytesList { repeated bytes = 1; }   FloatList { repeated float = 1; }
    Int64List { repeated int64 = 1; }

Numbers are packed (one length-delimited run); parsers must also accept them one by one. A negative
int64 is its 64-bit two's complement, a varint of ten bytes.
"""

import itertools
import mmap
import os
import re
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

import google_crc32c

from pixmend.errors import InputError, MissingError, RecordError
from pixmend.storage import Buffer, StorePath

_LENGTH = struct.Struct("<Q")
_CRC = struct.Struct("<I")
_HEADER_BYTES = 12
_OVERHEAD = 16  # header and payload checksum: the bytes of an empty record
_MASK_DELTA = 0xA282EAD8
_GZIP = b"\x1f\x8b"
_MAX_PAYLOAD = 513 * 2**20  # bytes: the largest image file, and what is said of it
_MAX_SEARCH = 2**27  # bytes, for the next record after a broken length
_ZEROS = re.compile(rb"\0\0\0\0+")  # so written, it is searched at the speed of memory


def masked_crc(content: bytes) -> int:
    """Return the CRC32C of ``content``, rotated right by 15 bits and offset, as a uint32."""
    crc = int(google_crc32c.value(content))
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame_record(payload: bytes) -> bytes:
    """Return ``payload`` as a record."""
    length = _LENGTH.pack(len(payload))
    return length + _CRC.pack(masked_crc(length)) + payload + _CRC.pack(masked_crc(payload))


def read_records(path: StorePath | Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, payload) of every record of a file; a RecordError names a broken one."""
    for offset, payload in scan_records(path):
        if isinstance(payload, RecordError):
            raise payload
        yield offset, payload


def scan_records(path: StorePath | Path) -> Iterator[tuple[int, bytes | RecordError]]:
    """Yield as `read_records`, but broken records as errors, and then from the next valid header on."""
    buffer = map_file(path)
    offset = 0
    while offset < len(buffer):
        following = None
        payload: bytes | RecordError
        try:
            length = _read_length(buffer, offset, str(path))
            following = offset + _OVERHEAD + length
            payload = _read_payload(buffer, offset, length, str(path))
        except RecordError as error:
            payload = error
        yield offset, payload
        offset = _resync(buffer, offset + 1) if following is None else following


def read_record_at(buffer: Buffer, offset: int, shard: str = "record") -> bytes:
    """Return the payload of the record at byte ``offset``, with both checksums verified."""
    return _read_payload(buffer, offset, _read_length(buffer, offset, shard), shard)


def map_file(path: StorePath | Path) -> bytes | mmap.mmap:
    """Map a file into memory, read-only; one of a store is first copied to a temporary file."""
    source = StorePath.of(path)
    try:
        with source.open() if source.local is not None else tempfile.TemporaryFile() as file:
            if source.local is None:
                source.copy_to(file)
                file.flush()
            if not file.seek(0, os.SEEK_END):
                return b""  # which cannot be mapped
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except MissingError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error


def _read_length(buffer: Buffer, offset: int, shard: str) -> int:
    """Return the payload length of the record at ``offset``, verified by its checksum."""
    room = len(buffer) - offset - _OVERHEAD
    if offset < 0 or room < 0:
        raise _broken(shard, offset, "the file ends within this record: it was cut short")
    header = buffer[offset : offset + _HEADER_BYTES]
    if _CRC.unpack_from(header, 8)[0] != masked_crc(header[:8]):
        if offset == 0 and header.startswith(_GZIP):
            raise _broken(shard, 0, "the file is compressed with gzip: decompress it")
        raise _broken(shard, offset, "the checksum of its length is wrong")
    length = int(_LENGTH.unpack_from(header)[0])
    if length > room:
        raise _broken(
            shard, offset, f"it is {length:,} bytes long but the file ends after {room:,}"
        )
    return length


def _read_payload(buffer: Buffer, offset: int, length: int, shard: str) -> bytes:
    if length > _MAX_PAYLOAD:
        raise _broken(
            shard, offset, f"it is {length:,} bytes long, over the limit of {_MAX_PAYLOAD:,}"
        )
    start = offset + _HEADER_BYTES
    payload = buffer[start : start + length]
    if _CRC.unpack(buffer[start + length : start + length + 4])[0] != masked_crc(payload):
        raise _broken(shard, offset, "the checksum of its payload is wrong")
    return payload


def _resync(buffer: bytes | mmap.mmap, start: int) -> int:
    """Return the next offset from ``start`` of a header with a valid checksum, or the file's end.

    A chance hit is one in 2**32 offsets, and its payload would still have to pass its own checksum.
    """
    last = len(buffer) - _OVERHEAD
    # The upper half of a length is zero, and the checksum after it is not: only the ends of runs of
    # zeros are looked at.
    for run in _ZEROS.finditer(buffer, start + 4, start + _MAX_SEARCH):
        for offset in range(max(run.start() - 4, run.end() - 11), min(run.end() - 8, last) + 1):
            length = _LENGTH.unpack_from(buffer, offset)[0]
            checksum = _CRC.unpack_from(buffer, offset + 8)[0]
            if length <= last - offset and checksum == masked_crc(buffer[offset : offset + 8]):
                return offset
    return len(buffer)


def _broken(shard: str, offset: int, reason: str) -> RecordError:
    return RecordError(
        f"{shard}: record at byte {offset:,}: {reason}; fetch or pack the file again"
    )


Value: TypeAlias = bytes | str | int | float | Sequence[bytes] | Sequence[int] | Sequence[float]
Feature: TypeAlias = list[bytes] | list[int] | list[float]
Features: TypeAlias = dict[str, Feature]

T = TypeVar("T")
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5  # wire types
_BYTES, _FLOATS, _INTS = 1, 2, 3  # the members of Feature's oneof
# Bounds of one record: a small one may declare millions of parts, and each takes far more memory.
_MAX_FEATURES = 1000
_MAX_NAME = 1000  # bytes
_MAX_VALUES = 2**22


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Return ``features`` as a serialised tf.train.Example; equal features give equal bytes.

    Text becomes UTF-8, a single value a list of one, and an empty sequence a feature of no kind.
    """
    entries = b"".join(
        _delimited(1, _delimited(1, key.encode()) + _delimited(2, _encode_feature(features[key])))
        for key in sorted(features)
    )
    return _delimited(1, entries)


def decode_example(payload: bytes) -> Features:
    """Return the features of a serialised tf.train.Example; a RecordError if malformed or too large."""
    features: Features = {}
    values = 0
    messages = (message for number, message in _fields(payload, _DELIMITED) if number == 1)
    for number, entry in itertools.chain.from_iterable(
        _fields(message, _DELIMITED) for message in messages
    ):
        if number != 1:
            continue
        name, feature = _decode_entry(entry)
        features[name] = feature
        values += len(feature)
        if len(features) > _MAX_FEATURES or values > _MAX_VALUES:
            raise _malformed(f"over {_MAX_FEATURES:,} features or {_MAX_VALUES:,} values")
    return features


def first_bytes(features: Features, keys: Iterable[str]) -> bytes:
    """Return the first bytes under the first of ``keys`` that has any, else empty bytes."""
    values = (value for key in keys for value in features.get(key, [])[:1])
    return next((value for value in values if isinstance(value, bytes)), b"")


def first_int(features: Features, keys: Iterable[str]) -> int:
    """Return the first integer under the first of ``keys`` that has one, else -1."""
    values = (value for key in keys for value in features.get(key, [])[:1])
    return next((value for value in values if isinstance(value, int)), -1)


def _encode_feature(value: Value) -> bytes:
    if isinstance(value, str):
        value = value.encode()
    values = [value] if isinstance(value, bytes | int | float) else list(value)
    if not values:
        return b""
    encoded = [item for item in values if isinstance(item, bytes)]
    if len(encoded) == len(values):
        return _delimited(_BYTES, b"".join(_delimited(1, item) for item in encoded))
    integers = [item for item in values if isinstance(item, int)]
    if len(integers) == len(values):
        return _delimited(_INTS, _delimited(1, b"".join(map(_int64, integers))))
    return _delimited(_FLOATS, _delimited(1, struct.pack(f"<{len(values)}f", *values)))


def _int64(value: int) -> bytes:
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{value} does not fit an int64")
    return _varint(value % 2**64)


def _delimited(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _decode_entry(message: bytes) -> tuple[str, Feature]:
    key = ""  # the default of protocol buffers, as an empty feature is
    feature: Feature = []
    for number, content in _fields(message, _DELIMITED):
        if number == 1:
            if len(content) > _MAX_NAME:
                raise _malformed(f"a feature's name of {len(content):,} bytes")
            try:
                key = content.decode()
            except UnicodeDecodeError:
                raise _malformed("a feature's name is not UTF-8") from None
        elif number == 2:
            feature = _decode_feature(content)
    return key, feature


def _decode_feature(message: bytes) -> Feature:
    """Return the values of a feature; numbers are in packed runs, or single ones of their wire type."""
    feature: Feature = []
    for number, content in _fields(message, _DELIMITED):
        # The last member of a oneof counts.
        if number == _BYTES:
            feature = _list(value for field, value in _fields(content, _DELIMITED) if field == 1)
        elif number == _FLOATS:
            runs = (run for number, run in _fields(content, _DELIMITED, _FIXED32) if number == 1)
            feature = _list(value for run in runs for value in _floats(run))
        elif number == _INTS:
            runs = (run for number, run in _fields(content, _DELIMITED, _VARINT) if number == 1)
            feature = _list(value for run in runs for value in _int64s(run))
    return feature


def _list(values: Iterator[T]) -> list[T]:
    taken = list(itertools.islice(values, _MAX_VALUES + 1))
    if len(taken) > _MAX_VALUES:
        raise _malformed(f"a feature of over {_MAX_VALUES:,} values")
    return taken


def _floats(run: bytes) -> Iterator[float]:
    if len(run) % 4:
        raise _malformed("a run of floats is not a multiple of 4 bytes")
    return (value for (value,) in struct.iter_unpack("<f", run))


def _int64s(run: bytes) -> Iterator[int]:
    start = 0
    while start < len(run):
        value, start = _read_varint(run, start)
        yield value - 2**64 if value >= 2**63 else value


def _fields(message: bytes, *wires: int) -> Iterator[tuple[int, bytes]]:
    """Yield (field number, encoded value) of the fields of these wire types; others are skipped."""
    start, end = 0, len(message)
    while start < end:
        tag, start = _read_varint(message, start)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 2**29:
            raise _malformed(f"there is no field number {number}")
        if wire == _VARINT:
            length = _read_varint(message, start)[1] - start
        elif wire == _DELIMITED:
            length, start = _read_varint(message, start)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise _malformed(f"wire type {wire} is not of this format")
        if length > end - start:
            raise _malformed(f"a field of {length} bytes has only {end - start} left to be in")
        if wire in wires:
            yield number, message[start : start + length]
        start += length


def _read_varint(message: bytes, start: int) -> tuple[int, int]:
    """Return (value, position after it); bits beyond 64 are dropped, as protocol buffers do."""
    value = 0
    for shift in range(0, 70, 7):
        if start >= len(message):
            raise _malformed("it ends within a number")
        byte = message[start]
        start += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value % 2**64, start
    raise _malformed("a number is longer than ten bytes")


def _malformed(reason: str) -> RecordError:
    return RecordError(f"not a tf.train.Example: {reason}")
