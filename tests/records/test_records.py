"""Records read back at random; each broken byte is named, and the rest still reads."""

import copy
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pixmend.errors import InputError, RecordError, StoppedError
from pixmend.images import encode_png, fit_square
from pixmend.records import Manifest, Records
from pixmend.records.manifest import read_index, write_index
from pixmend.records.tfrecord import encode_example

from .helpers import every, noise, write_record


def test_any_order_gives_the_images_of_their_numbers(packed: tuple[Path, Manifest]) -> None:
    records = Records(packed[0])
    assert (len(records), records.size, records.channels) == (10, 8, "RGB")
    settings = records.manifest.settings
    assert (settings.fit, settings.background) == ("crop", "white")
    assert records.digest == packed[1].digest
    order = np.array([9, 0, 4, 4, 3])
    images = records.images(order)
    assert images.shape == (5, 8, 8, 3)
    names = records.names(order)
    for image, name in zip(images, names, strict=True):
        number = int(name[-8:-4])
        assert np.array_equal(image, fit_square(noise(number), 8, "crop"))
    assert records.labels(order).dtype == np.int64
    assert [f"Sample{label + 1:03d}" for label in records.labels(order)] == [
        name.partition("/")[0] for name in names
    ]


def test_resident_is_all_images_or_none(packed: tuple[Path, Manifest]) -> None:
    records = Records(packed[0])
    told: list[tuple[int, int]] = []
    size = 10 * 8 * 8 * 3
    held = records.load_all(size, on_progress=lambda done, total: told.append((done, total)))
    assert held is not None
    assert np.array_equal(held, every(records))
    assert told[-1] == (10, 10)
    assert records.load_all(size - 1) is None


def test_copies_and_threads_read_the_same(packed: tuple[Path, Manifest]) -> None:
    records = Records(packed[0])
    images = every(records)
    assert np.array_equal(every(copy.copy(records)), images)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda index: records.images([index])[0], list(range(10)) * 10))
    assert np.array_equal(found, np.tile(images, (10, 1, 1, 1)))


def test_numbers_out_of_range(packed: tuple[Path, Manifest]) -> None:
    records = Records(packed[0])
    assert np.array_equal(records.images([-1]), records.images([9]))
    with pytest.raises(IndexError):
        records.images([10])
    assert records.payload(-10) == records.payload(0)
    for number in (10, -11):
        with pytest.raises(IndexError, match=f"image {number} of 10"):
            records.payload(number)


def test_opening_is_stopped_between_shards(packed: tuple[Path, Manifest]) -> None:
    looks = iter([False, True])
    with pytest.raises(StoppedError):
        Records(packed[0], should_stop=lambda: next(looks))
    with pytest.raises(StopIteration):
        next(looks)


def test_a_manifest_and_its_shards_are_values(packed: tuple[Path, Manifest]) -> None:
    manifest = packed[1]
    with pytest.raises(ValueError, match="frozen"):
        manifest.count = 3
    with pytest.raises(ValueError, match="frozen"):
        manifest.shards[0].count = 3
    assert hash(manifest.shards[0]) == hash(manifest.shards[0].model_copy())


def test_a_manifest_that_cannot_be_read_says_how_to_go_on(packed: tuple[Path, Manifest]) -> None:
    path = packed[0] / "manifest.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"manifest\.json.*pack"):
        Records(packed[0])


def break_at(shard: Path, offset: int) -> None:
    content = bytearray(shard.read_bytes())
    content[offset] ^= 0xFF
    shard.write_bytes(content)


@pytest.mark.parametrize("part", ["length", "length-crc", "payload", "payload-crc"])
def test_a_flipped_byte_is_named_and_skipped(packed: tuple[Path, Manifest], part: str) -> None:
    folder, manifest = packed
    before = every(Records(folder))
    shard = folder / manifest.shards[1].name
    offsets = read_index(shard)
    at = {"length": 0, "length-crc": 8, "payload": 30, "payload-crc": offsets[2] - offsets[1] - 1}
    break_at(shard, offsets[1] + at[part])
    broken = manifest.shards[0].count + 1
    records = Records(folder)
    with pytest.raises(RecordError, match=re.escape(f"{shard}: record at byte {offsets[1]:,}:")):
        records.images([broken])
    assert np.array_equal(
        records.images([broken - 1, broken + 1]), before[[broken - 1, broken + 1]]
    )
    rest = Records(folder, skip_bad=True)
    assert np.array_equal(every(rest), np.delete(before, broken, axis=0))
    assert len(rest.bad) == 1
    assert shard.name in rest.bad[0]
    assert f"byte {offsets[1]:,}" in rest.bad[0]


