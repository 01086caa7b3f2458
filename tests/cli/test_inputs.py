"""Inputs named by a command line, and results that never replace another file."""

import json
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from pixmend.cli.input_files import expand_inputs
from pixmend.completion import Names
from pixmend.errors import InputError
from pixmend.models import save_model
from pixmend.storage import StorePath


@pytest.fixture(scope="module")
def model(lively, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(lively(), path)
    return path


def put(path, number=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (24, 20, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def complete(program, model, *inputs, out, **options):
    options = {"steps": 2, "mask": "half:right", "method": "classic", **options}
    flags = (text for key, value in options.items() for text in (f"--{key}", value))
    return program("complete", model, *inputs, "--out", out, *flags)


def facts(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def left_half_is_kept(before, after):
    return np.array_equal(pixels_of(before)[:, :10], pixels_of(after)[:, :10])


# What is named


def test_files_folders_and_globs_are_each_taken_once_in_order(tmp_path):
    for name in ("b.png", "a.png", "sub/c.PNG", "notes.txt"):
        put(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).touch()
    given = [str(tmp_path / "b.png"), str(tmp_path), str(tmp_path / "*.png")]
    found = expand_inputs(given, out=StorePath(tmp_path / "out"))
    assert [item.relative.as_posix() for item in found] == ["b.png", "a.png", "sub/c.PNG"]


def test_a_file_name_that_looks_like_a_glob_is_that_file(tmp_path):
    put(tmp_path / "a[1].png")
    (found,) = expand_inputs([str(tmp_path / "a[1].png")], out=StorePath(tmp_path / "out"))
    assert found.path.name == "a[1].png"


def test_a_glob_without_a_match_and_a_missing_file_are_named(tmp_path):
    for name in ("nothing-*.png", "missing.png"):
        with pytest.raises(InputError, match=r"check the path") as caught:
            expand_inputs([str(tmp_path / name)], out=StorePath(tmp_path / "out"))
        assert name in str(caught.value)


def test_names_are_handed_out_once_whatever_their_capitals():
    names = Names()
    names.reserve([PurePath("results.jsonl")])
    wanted = ["a.png", "A.PNG", "a.png", "Results.JSONL", "a.png.png"]
    given = [str(names.free(PurePath(name), PurePath(f"{name}.png"))) for name in wanted]
    assert given[0] == "a.png"
    assert len({name.casefold() for name in [*given, "results.jsonl"]}) == 6


# What is written


def test_results_of_a_glob_are_not_its_inputs_the_next_time(program, model, tmp_path):
    put(tmp_path / "in" / "sub" / "a.png")
    out = tmp_path / "in" / "out"
    for _ in range(2):
        ran = complete(program, model, tmp_path / "in" / "*" / "*.png", out=out)
        assert ran.code == 0, ran.err
        assert [Path(line["file"]).name for line in facts(out)] == ["a.png"]
    assert files(out) == ["a.png", "a.sheet.png", "results.jsonl"]


@pytest.mark.parametrize("name", ["a.png", "a.sheet.png", "a.tif", "A.PNG"])
def test_a_result_never_takes_the_place_of_an_input(program, model, tmp_path, name):
    before = put(tmp_path / name).read_bytes()
    put(tmp_path / "a.jpg")
    inputs = [tmp_path / name, tmp_path / "a.jpg"]
    ran = complete(program, model, *inputs, out=tmp_path, candidates=2)
    assert ran.code == 0, ran.err
    assert (tmp_path / name).read_bytes() == before
    written = [line["output"] for line in facts(tmp_path)]
    assert len({name.casefold() for name in written}) == 2
    for path, output in zip(inputs, written, strict=True):
        assert left_half_is_kept(path, tmp_path / output)


def test_one_name_in_two_folders_is_two_results(program, model, tmp_path):
    for number, folder in enumerate(("one", "two", "three/one")):
        put(tmp_path / folder / "x.png", number)
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "three" / "one"]
    for given in (folders, [folder / "x.png" for folder in folders]):
        out = tmp_path / f"out-{given[0].name}"
        assert complete(program, model, *given, out=out).code == 0
        written = facts(out)
        assert len({line["output"].casefold() for line in written}) == 3
        for line in written:
            assert left_half_is_kept(line["file"], out / line["output"])


def test_lossless_formats_keep_their_suffix(program, model, tmp_path):
    expected = {"a.jpg": "a.png", "b.tif": "b.tif", "c.PNG": "c.PNG", "d.bmp": "d.bmp", "e.gif": "e.png",
                "f.webp": "f.webp"}  # fmt: skip
    for name in expected:
        put(tmp_path / "in" / name, format="PNG" if name.endswith("PNG") else None)
    out = tmp_path / "out"
    assert complete(program, model, tmp_path / "in", out=out).code == 0
    assert {Path(line["file"]).name: line["output"] for line in facts(out)} == expected


def test_a_cmyk_photograph_keeps_its_inks_and_metadata(program, model, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "the maker"
    exif.get_ifd(0x8769)[0x829A] = 0.5
    image = Image.fromarray(pixels_of(put(tmp_path / "x.png"))).convert("CMYK")
    image.save(tmp_path / "a.jpg", exif=exif.tobytes(), icc_profile=b"of inks")
    put(tmp_path / "b.png")
    out = tmp_path / "out"
    ran = complete(program, model, tmp_path / "a.jpg", tmp_path / "b.png", out=out)
    assert ran.code == 0, ran.err
    assert [line["output"] for line in facts(out)] == ["a.tif", "b.png"]
    with Image.open(out / "a.tif") as after, Image.open(tmp_path / "a.jpg") as before:
        assert after.mode == "CMYK"
        assert after.getexif()[0x010F] == "the maker"
        assert after.getexif().get_ifd(0x8769)[0x829A] == 0.5
        assert after.info["icc_profile"] == b"of inks"
        assert np.array_equal(np.asarray(after)[:, :10], np.asarray(before)[:, :10])


def test_batches_of_any_size_write_the_same_files(program, model, tmp_path):
    for number in range(5):
        put(tmp_path / "in" / f"{number}.png", number)
    for batch in (1, 3, 16):
        out = tmp_path / f"out-{batch}"
        assert complete(program, model, tmp_path / "in", out=out, batch=batch).code == 0
    for name in files(tmp_path / "out-1"):
        if name != "results.jsonl":
            contents = {(tmp_path / f"out-{batch}" / name).read_bytes() for batch in (1, 3, 16)}
            assert len(contents) == 1


def test_masks_of_a_folder_are_matched_and_a_missing_one_fails_that_file_alone(
    program, model, tmp_path
):
    for number, name in enumerate("abc"):
        put(tmp_path / "in" / f"{name}.png", number)
    hole = np.zeros((24, 20), np.uint8)
    hole[3:9, 4:11] = 255
    (tmp_path / "masks").mkdir()
    for name in ("a.bmp", "c.png"):
        Image.fromarray(hole).save(tmp_path / "masks" / name)
    (tmp_path / "masks" / "a.json").write_text("{}")  # notes beside a mask are no second mask
    out = tmp_path / "out"
    ran = complete(program, model, tmp_path / "in", out=out, mask=tmp_path / "masks")
    assert ran.code == 2
    assert "b.png" in ran.err
    assert "1 of 3 inputs failed" in ran.err
    for name in ("a.png", "c.png"):
        before, after = pixels_of(tmp_path / "in" / name), pixels_of(out / name)
        assert np.array_equal(before[hole == 0], after[hole == 0])
        assert not np.array_equal(before[hole > 0], after[hole > 0])


def test_bad_masks_and_bad_files_are_listed_and_the_others_done(program, model, tmp_path):
    put(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("a text")
    (tmp_path / "in" / "c.png").write_bytes(b"")
    Image.new("RGB", (7, 7)).save(tmp_path / "in" / "d.png")
    put(tmp_path / "in" / "e.jpg")
    hole = np.zeros((24, 20), np.uint8)
    hole[3:9, 4:11] = 255
    Image.fromarray(hole).save(tmp_path / "hole.png")
    out = tmp_path / "out"
    ran = complete(program, model, tmp_path / "in", out=out, mask=tmp_path / "hole.png", batch=2)
    assert ran.code == 2
    failed = [line for line in ran.err.splitlines() if line.startswith("failed: ")]
    assert [name for line in failed for name in ("b.png", "c.png", "d.png") if name in line] == [
        "b.png",
        "c.png",
        "d.png",
    ]
    assert "Traceback" not in ran.err
    assert "2 completed" in ran.out
    done = [line for line in facts(out) if "output" in line]
    assert [Path(line["file"]).name for line in done] == ["a.png", "e.jpg"]
    assert sorted(Path(line["file"]).name for line in facts(out) if "error" in line) == [
        "b.png",
        "c.png",
        "d.png",
    ]


def test_sheets_show_the_snapshots_and_candidates_asked_for(program, model, tmp_path):
    put(tmp_path / "a.png")
    out = tmp_path / "out"
    options = {"steps": 6, "snapshots": "0,4,900", "candidates": 3}
    assert complete(program, model, tmp_path / "a.png", out=out, **options).code == 0
    # original, masked, after 0, after 4, completed, candidates 2 and 3
    assert pixels_of(out / "a.sheet.png").shape == (26 + 168 + 8, 8 + 7 * 168, 3)
    assert files(out) == [
        "a.candidate-2.png", "a.candidate-3.png", "a.png", "a.sheet.png", "results.jsonl",
    ]  # fmt: skip
    answers = [pixels_of(out / name) for name in files(out)[:3]]
    assert len({answer.tobytes() for answer in answers}) == 3
    assert all(np.array_equal(a[:, :10], answers[0][:, :10]) for a in answers)
    (line,) = facts(out)
    assert (line["steps"], line["seed"], line["method"], line["missing"]) == (6, 0, "classic", 0.5)


def test_odd_names_work(program, model, tmp_path):
    for name in ("[red]a.png", "ü 字 😀.png", "-a.png", "a.b.c.png"):
        put(tmp_path / "in" / name)
    (tmp_path / "in" / "[bold]bad[dim].png").write_text("a text")
    out = tmp_path / "out"
    ran = complete(program, model, tmp_path / "in", out=out)
    assert ran.code == 2
    assert "[bold]bad[dim].png" in ran.err
    assert len([name for name in files(out) if name.endswith(".sheet.png")]) == 4
