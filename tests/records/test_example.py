"""The law: decode(encode(x)) = x, and no bytes whatever make decode raise anything but RecordError."""

import contextlib
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixmend.errors import RecordError
from pixmend.records import tfrecord
from pixmend.records.tfrecord import Value, decode_example, encode_example

from .test_framing import GOLDEN_PAYLOAD

names = st.text(max_size=8)
int64s = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(width=32, allow_nan=False)
lists = st.lists(st.binary(max_size=20)) | st.lists(int64s) | st.lists(floats)


@settings(deadline=None)
@given(st.dictionaries(names, lists, max_size=5))
def test_round_trip(features: dict[str, list[bytes] | list[int] | list[float]]) -> None:
    payload = encode_example(features)
    assert decode_example(payload) == features
    assert encode_example(dict(reversed(features.items()))) == payload


def test_bytes_are_tensorflows() -> None:
    features = {"name": "ab", "label": -3, "height": 7}
    assert encode_example(features) == GOLDEN_PAYLOAD
    assert decode_example(GOLDEN_PAYLOAD) == {"height": [7], "label": [-3], "name": [b"ab"]}


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_raise_record_error(payload: bytes) -> None:
    with contextlib.suppress(RecordError):
        decode_example(payload)


@settings(deadline=None)
@given(st.data())
def test_any_damage_decodes_or_raises_record_error(data: st.DataObject) -> None:
    payload = bytearray(GOLDEN_PAYLOAD)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    with contextlib.suppress(RecordError):
        decode_example(bytes(payload[:cut]))


def wrap(feature: bytes) -> bytes:
    """An Example of one feature named x, with this content."""
    entry = b"\x0a\x01x\x12" + bytes([len(feature)]) + feature
    features = b"\x0a" + bytes([len(entry)]) + entry
    return b"\x0a" + bytes([len(features)]) + features


def test_unpacked_numbers_are_read() -> None:
    ints = b"\x08\x05\x08" + b"\xff" * 9 + b"\x01"  # 5, -1: one field each
    assert decode_example(wrap(b"\x1a" + bytes([len(ints)]) + ints)) == {"x": [5, -1]}
    two = b"\x0d" + struct.pack("<f", 0.5) + b"\x0d" + struct.pack("<f", -2)
    assert decode_example(wrap(b"\x12" + bytes([len(two)]) + two)) == {"x": [0.5, -2.0]}


def test_unknown_fields_are_skipped() -> None:
    unknown = b"\x38\x01" + b"\x41" + bytes(8) + b"\x4a\x02hi" + b"\x55" + bytes(4)
    known = b"\x1a\x03\x0a\x01\x07"
    assert decode_example(wrap(unknown + known) + unknown) == {"x": [7]}


def test_not_a_number_survives() -> None:
    (value,) = decode_example(encode_example({"x": [math.nan]}))["x"]
    assert isinstance(value, float)
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("feature", "what"),
    [
        (b"\x1a\x0d\x0a\x0b" + b"\xff" * 11, "longer than ten"),
        (b"\x1a\x7f\x0a\x01\x07", "left to be in"),
        (b"\x12\x05\x0a\x03abc", "multiple of 4"),
        (b"\x1b", "wire type 3"),
        (b"\x00\x00", "field number 0"),
        (b"\x1a\x02\x0a\x81", "left to be in|within a number"),
    ],
)
def test_malformed_messages_say_where(feature: bytes, what: str) -> None:
    with pytest.raises(RecordError, match=what):
        decode_example(wrap(feature))


def test_a_name_that_is_no_text_is_malformed() -> None:
    with pytest.raises(RecordError, match="UTF-8"):
        decode_example(wrap(b"").replace(b"x", b"\xff"))


def test_numbers_beyond_int64_are_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="int64"):
        encode_example({"x": 2**63})


def example_of(*entries: bytes) -> bytes:
    """Return an Example of raw map entries."""
    features = b"".join(b"\x0a" + _length(entry) + entry for entry in entries)
    return b"\x0a" + _length(features) + features


def _length(content: bytes) -> bytes:
    size, encoded = len(content), bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*encoded, size])


def test_as_many_parts_as_a_record_may_have_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_MAX_VALUES", 4000)
    most = {f"{n:03}" + "k" * 997: [n, n, n, n] for n in range(1000)}
    assert decode_example(encode_example(most)) == most


@pytest.mark.parametrize(
    ("features", "what"),
    [
        ({f"{n}": 1 for n in range(1001)}, "over 1,000 features"),
        ({"k" * 1001: 1}, "a feature's name of 1,001 bytes"),
        ({"x": [1] * 4001}, "a feature of over 4,000 values"),
        ({"x": [0.5] * 4001}, "a feature of over 4,000 values"),
        ({"x": [b""] * 4001}, "a feature of over 4,000 values"),
        ({"x": [1] * 4000, "y": 1}, "over 1,000 features or 4,000 values"),
    ],
)
def test_a_record_of_too_many_parts_is_refused(
    features: dict[str, Value], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes each would take far more memory as objects."""
    monkeypatch.setattr(tfrecord, "_MAX_VALUES", 4000)
    with pytest.raises(RecordError, match=what):
        decode_example(encode_example(features))


def test_values_under_one_name_count_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_MAX_VALUES", 10)
    entry = b"\x0a\x01x" + b"\x12\x05\x1a\x03\x0a\x01\x07"
    assert decode_example(example_of(*[entry] * 10)) == {"x": [7]}
    with pytest.raises(RecordError, match="over"):
        decode_example(example_of(*[entry] * 11))
