"""`pixmend complete`: every input is accounted for, no result is lost, errors are one line."""

import json
import os
import subprocess
import sys
from pathlib import PurePath

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from pixmend.cli.main import app
from pixmend.errors import PixmendError
from pixmend.models import save_model
from pixmend.records import PackSettings, pack
from tests.forked import verb
from tests.inpainting import fresh_model

NOISE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture
def model(untrained, tmp_path):
    save_model(untrained("RGB"), tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def complete(model, *inputs, out, **options):
    options = {"mask": "center", "steps": 3, "snapshots": "1,3", **options}
    return run(
        "complete",
        model,
        *inputs,
        "--out",
        out,
        *(x for k, v in options.items() for x in (f"--{k}", v)),
    )


def lines(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def put(path, array=NOISE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_keeps_its_sub_folders_and_known_pixels(model, tmp_path):
    put(tmp_path / "in" / "a" / "x.png")
    put(tmp_path / "in" / "b" / "x.png")
    out = tmp_path / "out"
    assert complete(model, tmp_path / "in", out=out).exit_code == 0
    assert files(out) == [
        *("a/x.png", "a/x.sheet.png", "b/x.png", "b/x.sheet.png", "results.jsonl", "sheet.png")
    ]
    after = pixels_of(out / "a" / "x.png")
    assert np.array_equal(after[:4], NOISE[:4])
    assert not np.array_equal(after, NOISE)
    assert {"file", "seed", "loss", "contextual", "perceptual", "seconds"} <= lines(out)[0].keys()
    # original, masked, two snapshots, completed
    assert pixels_of(out / "a" / "x.sheet.png").shape[1] == 8 + 5 * 168


def test_colliding_names_are_kept_apart(model, tmp_path):
    names = ("a.png", "a.jpg", "A.bmp", "a.sheet.png", "results.png")
    for name in names:
        put(tmp_path / "in" / name)
    put(tmp_path / "two" / "in" / "a.png")
    out = tmp_path / "out"
    assert complete(model, tmp_path / "in", tmp_path / "two" / "in", out=out).exit_code == 0
    facts = lines(out)
    written = [fact[key] for fact in facts for key in ("output", "sheet")]
    assert len(facts) == 6
    assert len({name.casefold() for name in written}) == 12
    assert all((out / name).stat().st_size for name in written)


def test_a_bad_file_in_the_middle_is_told_and_stops_nothing(model, tmp_path):
    put(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_text("not an image")
    put(tmp_path / "in" / "c.png")
    out = tmp_path / "out"
    result = complete(model, tmp_path / "in", out=out, batch=1)
    assert result.exit_code == 2
    assert "b.png" in result.stderr
    assert "1 of 3 inputs failed" in result.stderr
    assert {"a.png", "c.png"} <= set(files(out))
    assert [("error" in fact) for fact in lines(out)].count(True) == 1


def test_jpeg_comes_back_as_png_and_tiff_as_tiff(model, tmp_path):
    put(tmp_path / "in" / "a.jpg")
    put(tmp_path / "in" / "b.tif")
    assert complete(model, tmp_path / "in", out=tmp_path / "out").exit_code == 0
    assert {"a.png", "b.tif"} <= set(files(tmp_path / "out"))
    with (
        Image.open(tmp_path / "in" / "a.jpg") as before,
        Image.open(tmp_path / "out" / "a.png") as after,
    ):
        assert np.array_equal(np.asarray(before)[:4], np.asarray(after)[:4])


def test_results_inside_the_input_folder_are_not_taken_as_inputs(model, tmp_path):
    put(tmp_path / "in" / "a.png")
    for _ in range(2):
        assert complete(model, tmp_path / "in", out=tmp_path / "in" / "out").exit_code == 0
        assert len(lines(tmp_path / "in" / "out")) == 1


def test_globs_masks_and_candidates(model, tmp_path):
    put(tmp_path / "in" / "a.png")
    put(tmp_path / "in" / "b.png")
    hole = np.zeros((16, 16), np.uint8)
    hole[2:5, 3:9] = 255
    put(tmp_path / "hole.png", hole)
    out = tmp_path / "out"
    result = complete(
        model, tmp_path / "in" / "*.png", out=out, mask=tmp_path / "hole.png", candidates=2
    )
    assert result.exit_code == 0
    assert {"a.png", "a.candidate-2.png", "b.candidate-2.png"} <= set(files(out))
    after = pixels_of(out / "b.candidate-2.png")
    assert np.array_equal(after[hole == 0], NOISE[hole == 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "yhe"}, "did you mean yeh"),
        ({"steps": 0}, "steps = 0"),
        ({"candidates": 0}, "candidates = 0"),
        ({"snapshots": "a"}, "--snapshots a"),
        ({"batch": 0}, "batch = 0"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(model, tmp_path, change, message):
    put(tmp_path / "a.png")
    result = complete(model, tmp_path / "a.png", out=tmp_path / "out", **change)
    assert isinstance(result.exception, PixmendError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mask", ["centre", "center:7", "missing.png"])
def test_a_wrong_mask_is_reported(model, tmp_path, mask):
    put(tmp_path / "a.png")
    result = complete(model, tmp_path / "a.png", out=tmp_path / "out", mask=mask)
    assert isinstance(result.exception, PixmendError)
    assert "mask" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_missing_inputs_and_empty_folders_are_reported(model, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, message in (
        (tmp_path / "empty", "no images"),
        (tmp_path / "nothing", "no such file"),
    ):
        result = complete(model, given, out=tmp_path / "out")
        assert message in str(result.exception)


def test_an_error_is_one_line_on_stderr_and_exit_code_2(tmp_path):
    put(tmp_path / "a.png")
    (tmp_path / "cut.safetensors").write_bytes(b"abc")
    result = verb(
        "complete",
        "--mask",
        "center",
        tmp_path / "cut.safetensors",
        tmp_path / "a.png",
        "--out",
        tmp_path / "out",
    )
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: ")
    assert "cut.safetensors" in result.stderr


@pytest.mark.parametrize("mask", [None, "auto", "nan"])
def test_float_files_with_gaps_come_back_whole_in_their_own_range(model, tmp_path, mask):
    floats = np.random.default_rng(0).normal(20, 400, (24, 30)).astype(np.float32)
    gaps = np.random.default_rng(1).random(floats.shape) < 0.1
    floats[gaps] = np.nan
    Image.fromarray(floats).save(tmp_path / "a.tif")
    np.save(tmp_path / "b.npy", floats.astype(np.float64))
    options = ["--method", "classic", "--steps", 3, *(() if mask is None else ("--mask", mask))]
    given = ("complete", model, tmp_path / "a.tif", tmp_path / "b.npy", "--out", tmp_path / "out")
    refused = run(*given, *options)
    assert refused.exit_code == 2
    assert refused.stderr.count("complete --range MIN:MAX") == 2
    assert run(*given, *options, "--range", "-1500:1500").exit_code == 0
    with Image.open(tmp_path / "out" / "a.tif") as image:
        answers = [np.asarray(image), np.load(tmp_path / "out" / "b.npy")]
    for answer, dtype in zip(answers, (np.float32, np.float64), strict=True):
        assert answer.dtype == dtype
        assert np.array_equal(answer[~gaps], floats[~gaps])
        assert np.abs(answer[gaps]).max() <= 1500


def test_help_and_version_wait_for_neither_torch_nor_numpy():
    code = "import sys, pixmend.cli.main; print([m for m in ('torch', 'numpy', 'PIL', 'pydantic') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "[]\n"
    )
    assert verb("--version").stdout.startswith("pixmend ")
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from pixmend.cli.main import app\n"
        "verbs = [command.callback.__name__ for command in app.registered_commands]\n"
        "for verb in verbs:\n"
        "    assert f'Usage: pixmend {verb}' in CliRunner().invoke(app, [verb, '--help']).stdout\n"
        "print(verbs, [name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])"
    )
    verbs = [
        "demo",
        "pack",
        "train",
        "complete",
        "export",
        "evaluate",
        "sample",
        "info",
        "push",
        "serve",
        "doctor",
    ]
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout == f"{verbs} []\n", ran.stderr


def test_sample_and_info_of_a_model(model, tmp_path):
    result = run(
        "sample",
        model,
        "--out",
        tmp_path / "grid.png",
        "--count",
        9,
        "--walk",
        tmp_path / "walk.gif",
    )
    assert result.exit_code == 0
    assert pixels_of(tmp_path / "grid.png").shape[1] == 3 * 66 + 2
    with Image.open(tmp_path / "walk.gif") as walk:
        assert walk.n_frames > 50
    facts = json.loads(run("info", model, "--json").stdout)
    assert (facts["kind"], facts["settings"]["size"]) == ("model", 16)
    assert "16 px RGB" in run("info", model).stdout


def test_the_average_and_its_uncertainty_are_written(model, tmp_path):
    image = put(tmp_path / "a.png")
    ran = run(
        *("complete", "--mask", "center", model, image, "--out", tmp_path / "out", "--steps", 2),
        *("--method", "classic", "--answer", "average", "--uncertainty"),
    )
    assert ran.exit_code == 0, ran.output
    (facts,) = lines(tmp_path / "out")
    assert facts["answer"] == "average"
    spread = np.load(tmp_path / "out" / "a.uncertainty.npy", allow_pickle=False)
    shown = pixels_of(tmp_path / "out" / facts["uncertainty_map"])
    assert spread.shape == shown.shape == (16, 16)
    np.testing.assert_allclose(shown, (2 * spread).clip(0, 255), atol=0.51)
    assert facts["uncertainty"] == pytest.approx(spread[4:12, 4:12].mean(), abs=1e-2)


def test_results_of_other_files_in_out_stay(program, model, tmp_path):
    for name in ("one", "two"):
        Image.new("L", (16, 16), 200).save(tmp_path / f"{name}.png")
    out = tmp_path / "out"
    for inputs in (["one.png"], ["two.png"], ["one.png"]):
        paths = [tmp_path / name for name in inputs]
        ran = program("complete", "--mask", "center", model, *paths, "--out", out, "--steps", 1)
        assert ran.code == 0
    files = [json.loads(line)["file"] for line in (out / "results.jsonl").read_text().splitlines()]
    assert files == [str(tmp_path / "two.png"), str(tmp_path / "one.png")]


def test_a_call_that_is_killed_takes_nothing_back_that_was_told(
    program, model, tmp_path, monkeypatch
):
    from pixmend.cli.completion_run import CompletionRun

    for name in ("one", "two"):
        put(tmp_path / "in" / f"{name}.png")
    out = tmp_path / "out"
    command = ("complete", "--mask", "center", model, tmp_path / "in", "--out", out, "--steps", 1)
    assert program(*command).code == 0
    told = lines(out)
    with (out / "results.jsonl").open("a") as results:
        results.write('{"file": "cut o')
    (out / ".one.png.abcdefgh.pixmend.tmp").write_text("left by a kill")
    monkeypatch.setattr(CompletionRun, "_write", lambda self, result: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        program(*command)
    assert lines(out) == told
    assert not list(out.glob("*.tmp"))


def test_leftovers_of_a_killed_call_are_removed_from_all_its_folders(program, model, tmp_path):
    for name in ("a/one", "b/two"):
        put(tmp_path / "in" / f"{name}.png")
    left = [
        tmp_path / root / part / f".{name}.abcdefgh.pixmend.tmp"
        for root in ("out", "gifs")
        for part, name in (("", "sheet.png"), ("a", "one.png"))
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("left by a kill")
    ran = program(
        "complete", "--mask", "center", model, tmp_path / "in", "--out", tmp_path / "out",
        "--animation", tmp_path / "gifs.gif", "--steps", 1,
    )  # fmt: skip
    assert ran.code == 0
    assert not [path for path in left if path.exists()]


def test_two_calls_into_one_folder_leave_each_others_files_alone(tmp_path):
    from pixmend.storage import shared

    (tmp_path / ".a.png.abcdefgh.pixmend.tmp").write_text("being written")
    with shared(tmp_path, []), shared(tmp_path, [tmp_path]):
        assert list(tmp_path.glob("*.tmp"))
    with shared(tmp_path, [tmp_path]):
        assert not list(tmp_path.glob("*.tmp"))


def test_inputs_with_the_longest_names_have_distinct_results(model, tmp_path):
    long = ["a" * 251 + ".png", "a" * 250 + "b.png", "\N{GREEK SMALL LETTER ALPHA}" * 125 + ".jpg"]
    for name in long:
        put(tmp_path / "in" / name)
    ran = complete(model, tmp_path / "in", out=tmp_path / "out", candidates=2, animation=tmp_path / "search.gif")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert {PurePath(line["file"]).name for line in lines(tmp_path / "out")} == set(long)
    named = [
        line[kind] for line in lines(tmp_path / "out") for kind in ("output", "sheet", "animation")
    ]
    assert len(set(named)) == 9


@pytest.mark.parametrize("name", [b"not-\xff-utf8", b"new\nline"])
def test_names_that_are_not_utf8_are_printed(model, tmp_path, name):
    put(tmp_path / "in" / "a.png")
    out = tmp_path / os.fsdecode(name)
    options = ("--mask", "center", "--out", out, "--steps", 1)
    ran = verb("complete", model, tmp_path / "in", *options)
    assert ran.returncode == 0, ran.stderr
    assert "1 completed" in ran.stdout


def test_a_link_to_itself_is_an_input_that_cannot_be_read(model, tmp_path):
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    put(tmp_path / "a.png")
    ran = complete(model, tmp_path / "*.png", out=tmp_path / "out")
    assert ran.exit_code == 2
    assert sorted("error" in line for line in lines(tmp_path / "out")) == [False, True]


def test_an_error_in_a_recipe_names_the_file(program, tmp_path):
    (tmp_path / "mine.toml").write_text("sizee = 32\n")
    Image.new("L", (16, 16), 200).save(tmp_path / "one.png")
    ran = program("train", tmp_path, tmp_path / "run", "--recipe", tmp_path / "mine.toml")
    assert ran.code == 2
    assert "mine.toml" in ran.err
    assert "did you mean size?" in ran.err


def test_neighbours_come_from_the_records_that_are_named(tmp_path):
    """With its own images as records a model answers as before; with those of others, otherwise."""
    model = fresh_model()
    save_model(model, tmp_path / "m.safetensors")
    others = np.random.default_rng(9).integers(0, 256, (6, 16, 16, 3), np.uint8)
    for name, images in (
        ("own", model.retrieval.images.permute(0, 2, 3, 1).numpy()),
        ("other", others),
    ):
        for number, pixels in enumerate(images):
            put(tmp_path / name / f"{number}.png", pixels)
        pack(tmp_path / name, tmp_path / f"{name}.records", PackSettings(size=16), workers=1)
    pack(tmp_path / "own", tmp_path / "small.records", PackSettings(size=8), workers=1)
    image = put(tmp_path / "in.png")
    answers = {}
    for name in ("model", "own", "other", "small"):
        given = [] if name == "model" else ["--retrieval", tmp_path / f"{name}.records"]
        out = tmp_path / "out" / name
        result = run(
            "complete", tmp_path / "m.safetensors", image, "--mask", "center", "--out", out, *given
        )
        if name == "small":
            assert isinstance(result.exception, PixmendError)
            assert "pixmend pack --size 16 --channels RGB" in str(result.exception)
        else:
            answers[name] = (out / "in.png").read_bytes()
    assert answers["model"] == answers["own"] != answers["other"]
