"""The law: what is written is read, and no flipped bit anywhere is ever taken for data."""

import re
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixmend.errors import InputError, RecordError
from pixmend.records import tfrecord
from pixmend.records.tfrecord import (
    frame_record,
    masked_crc,
    read_record_at,
    read_records,
    scan_records,
)

from .helpers import write_record

# Written by tf.io.TFRecordWriter: the Example {"height": 7, "label": -3, "name": "ab"}.
GOLDEN_PAYLOAD = bytes.fromhex(
    "0a3a0a0f0a0668656967687412051a030a01070a170a056c6162656c120e1a0c0a0afdffffffffffffffff010a0e0a046e616d651206"
    "0a040a026162"
)
GOLDEN_FRAME = (
    bytes.fromhex("3c00000000000000c8b7a352") + GOLDEN_PAYLOAD + bytes.fromhex("a3df1141")
)

payloads = st.lists(st.binary(max_size=60), min_size=1, max_size=6)


def shard_of(records: list[bytes], path: Path) -> list[int]:
    with path.open("wb") as file:
        return [write_record(file, record) for record in records]


def whole_records(path: Path) -> list[tuple[int, bytes | RecordError]]:
    return [found for found in scan_records(path) if not isinstance(found[1], RecordError)]


def test_frame_is_tensorflows() -> None:
    assert frame_record(GOLDEN_PAYLOAD) == GOLDEN_FRAME


def test_masked_crc_of_the_specification() -> None:
    # CRC32C of 32 zero bytes is 0x8A9136AA (RFC 3720, B.4).
    crc = 0x8A9136AA
    assert masked_crc(bytes(32)) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@settings(deadline=None)
@given(payloads)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, records: list[bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.tfrecord"
    offsets = shard_of(records, path)
    assert list(read_records(path)) == list(zip(offsets, records, strict=True))
    content = path.read_bytes()
    assert [read_record_at(content, offset) for offset in offsets] == records


@settings(deadline=None)
@given(st.data())
def test_every_flipped_bit_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped.tfrecord"
    offsets = shard_of([b"first", b"second record", b"x" * 40], path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    broken = max(offset for offset in offsets if offset <= place)
    with pytest.raises(RecordError, match=re.escape(f"{path}: record at byte {broken}:")):
        list(read_records(path))


@pytest.mark.parametrize("part", ["length", "length-crc", "payload", "payload-crc"])
def test_a_flipped_byte_loses_one_record_alone(tmp_path: Path, part: str) -> None:
    path = tmp_path / "shard.tfrecord"
    records = [bytes([number]) * 50 for number in range(5)]
    offsets = shard_of(records, path)
    at = {"length": 0, "length-crc": 8, "payload": 12, "payload-crc": 62}[part]
    content = bytearray(path.read_bytes())
    content[offsets[2] + at] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(RecordError, match=f"byte {offsets[2]}"):
        list(read_records(path))
    found = list(scan_records(path))
    bad = [payload for _, payload in found if isinstance(payload, RecordError)]
    rest = whole_records(path)
    kept = [0, 1, 3, 4]
    assert rest == [(offsets[number], records[number]) for number in kept]
    assert len(bad) == 1


def test_a_broken_length_is_survived_in_a_payload_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "zeros.tfrecord"
    offsets = shard_of([bytes(500), bytes(300), b"last"], path)
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    found = [offset for offset, _ in whole_records(path)]
    assert found == offsets[1:]


@pytest.mark.parametrize("cut", [1, 4, 5, 20, 55, 60])
def test_a_shard_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.tfrecord"
    offsets = shard_of([b"a" * 30, b"b" * 40], path)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(RecordError, match=f"byte {offsets[1] if cut < 56 else 0}:"):
        list(read_records(path))
    assert len(whole_records(path)) == (1 if cut < 56 else 0)


def test_a_huge_length_with_a_right_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.tfrecord"
    length = struct.pack("<Q", 2**62)
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + b"payload")
    with pytest.raises(RecordError, match="the file ends after"):
        list(read_records(path))


def test_an_empty_shard_has_no_records(tmp_path: Path) -> None:
    path = tmp_path / "empty.tfrecord"
    path.touch()
    assert list(read_records(path)) == []


def test_gzip_and_missing_files_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "packed.tfrecord"
    path.write_bytes(b"\x1f\x8b\x08" + bytes(40))
    with pytest.raises(RecordError, match="decompress"):
        list(read_records(path))
    with pytest.raises(InputError, match="no such file"):
        list(read_records(tmp_path / "none"))


@pytest.mark.parametrize("offset", [-1, 1, 10**9])
def test_reading_at_a_wrong_offset_is_an_error(offset: int) -> None:
    with pytest.raises(RecordError):
        read_record_at(GOLDEN_FRAME, offset, "shard")


def test_a_record_over_the_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfrecord, "_MAX_PAYLOAD", 100)
    path = tmp_path / "a.tfrecord"
    offsets = shard_of([bytes(100), bytes(101), b"next"], path)
    (_, first), (_, second), *rest = scan_records(path)
    assert first == bytes(100)
    assert isinstance(second, RecordError)
    assert "101 bytes long, over the limit of 100" in str(second)
    assert rest[-1] == (offsets[2], b"next")


def test_a_hole_of_any_length_is_searched_no_further_than_a_record(tmp_path: Path) -> None:
    path = tmp_path / "hole.tfrecord"
    with path.open("wb") as file:
        file.truncate(200 * 2**30)
    ((offset, payload),) = scan_records(path)
    assert offset == 0
    assert isinstance(payload, RecordError)


TRITS = st.lists(st.sampled_from([0, 1, 255]), max_size=40).map(bytes)


@settings(deadline=None)
@given(st.lists(TRITS, max_size=6), TRITS, st.data())
def test_every_header_after_damage_is_found(
    payloads: list[bytes], before: bytes, data: st.DataObject
) -> None:
    """Also after and within zeros, wherever the search begins."""
    frames = [frame_record(payload) for payload in payloads]
    content = before + b"".join(frames)
    starts = [len(before) + sum(map(len, frames[:n])) for n in range(len(frames))]
    start = data.draw(st.integers(0, len(content)))
    expected = next((each for each in starts if each >= start), len(content))
    assert tfrecord._resync(content, start) == expected
