"""Animations, sheets of many images and records on stdout of `pixmend complete`."""

import json
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image

from pixmend.cli import completion_run
from pixmend.cli.input_files import InputFile
from pixmend.errors import SettingsError
from pixmend.models import save_model
from pixmend.storage import StorePath


@pytest.fixture(scope="module")
def model(lively, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(lively(), path)
    return path


def put(path, shape=(24, 20, 3), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)).save(path)  # fmt: skip
    return path


def complete(program, model, *arguments, out):
    return program(
        "complete",
        "--mask",
        "center",
        model,
        *arguments,
        "--out",
        out,
        "--steps",
        3,
        "--method",
        "classic",
    )


def size_of(path):
    with Image.open(path) as image:
        return image.size


# Records


def test_json_is_one_record_an_image_and_nothing_else_on_stdout(program, model, tmp_path):
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        put(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("not an image")
    ran = complete(program, model, tmp_path / "in", "--json", out=tmp_path / "out")
    assert ran.code == 2
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert sorted(record["file"].rpartition("/")[2] for record in records) == names
    assert [record["file"][-5:] for record in records if "error" in record] == ["b.png"]
    assert ran.out == (tmp_path / "out" / "results.jsonl").read_text()
    assert "1 of 3 inputs failed" in ran.err
    assert "2 completed" in ran.err


def test_without_json_stdout_is_for_people(program, model, tmp_path):
    ran = complete(program, model, put(tmp_path / "a.png"), out=tmp_path / "out")
    assert ran.code == 0
    assert ran.out.startswith("1 completed")


def test_warnings_are_on_stderr_and_in_the_record(program, model, tmp_path):
    image = put(tmp_path / "a.png")
    for mask, words in (("random:0.97", "97.1% is missing"), ("none.png", "nothing is missing")):
        Image.new("L", (20, 24)).save(tmp_path / "none.png")
        given = mask if ":" in mask else tmp_path / mask
        ran = complete(program, model, image, "--mask", given, "--json", out=tmp_path / "out")
        assert ran.code == 0, ran.err
        assert f"warning: {image}: {words}" in ran.err
        assert words in json.loads(ran.out)["warnings"][0]
    with Image.open(image) as before, Image.open(tmp_path / "out" / "a.png") as after:
        assert np.array_equal(np.asarray(before), np.asarray(after))


# Animations


def test_one_image_has_its_animation_at_the_path_given(program, model, tmp_path):
    path = tmp_path / "gifs" / "my.gif"
    ran = complete(program, model, put(tmp_path / "a.png"), "--animation", path, "--json", out=tmp_path / "out")  # fmt: skip
    assert ran.code == 0, ran.err
    with Image.open(path) as frames:
        durations = [frames.info["duration"] for _ in map(frames.seek, range(frames.n_frames))]
        # Masked, steps 0 to 3, completed; frames that are alike are stored as one.
        assert sum(durations) == 5 * 150 + 1500
        assert len(durations) > 2
        assert frames.size == (200, 240)
    assert json.loads(ran.out)["animation"] == str(path)


def test_several_images_have_an_animation_each_under_their_own_names(program, model, tmp_path):
    for name in ("a.png", "a.jpg", "sub/a.png"):
        put(tmp_path / "in" / name)
    ran = complete(program, model, tmp_path / "in", "--animation", tmp_path / "my.gif", "--json", out=tmp_path / "out")  # fmt: skip
    assert ran.code == 0, ran.err
    names = sorted(path.relative_to(tmp_path / "my").as_posix() for path in (tmp_path / "my").rglob("*.gif"))  # fmt: skip
    assert names == ["a.jpg.png.gif", "a.png.gif", "sub/a.png.gif"]
    assert len({json.loads(line)["animation"] for line in ran.out.splitlines()}) == 3


@pytest.mark.parametrize(("name", "words"), [("a.mp4", "ends in .gif"), ("in.gif", "is an input")])
def test_animations_of_other_kinds_and_in_the_place_of_inputs_are_refused(program, model, tmp_path, name, words):  # fmt: skip
    put(tmp_path / "in.gif")
    ran = complete(program, model, tmp_path / "in.gif", "--animation", tmp_path / name, out=tmp_path / "out")  # fmt: skip
    assert ran.code == 2
    assert words in ran.err
    assert not (tmp_path / "out").exists()


def test_a_folder_of_animations_is_not_one_of_inputs(tmp_path):
    paths = [put(tmp_path / "in" / name) for name in ("a.png", "b.png")]
    inputs = [InputFile(StorePath(path), PurePath(path.name)) for path in paths]
    with pytest.raises(SettingsError, match="is an input"):
        completion_run.Animations(tmp_path / "in.gif", inputs)


# Sheets


def test_several_images_share_sheets_page_by_page(program, model, tmp_path, monkeypatch):
    monkeypatch.setattr(completion_run, "_SHEET_ROWS", 2)
    for name in ("a.png", "b.png", "sheet.png", "d.png", "e.png"):
        put(tmp_path / "in" / name)
    out = tmp_path / "out"
    ran = complete(program, model, tmp_path / "in", "--snapshots", "0,3", "--candidates", 2, out=out)  # fmt: skip
    assert ran.code == 0, ran.err
    width, row = 8 + 6 * 136, 128 + 8 + 16
    assert size_of(out / "sheet.png") == (20, 24), "an input's own name is its answer's"
    assert size_of(out / "contact-sheet.png") == (width, 26 + 2 * row + 8)
    assert size_of(out / "sheet-2.png") == (width, 26 + 2 * row + 8)
    assert size_of(out / "sheet-3.png") == (width, 26 + row + 8)


def test_a_row_without_snapshots_keeps_its_columns(program, model, tmp_path):
    for name in ("a.png", "b.png"):
        put(tmp_path / "in" / name)
        Image.new("L", (20, 24)).save(tmp_path / name)
    Image.new("L", (20, 24), 255).crop((0, 0, 20, 24)).save(tmp_path / "b.png")
    hole = np.zeros((24, 20), np.uint8)
    hole[5:9, 5:9] = 255
    (tmp_path / "masks").mkdir()
    Image.new("L", (20, 24)).save(tmp_path / "masks" / "a.png")  # of a nothing is missing
    Image.fromarray(hole).save(tmp_path / "masks" / "b.png")
    out = tmp_path / "out"
    ran = complete(program, model, tmp_path / "in", "--mask", tmp_path / "masks", "--snapshots", "0,3", out=out)  # fmt: skip
    assert ran.code == 0, ran.err
    with Image.open(out / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape[1] == 8 + 5 * 136
    paper = sheet[0, 0]
    first, second = (sheet[26 + 16 + number * 152 :][:128] for number in (0, 1))
    snapshot = np.s_[:, 8 + 2 * 136 : 8 + 3 * 136]
    assert (first[snapshot] == paper).all()
    assert not (second[snapshot] == paper).all()


def test_one_image_has_its_own_sheet_alone(program, model, tmp_path):
    out = tmp_path / "out"
    assert complete(program, model, put(tmp_path / "a.png"), out=out).code == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "a.sheet.png", "results.jsonl"]


# Depth, alpha, blends and windows from the command line


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("blend", ["paste", "feather", "poisson"])
def test_16_bit_grey_is_read_and_written_as_16_bit_grey(program, model, tmp_path, suffix, blend):
    path = put(tmp_path / f"a.{suffix}", (24, 20), np.uint16)
    ran = complete(program, model, path, "--blend", blend, out=tmp_path / "out")
    assert ran.code == 0, ran.err
    with Image.open(path) as before, Image.open(tmp_path / "out" / f"a.{suffix}") as after:
        assert after.mode == "I;16"
        old, new = np.asarray(before), np.asarray(after)
    assert np.array_equal(new[:6], old[:6])
    assert not np.array_equal(new, old)


def test_windows_and_blends_by_correct_and_misspelt_name(program, model, tmp_path):
    path = put(tmp_path / "a.png", (80, 90, 3))
    hole = np.zeros((80, 90), np.uint8)
    hole[3:7, 3:7] = hole[70:76, 80:88] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    mask = ("--mask", tmp_path / "hole.png")
    ran = complete(program, model, path, *mask, "--view", "window", "--json", out=tmp_path / "out")
    assert json.loads(ran.out)["windows"] == 2
    for option, word, names in (("--view", "windows", "whole and window"), ("--blend", "fether", "feather")):  # fmt: skip
        ran = complete(program, model, path, *mask, option, word, out=tmp_path / "no")
        assert ran.code == 2
        assert names in ran.err
        assert not (tmp_path / "no").exists()
