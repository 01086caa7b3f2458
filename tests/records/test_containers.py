"""Zip and idx: read in memory, within limits, whatever they claim."""

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixmend.errors import InputError
from pixmend.records import PackSettings, Records, find_source, pack
from pixmend.records.containers import read_zip
from pixmend.records.tfrecord import encode_example
from pixmend.storage import StorePath

from .helpers import every, noise, write_record


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(number, 8, 8)).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def packed(source: Path) -> Records:
    out = source.parent / f"{source.name}-records"
    pack(source, out, PackSettings(size=8), workers=1)
    return Records(out)


def read_member(path: Path, place: tuple[int, ...]) -> bytes:
    (content,) = read_zip(StorePath(path), [place])
    if isinstance(content, InputError):
        raise content
    return content


def reasons(records: Records) -> dict[str, str]:
    lines = map(json.loads, (records.path / "inputs.jsonl").read_bytes().splitlines())
    return {line["name"]: line["reason"] for line in lines if "reason" in line}


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_zip_members_in_order_of_name_with_classes(tmp_path: Path, method: int) -> None:
    members = {"set/B/2.png": png(2), "set/A/1.PNG": png(1), "set/readme.txt": b"hi"}
    records = packed(zip_of(tmp_path / "set.zip", members, method))
    assert records.manifest.classes == ("A", "B")
    assert records.names([0, 1]) == ["set.zip/set/A/1.PNG", "set.zip/set/B/2.png"]
    assert np.array_equal(every(records), [noise(1, 8, 8), noise(2, 8, 8)])


def test_zip_with_data_before_it(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.png": png(1)})
    path.write_bytes(b"#!/bin/sh\n" * 9 + path.read_bytes())
    assert np.array_equal(every(packed(path))[0], noise(1, 8, 8))


def test_names_that_climb_are_labels_and_nothing_is_extracted(tmp_path: Path) -> None:
    inner = tmp_path / "deep" / "er"
    inner.mkdir(parents=True)
    names = ["../../escape.png", "/etc/absolute.png", "C:\\windows\\x.png", "a/../../b.png"]
    path = zip_of(inner / "evil.zip", {name: png(n) for n, name in enumerate(names)})
    before = {p for p in tmp_path.rglob("*") if "records" not in p.name}
    records = packed(path)
    assert len(records) == 4
    assert not any(".." in name or name.startswith("/") for name in records.names(range(4)))
    after = {p for p in tmp_path.rglob("*") if "records" not in str(p.relative_to(tmp_path))}
    assert after == before


def test_mac_leftovers_are_no_images(tmp_path: Path) -> None:
    members = {"a.png": png(0), "__MACOSX/._a.png": b"x", "._b.png": b"x", ".hidden/c.png": b"x"}
    assert len(packed(zip_of(tmp_path / "a.zip", members))) == 1


def test_two_members_of_one_name_are_both_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png(2))
    assert len(np.unique(every(packed(path)), axis=0)) == 2


