"""Inputs listed folder by folder get the unique names that one process gives them."""

from pathlib import PurePath

import pytest

from pixmend.cluster.input_listing import InputPlan, part_count, read_parts, write_inputs
from pixmend.completion import Names, plan_targets
from pixmend.errors import InputError
from pixmend.images import find_images
from pixmend.storage import StorePath

MEETING = (
    "a.png",
    "a.gif",
    "A.jpg",
    "a.sheet.png",
    "b.candidate-2.png",
    "b.webp",
    "c.bmp",
    "c.bmp.png",
)
# Of 246 bytes, so that what is written beside the answers gets shorter stems, which are equal.
LONG = (f"{'n' * 240}-a.png", f"{'n' * 240}-b.png", f"{'ü' * 120}-a.png", "c.png")
APART = ("a.png", "b.jpg", "sub/a.png", "sub/b.jpg", "sub/deep/c.gif", "ab.png")


def folder_of(tmp_path, names):
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "in"


def listed(inputs, out, tmp_path, reserved=()):
    path = tmp_path / "listing"
    count = write_inputs(inputs, path, outside=StorePath(out), reserved=reserved)
    found = [each for part in read_parts(path) for each in inputs.inputs(part)]
    assert len(found) == count
    return found


@pytest.mark.parametrize("names", [MEETING, APART, LONG])
def test_names_are_those_of_one_process(tmp_path, names):
    folder = folder_of(tmp_path, names)
    found = listed(InputPlan(StorePath(folder), [], 2, True), tmp_path / "out", tmp_path)
    once = Names()
    relatives = [path.relative_to(folder) for path in find_images(folder)]
    targets = dict(zip(relatives, plan_targets(relatives, once), strict=True))
    wanted = {
        relative: once.settle(target, target.suffix, candidates=2, uncertainty=True)
        for relative, target in targets.items()
    }
    assert {
        each.path.local.relative_to(folder): next(iter(each.names.values())) for each in found
    } == wanted
    every = [
        str(name).casefold()
        for each in found
        for names in each.names.values()
        for name in names.files()
    ]
    assert len(set(every)) == len(every)


def test_hidden_files_and_the_folder_of_results_are_passed_over(tmp_path):
    folder = folder_of(tmp_path, ["a.png", ".b.png", ".c/d.png", "out/a.png", "note.txt"])
    found = listed(InputPlan(StorePath(folder), [], 1, False), folder / "out", tmp_path)
    assert [each.path.name for each in found] == ["a.png"]


def test_no_result_takes_the_place_of_what_was_handed_over(tmp_path):
    given = folder_of(tmp_path, ["a.png", "b.png"]) / "a.png"
    (found,) = listed(
        InputPlan(None, [StorePath(given)], 1, False),
        tmp_path / "in",
        tmp_path,
        [PurePath("a.png")],
    )
    assert found.names[".png"].answers == (PurePath("a.png.png"),)


def test_parts_hang_on_the_inputs_alone_and_hold_each_once(tmp_path, monkeypatch):
    monkeypatch.setattr("pixmend.cluster.input_listing._PART", 4)
    folder = folder_of(tmp_path, [f"s{number % 3}/{number}.png" for number in range(13)])
    inputs = InputPlan(StorePath(folder), [], 1, False)
    path, out = tmp_path / "l", StorePath(tmp_path / "out")
    count = write_inputs(inputs, path, outside=out, reserved=[])
    sizes = [len(inputs.inputs(part)) for part in read_parts(path)]
    assert (sizes, count, part_count(count)) == ([4, 4, 4, 1], 13, 4)


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no images in this folder"):
        listed(
            InputPlan(StorePath(folder_of(tmp_path, ["a.txt"])), [], 1, False),
            tmp_path / "out",
            tmp_path,
        )