@pytest.mark.parametrize("how", ["missing", "broken", "stale"])
def test_the_index_can_be_found_again(packed: tuple[Path, Manifest], how: str) -> None:
    folder, manifest = packed
    before = every(Records(folder))
    index = (folder / manifest.shards[1].name).with_suffix(".index")
    if how == "missing":
        index.unlink()
    elif how == "broken":
        break_at(index, 30)
    else:
        index.write_bytes(
            (folder / manifest.shards[0].name).with_suffix(".index").read_bytes()[:24]
        )
    assert np.array_equal(every(Records(folder)), before)
    assert np.array_equal(every(Records(folder, skip_bad=True)), before)


def test_a_shard_cut_short_or_missing(packed: tuple[Path, Manifest]) -> None:
    folder, manifest = packed
    shard = folder / manifest.shards[2].name
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    with pytest.raises(RecordError, match=f"ends at byte {len(content) - 10:,}"):
        Records(folder)
    assert len(Records(folder, skip_bad=True)) == 9
    shard.unlink()
    with pytest.raises(RecordError, match=shard.name):
        Records(folder)
    rest = Records(folder, skip_bad=True)
    assert len(rest) == 10 - manifest.shards[2].count
    assert shard.name in rest.bad[0]


def test_a_whole_record_of_another_kind_is_named(packed: tuple[Path, Manifest]) -> None:
    folder, manifest = packed
    shard = folder / manifest.shards[0].name
    with shard.open("wb") as file:
        small = encode_png(noise(0, 7, 8))
        examples: list[dict[str, bytes]] = [
            {"image/encoded": b"text"},
            {"image/encoded": small},
            {},
        ]
        payloads = [b"\xff\xff", *map(encode_example, examples)]
        offsets = [write_record(file, payload) for payload in payloads]
    write_index(shard, np.array(offsets, np.uint64))
    length = shard.stat().st_size
    content = manifest.model_dump(mode="json")
    content["shards"][0] |= {"bytes": length, "count": 4}
    content["count"] = 4 + sum(part["count"] for part in content["shards"][1:])
    Manifest.model_validate(content).write(folder)
    records = Records(folder)
    for index in range(4):
        with pytest.raises(RecordError, match=rf"{shard.name}: .*byte {offsets[index]:,}:"):
            records.images([index])


def test_what_is_no_record_folder(packed: tuple[Path, Manifest], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        Records(tmp_path / "none")
    with pytest.raises(InputError, match="pixmend pack"):
        Records(tmp_path)
    manifest = packed[0] / "manifest.json"
    text = manifest.read_text()
    for altered in (text[:50], "[]", "{}", text.replace('"count": 10', '"count": 11')):
        manifest.write_text(altered)
        with pytest.raises(InputError, match=r"manifest\.json"):
            Records(packed[0])
    manifest.write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match="format 2"):
        Records(packed[0])
    manifest.write_text(text.replace('"name": "', '"name": "../'))
    with pytest.raises(InputError, match="not a manifest"):
        Records(packed[0])
    manifest.write_text(text.replace(packed[1].shards[0].sha256, "0" * 64))
    with pytest.raises(InputError, match="altered"):
        Records(packed[0])
    manifest.unlink()
    with pytest.raises(InputError, match="not finished"):
        Records(packed[0])


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": 1}', '{"format": [1]}', "[]", '"', '{"format": 1e999}']
)
def test_a_manifest_that_is_none_is_refused_in_words(
    packed: tuple[Path, Manifest], text: str
) -> None:
    (packed[0] / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest\.json: .*pack the folder again"):
        Records(packed[0])


@pytest.mark.parametrize("name", ["../a", "a\\b", "a\0b", "a\nb", "", "/a"])
def test_a_manifest_names_no_file_outside_its_folder_and_none_that_cannot_be(
    packed: tuple[Path, Manifest], name: str
) -> None:
    folder, manifest = packed
    first = manifest.shards[0].model_copy(update={"name": f"{name}.tfrecord"})
    changed = manifest.model_copy(update={"shards": (first, *manifest.shards[1:])})
    changed.write(folder)
    with pytest.raises(InputError, match="not a manifest of records"):
        Records(folder)