def test_damaged_zip_members_are_reported(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.png": png(1), "b.png": png(2), "t.png": b"text"})
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF  # within the first member's data
    path.write_bytes(content)
    records = packed(path)
    assert records.names([0]) == ["a.zip/b.png"]
    assert set(reasons(records)) == {"a.zip/a.png", "a.zip/t.png"}


def test_methods_that_are_not_read_say_so(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
        archive.writestr("b.png", png(2), zipfile.ZIP_LZMA)
    assert "deflate" in reasons(packed(path))["a.zip/b.png"]


def test_a_member_larger_than_it_says_is_cut_off(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "bomb.zip", {"a.png": bytes(10**7)})
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    tracemalloc.start()
    with pytest.raises(InputError, match="size or checksum"):
        read_member(path, (info.header_offset, info.compress_size, 100, 8, info.CRC))
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_flipped_byte_in_a_stored_member_is_found(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.png": b"x" * 100}, zipfile.ZIP_STORED)
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[0]
    place = (info.header_offset, info.compress_size, info.file_size, 0, info.CRC)
    assert read_member(path, place) == b"x" * 100
    path.write_bytes(path.read_bytes().replace(b"x" * 100, b"x" * 99 + b"y"))
    with pytest.raises(InputError, match="size or checksum"):
        read_member(path, place)


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.png": png(1), "b.png": png(2)})
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "password" in reasons(packed(path))["a.zip/a.png"]


def test_a_member_that_says_it_is_huge_is_left_out(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", {"a.png": png(1), "huge.png": bytes(1000)})
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[entry + 24 : entry + 28] = struct.pack("<I", 600 * 2**20)
    path.write_bytes(content)
    with pytest.raises(InputError, match="bomb"):
        list(find_source(path).images())


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04" + bytes(100), b"no zip"])
def test_what_is_no_zip_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip"):
        pack(tmp_path / "a.zip", tmp_path / "out", PackSettings(size=8))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_zips_loses_only_the_broken_one(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    zip_of(folder / "a.zip", {"a.png": png(1)})
    (folder / "b.zip").write_bytes(b"broken")
    records = packed(folder)
    assert len(records) == 1
    assert set(reasons(records)) == {"b.zip"}


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Twelve training images of 9 x 7 and three for testing, the latter not gzipped and without labels."""
    images = np.stack([noise(number, 9, 7, 1) for number in range(15)])
    folder = tmp_path / "mnist"
    folder.mkdir()
    labels = np.arange(12, dtype=np.uint8) % 10
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images[:12])))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    (folder / "t10k-images.idx3-ubyte").write_bytes(idx(images[12:]))
    return folder, images


def test_idx_folder(mnist: tuple[Path, np.ndarray]) -> None:
    folder, images = mnist
    out = folder.parent / "records"
    settings = PackSettings(size=9, fit="pad", images_per_shard=4, background="black")
    pack(folder, out, settings, workers=1)
    records = Records(out)
    order = [12, 13, 14, *range(12)]  # t10k comes before train
    assert np.array_equal(every(records)[:, :, 1:8, 0], images[order])
    assert records.labels(range(15)).tolist() == [-1, -1, -1, *range(10), 0, 1]
    assert records.manifest.classes == tuple("0123456789")
    assert records.names([0, 14]) == [
        "t10k-images.idx3-ubyte/0",
        "train-images-idx3-ubyte.gz/11",
    ]


def test_one_idx_file_is_a_source(mnist: tuple[Path, np.ndarray]) -> None:
    source = mnist[0] / "train-images-idx3-ubyte.gz"
    assert len(packed(source)) == 12


def test_a_cut_idx_loses_only_its_end(mnist: tuple[Path, np.ndarray]) -> None:
    path = mnist[0] / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-200])
    records = packed(mnist[0])
    assert 0 < len(records) < 15
    assert "damaged" in next(iter(reasons(records).values()))


@pytest.mark.parametrize("shape", [(3,), (13,), (3, 4)])
def test_labels_that_do_not_fit(mnist: tuple[Path, np.ndarray], shape: tuple[int, ...]) -> None:
    labels = gzip.compress(idx(np.zeros(shape, np.uint8)))
    (mnist[0] / "train-labels-idx1-ubyte.gz").write_bytes(labels)
    found = {item.file: item.reason for item in find_source(mnist[0]).images()}
    assert "labels for 12" in found["train-images-idx3-ubyte.gz"]


def test_idx_of_other_shapes_and_labels_that_do_not_fit(mnist: tuple[Path, np.ndarray]) -> None:
    folder, images = mnist
    (folder / "t10k-images.idx3-ubyte").write_bytes(idx(images[12:])[:-1])
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros(3, np.uint8))))
    (folder / "huge-idx3-ubyte").write_bytes(idx(images[:1])[:4] + b"\xff" * 12)
    (folder / "text-idx3-ubyte.gz").write_text("text")
    found = {item.file: item.reason for item in find_source(folder).images()}
    assert "cut short" in found["t10k-images.idx3-ubyte"]
    assert "labels for 12" in found["train-images-idx3-ubyte.gz"]
    assert "out of range" in found["huge-idx3-ubyte"]
    assert "not an idx" in found["text-idx3-ubyte.gz"]
    with pytest.raises(InputError, match="no image in it can be read"):
        packed(folder)


def test_a_member_over_the_limit_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    zip_of(path, {"a.png": png(1), "b.png": png(2) + bytes(2**20)}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[entry + 24 : entry + 28] = struct.pack("<I", 600 * 2**20)
    path.write_bytes(content)
    found = {item.name: item.reason for item in find_source(path).images()}
    assert not found["a.zip/a.png"]
    assert "over the limit" in found["a.zip/b.png"]


def test_a_zip_in_a_zip_is_left_out_with_a_hint(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", {"a.png": png(1)}).read_bytes()
    hint = "a zip within a zip; unpack it first"
    records = packed(zip_of(tmp_path / "set.zip", {"a.png": png(1), "b/inner.zip": inner}))
    assert reasons(records) == {"set.zip/b/inner.zip": hint}
    assert records.manifest.classes == ()
    with pytest.raises(InputError, match=f"inner.zip: {hint}"):
        packed(zip_of(tmp_path / "outer.zip", {"inner.zip": inner}))


def test_no_advice_names_an_option_that_packing_lacks(tmp_path: Path) -> None:
    path = tmp_path / "a.tfrecord"
    with path.open("wb") as file:
        write_record(file, encode_example({"image/encoded": png(1)}))
        write_record(file, encode_example({"image/encoded": png(2)}))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (reason,) = reasons(packed(path)).values()
    assert reason.endswith("the checksum of its payload is wrong; fetch or pack the file again")
