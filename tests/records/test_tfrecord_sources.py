"""Records of others: the fixture was written by TensorFlow (benchmarks/tensorflow_interop.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from pixmend.images import decode_image, encode_png
from pixmend.records import PackSettings, Records, pack
from pixmend.records.containers import image_of_example, tfrecord_members
from pixmend.records.tfrecord import decode_example, encode_example, read_records
from pixmend.storage import StorePath

from .helpers import every, noise, write_record

FIXTURE = Path(__file__).parent / "data" / "tensorflow.tfrecord"


def pattern(number: int, channels: int) -> np.ndarray:
    y, x, c = np.mgrid[:7, :5, :channels]
    return ((17 * y + 5 * x + 80 * c + 13 * number) % 256).astype(np.uint8)


def write(path: Path, *examples: dict[str, object]) -> Path:
    with path.open("wb") as file:
        for example in examples:
            write_record(file, encode_example(example))
    return path


def test_the_schemas_that_tensorflow_wrote() -> None:
    payloads = [payload for _, payload in read_records(FIXTURE)]
    for number, (payload, channels) in enumerate(zip(payloads, (3, 3, 1, 4, 3), strict=True)):
        content = image_of_example(decode_example(payload))
        pixels = decode_image(content).pixels if isinstance(content, bytes) else content
        assert np.array_equal(pixels, pattern(number, channels))
    members = list(tfrecord_members(StorePath(FIXTURE)))
    assert [member.class_text for member in members] == ["four", None, "2", None, None]
    assert members[0].name == "a/0.png"


def test_our_encoder_gives_the_bytes_tensorflow_wrote() -> None:
    for _, payload in read_records(FIXTURE):
        features = decode_example(payload)
        assert encode_example(features) == payload


def test_foreign_records_are_packed(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "train-00000-of-00001").write_bytes(FIXTURE.read_bytes())
    pack(folder, tmp_path / "out", PackSettings(size=8, fit="pad", channels="RGB"), workers=1)
    records = Records(tmp_path / "out")
    assert len(records) == 5
    assert records.manifest.classes == ("2", "four")
    assert records.labels(range(5)).tolist() == [1, -1, 0, -1, -1]
    assert records.names([0]) == ["train-00000-of-00001/a/0.png"]


def test_our_own_records_are_packed_again(packed: tuple, tmp_path: Path) -> None:
    pack(packed[0], tmp_path / "again", PackSettings(size=8), workers=1)
    before, after = Records(packed[0]), Records(tmp_path / "again")
    assert np.array_equal(every(before), every(after))
    assert np.array_equal(before.labels(range(10)), after.labels(range(10)))
    assert after.manifest.classes == before.manifest.classes


def test_a_broken_record_is_an_input_left_out(tmp_path: Path) -> None:
    content = bytearray(FIXTURE.read_bytes())
    content[20] ^= 1
    (tmp_path / "a.tfrecords").write_bytes(content)
    manifest = pack(tmp_path / "a.tfrecords", tmp_path / "out", PackSettings(size=8), workers=1)
    assert (manifest.count, manifest.left_out) == (4, 1)
    assert "checksum" in (tmp_path / "out" / "inputs.jsonl").read_text()


@pytest.mark.parametrize(
    ("example", "what"),
    [
        ({"x": 1}, "its keys are x"),
        ({}, "its keys are none"),
        ({"image_raw": b"abc"}, "missing"),
        ({"image_raw": bytes(24), "height": 3, "width": 4}, "24 bytes"),
        ({"image_raw": bytes(12), "height": 3, "width": 4, "depth": 3}, "3 x 4 x 3"),
        ({"image_raw": bytes(12), "height": -3, "width": -4}, "out of range"),
        ({"image_raw": bytes(12), "height": 3, "width": -4}, "out of range"),
        ({"image_raw": bytes(12), "height": -3, "width": 4}, "out of range"),
        ({"image_raw": bytes(8193), "height": 1, "width": 8193}, "out of range"),
        ({"image_raw": bytes(12), "height": 10**6, "width": 10**6}, "out of range"),
        ({"image/encoded": b"text"}, "not an image"),
        ({"image_raw": [1, 2], "height": "x", "width": 4.5}, "its keys are"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, example: dict, what: str) -> None:
    path = write(
        tmp_path / "bad.tfrecord", {"image_raw": bytes(4), "height": 2, "width": 2}, example
    )
    manifest = pack(path, tmp_path / "out", PackSettings(size=8), workers=1)
    assert (manifest.count, manifest.left_out) == (1, 1)
    _, bad = (tmp_path / "out" / "inputs.jsonl").read_text().splitlines()
    assert json.loads(bad)["name"] == "bad.tfrecord/00000001"
    assert what in json.loads(bad)["reason"]


def test_height_comes_before_width() -> None:
    pixels = noise(0, 3, 5)
    features = decode_example(
        encode_example({"image_raw": pixels.tobytes(), "height": 3, "width": 5})
    )
    assert np.array_equal(image_of_example(features), pixels)


@pytest.mark.parametrize(
    "sizes",
    [{}, {"height": 8, "width": -1}, {"height": -1, "width": 8}, {"height": 8, "width": 8}],
)
def test_a_key_of_raw_pixels_may_hold_an_image_file(sizes: dict[str, int]) -> None:
    content = encode_png(noise(0, 8, 8))
    assert image_of_example(decode_example(encode_example({"image": content, **sizes}))) == content


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_length_that_fits_is_raw_whatever_it_begins_with(channels: int) -> None:
    pixels = pattern(0, channels)[:4, :4]
    pixels = np.frombuffer(b"GIF8" + pixels.tobytes()[4:], np.uint8).reshape(pixels.shape)
    example = {"image": pixels.tobytes(), "height": 4, "width": 4}
    found = image_of_example(decode_example(encode_example(example)))
    assert np.array_equal(found, pixels)


def test_a_record_that_is_no_example_is_left_out_and_those_after_it_are_not(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    whole = encode_example({"image/encoded": encode_png(noise(0, 8, 8))})
    with path.open("wb") as file:
        for payload in (whole, b"\xff", whole):
            write_record(file, payload)
    manifest = pack(path, tmp_path / "out", PackSettings(size=8), workers=1)
    assert (manifest.count, manifest.left_out) == (2, 1)
