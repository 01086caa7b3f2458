"""What is found, in which order, and under which class."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixmend.errors import InputError
from pixmend.records import Manifest, PackSettings, Records, find_source, pack
from pixmend.records.packing import shard_count
from pixmend.records.sources import ImageSource, source_from_line, source_to_line, write_image_list
from pixmend.storage import StorePath

from .helpers import every, noise


def write(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(number, 8, 8)).save(path, "PNG")
    return folder


def found(folder: Path) -> list[tuple[str, str | None]]:
    return [(item.name, item.class_text) for item in find_source(folder).images()]


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    write(tmp_path, "Sample010/a.png", "Sample002/x/b.png", "Sample002/a.png", "top.png")
    assert found(tmp_path) == [
        ("Sample002/a.png", "Sample002"),
        ("Sample002/x/b.png", "Sample002"),
        ("Sample010/a.png", "Sample010"),
        ("top.png", None),
    ]


def test_classes_below_a_common_folder_are_found(tmp_path: Path) -> None:
    write(tmp_path, "English/Fnt/Sample001/a.png", "English/Fnt/Sample002/a.png")
    assert [text for _, text in found(tmp_path)] == ["Sample001", "Sample002"]


def test_where_nothing_branches_the_first_folder_is_the_class(tmp_path: Path) -> None:
    write(tmp_path, "cats/a.png", "cats/b.png")
    assert [text for _, text in found(tmp_path)] == ["cats", "cats"]


def test_labels_are_the_order_of_class_texts(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", *(f"Sample{n:03d}/a.png" for n in (12, 1, 3)), "none.png")
    pack(folder, tmp_path / "out", PackSettings(size=8), workers=1)
    records = Records(tmp_path / "out")
    assert records.manifest.classes == ("Sample001", "Sample003", "Sample012")
    assert records.labels([0, 1, 2, 3]).tolist() == [0, 1, 2, -1]
    assert records.names([3, 0]) == ["none.png", "Sample001/a.png"]


def test_numbers_as_classes_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", *(f"{n}/a.png" for n in (10, 9, 2)))
    pack(folder, tmp_path / "out", PackSettings(size=8), workers=1)
    assert Manifest.read(tmp_path / "out").classes == ("2", "9", "10")


def test_one_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    folder = write(tmp_path / "in", "a/x.png", "b/x.png", "a/x.PNG")
    pack(folder, tmp_path / "out", PackSettings(size=8), workers=1)
    records = Records(tmp_path / "out")
    assert records.names(range(3)) == ["a/x.PNG", "a/x.png", "b/x.png"]
    assert len(np.unique(every(records), axis=0)) == 3


def test_links_to_folders_are_not_followed(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret", "s.png")
    folder = write(tmp_path / "in", "a.png")
    (folder / "out-of-here").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    (folder / "b.png").symlink_to(folder / "a.png")
    assert [name for name, _ in found(folder)] == ["a.png", "b.png"]


def test_hidden_files_and_folders_named_like_images(tmp_path: Path) -> None:
    write(tmp_path, "a.png", ".hidden.png", ".git/b.png", "folder.png/c.png")
    assert [name for name, _ in found(tmp_path)] == ["a.png", "folder.png/c.png"]


def test_a_pipe_named_like_an_image_does_not_hang(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    items = {item.name: item.reason for item in find_source(tmp_path).images()}
    assert not items["a.png"]
    assert "not a regular file" in items["pipe.png"]


def test_names_that_are_no_text_are_kept_apart_from_paths(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        Image.fromarray(noise(0, 8, 8)).save(os.fsencode(folder) + b"/\xff.png", "PNG")
    except OSError:
        pytest.skip("this file system takes text only")
    pack(folder, tmp_path / "out", PackSettings(size=8), workers=1)
    assert Records(tmp_path / "out").names([0]) == ["\ufffd.png"]


def test_containers_beside_images_are_reported_not_mixed_in(tmp_path: Path) -> None:
    write(tmp_path, "a.png")
    (tmp_path / "the-same.zip").write_bytes(b"whatever")
    reasons = {item.name: item.reason for item in find_source(tmp_path).images()}
    assert not reasons["a.png"]
    assert "pack it by itself" in reasons["the-same.zip"]


def test_sources_survive_as_lines() -> None:
    item = ImageSource("zip", "a\udcff.zip", "ü/x.png", None, (1, 2), (3, 4), "why")
    line = source_to_line(item)
    assert line.isascii()
    assert source_from_line(line) == item


@pytest.mark.parametrize("name", ["none", "empty", "text.txt", "only-text"])
def test_bad_sources_say_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "only-text").mkdir()
    (tmp_path / "only-text" / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=name) as caught:
        find_source(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_name_too_long_is_an_input_error() -> None:
    with pytest.raises(InputError):
        find_source("x" * 5000)


def test_the_output_inside_the_source_is_no_input(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(6)
    out = folder / "records"
    first = pack(folder, out, PackSettings(size=8), workers=1)
    assert pack(folder, out, PackSettings(size=8), workers=1) == first
    images = write_image_list(find_source(folder), folder.parent / "list", outside=StorePath(out))
    assert images.count == 6


def test_records_inside_the_folder_of_their_source_do_not_take_its_place(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    write(tmp_path / "images", "a.png", "b.png")
    folder.mkdir()
    shutil.make_archive(str(folder / "images"), "zip", tmp_path / "images")
    first = pack(folder, folder / "records", PackSettings(size=8), workers=1)
    assert (folder / "records" / "manifest.json").is_file()
    (folder / "records" / "manifest.json").unlink()
    assert pack(folder, folder / "records", PackSettings(size=8), workers=1) == first


@pytest.mark.parametrize("gone", [("manifest.json",), ("manifest.json", "inputs.jsonl")])
def test_part_of_a_packing_is_no_source(
    make_folder: Callable[..., Path], gone: tuple[str, ...]
) -> None:
    records = make_folder(3).parent / "records"
    pack(make_folder(3), records, PackSettings(size=8), workers=1)
    assert find_source(records.parent).kind == "image"
    assert find_source(records).kind == "tfrecord"
    for name in gone:
        (records / name).unlink()
    with pytest.raises(InputError, match=r"records without a manifest\.json: .* run the same"):
        find_source(records)
    for path in records.glob("*.index"):
        path.unlink()
    (records / "inputs.jsonl").unlink(missing_ok=True)
    assert find_source(records).kind == "tfrecord"  # shards alone are anybody's


@pytest.mark.parametrize(
    ("inputs", "most", "shards"),
    [(1, 4096, 1), (10, 4, 3), (64, 4096, 1), (65, 4096, 2), (5000, 4096, 16), (100_000, 4096, 25)],
)
def test_the_number_of_shards(inputs: int, most: int, shards: int) -> None:
    assert shard_count(inputs, most) == shards


def test_a_list_is_cut_into_even_shares_and_sampled_evenly(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(150):  # empty files are listed like any others
        (folder / f"{'x' * (number % 7)}{number:03d}.png").touch()
    source = find_source(folder)
    images = write_image_list(source, tmp_path / "list", outside=StorePath(tmp_path / "out"))
    sources = list(source.images())
    assert images.count == 150
    assert list(images.sample(64)) == [sources[number * 150 // 64] for number in range(64)]
    assert list(images.sample(1000)) == sources
    lines = (tmp_path / "list").read_bytes().splitlines(keepends=True)
    for count in (1, 4, 150):
        edges = [150 * number // count for number in range(count + 1)]
        for share, start, stop in zip(images.shares(count), edges, edges[1:], strict=False):
            digest = hashlib.sha256(b"".join(lines[start:stop])).hexdigest()
            assert share == (start, sum(map(len, lines[:start])), stop - start, digest)
