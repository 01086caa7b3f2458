"""Advice comes before the work, names the fix, and verbs end with what to do next."""

import contextlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pixmend.errors import MaskError
from pixmend.masks import SHAPES
from pixmend.models import save_model

TINY = ("filters=4", "batch_size=4", "checkpoint_every=2", "grid_images=4", "device=cpu")


@pytest.fixture
def model(untrained, tmp_path):
    save_model(untrained("RGB"), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "in" / f"{number:02}.png")
    return tmp_path / "in"


def complete(program, model, *inputs, out, **options):
    options = {"mask": "center", "method": "classic", "steps": 2, **options}
    given = ((key, value) for key, value in options.items() if value is not None)
    flags = (text for key, value in given for text in (f"--{key}", value))
    return program("complete", model, *inputs, "--out", out, *flags)


def train(program, data, run, *options, settings=TINY):
    return program("train", data, run, *options, *(x for each in settings for x in ("--set", each)))


def test_a_kind_of_warning_is_told_once(program, images, tmp_path):
    ran = train(program, images, tmp_path / "run", "--steps", "8")
    kinds = re.findall(r"warning: ([^:\n]+)", ran.out + ran.err)
    assert (tmp_path / "run" / "log.jsonl").is_file()
    assert kinds
    assert len(kinds) == len(set(kinds))
    # The first half is a preview, without advice.
    before, half, _ = ran.err.partition("step 4: ")
    assert half
    assert "step 2: " in before
    assert "; a preview at 25% of the run" in before
    assert "warning: " not in before


# Before the work


REFUSED = [
    (["complete", "characters", "missing.png", "--out", "out", "--mask", "center"], "missing"),
    (["complete", "characters", ".", "--out", "out", "--mask", "centre"], "centre"),
    (["complete", "characters", ".", "--out", ".", "--mask", "center"], "another --out"),
    (["complete", "characters", "a.png", "--out", "out"], "center, half"),
    (["evaluate", "characters", "missing.png", "--out", "out"], "missing.png"),
    (["train", "missing", "run"], "missing"),
    (["pack", "missing", "records"], "missing"),
    (["complete", "nomodel", "a.png", "--out", "out", "--mask", "center"], "nomodel"),
    (["complete", "a.png", "a.png", "--out", "out"], "a.png: not a pixmend model file"),
    (["complete", "characters", "a.png", "--out", "out", "--range", "2:1"], "range 2:1"),
    (["complete", "characters", "a.png", "--out", "out", "--mask", "centr"], "mean center?"),
    (["evaluate", "nomodel", "a.png", "--out", "out"], "nomodel"),
    (["evaluate", "characters", "a.png", "--out", "out", "--masks", "grid,hlaf"], "mean half?"),
    (["sample", "nomodel", "--out", "out.png"], "nomodel"),
    (["info", "nomodel"], "nomodel"),
    (["serve", "characters", "nomodel"], "nomodel"),
    (["serve", "characters", "--port", "70000"], "port 70000"),
    (["serve", "characters", "--host", "999.1.1.1"], "host 999.1.1.1"),
    (["serve", "characters", "--root-path", "x"], "root-path x"),
]
# Runs each case, in one process for all.
WITHOUT_TORCH = """
import contextlib, io, json, sys
sys.modules["torch"] = None
from pixmend.cli import main
ends = []
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["pixmend", *arguments]
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as end:
            ends.append([end.code, said.getvalue()])
        else:
            ends.append([0, said.getvalue()])
print(json.dumps(ends))
"""


def test_what_needs_no_model_is_checked_before_torch_is_imported(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    given = json.dumps([arguments for arguments, _ in REFUSED])
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, given], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    for (arguments, word), (code, said) in zip(REFUSED, json.loads(ran.stdout), strict=True):
        assert (code, said.count("\n")) == (2, 1), (arguments, said)
        assert said.startswith("error: ")
        assert word in said
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_folder_completed_into_itself_says_that_its_images_are_results(program, model, images):
    ran = complete(program, model, images, out=images)
    assert ran.code == 2
    assert "no images in this folder; those in --out count as results" in ran.err


def test_an_animation_that_cannot_be_written_fails_before_the_search(
    program, model, images, tmp_path
):
    (tmp_path / "way").write_text("in the way")
    for inputs in ([images / "00.png"], [images]):
        gif = tmp_path / "way" / "a.gif"
        ran = complete(program, model, *inputs, out=tmp_path / "out", animation=gif)
        assert ran.code == 2
        assert f"error: {tmp_path / 'way'}" in ran.err
        assert not list(tmp_path.glob("out/*.png"))


def test_a_demo_that_cannot_be_written_fails_before_the_search(program, tmp_path, monkeypatch):
    (tmp_path / "way").write_text("in the way")
    monkeypatch.setattr("pixmend.api.load", lambda *_: pytest.fail("the model is loaded"))
    ran = program("demo", "--out", tmp_path / "way")
    assert ran.code == 2
    assert "choose another folder" in ran.err


def test_a_folder_without_permission_fails_before_the_search(program, model, images, tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    # Also imports all that it needs: nobody may not read an interpreter in a closed folder.
    assert complete(program, model, images / "00.png", out=tmp_path / "open").code == 0
    with unprivileged(tmp_path):
        ran = complete(program, model.name, images.name, out="out")
    assert ran.code == 2
    assert ran.err.startswith("error: out")
    assert "no permission" in ran.err
    assert not list((tmp_path / "out").iterdir())


@contextlib.contextmanager
def unprivileged(folder):
    """Work in ``folder`` as nobody, if this user may write anywhere."""
    is_root = os.geteuid() == 0
    folder.chmod(0o755)
    with contextlib.chdir(folder):  # the folders above it are closed to others
        if is_root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if is_root:
                os.seteuid(0)


# Training


def test_train_begins_with_few_lines_and_ends_with_the_model_and_the_next_command(
    program, images, tmp_path
):
    run = tmp_path / "a run"
    ran = train(program, images, run, "--steps", 2, "--set", "size=16")
    assert ran.code == 0, ran.err
    names = [line.split()[0] for line in ran.out.splitlines()]
    assert names == ["data", "net", "device", "time", "run", "animation", "report", "model", "next"]
    from pixmend.models import find_model

    assert str(find_model(run)) in ran.out
    assert f"pixmend complete '{run}' " in ran.out
    assert "ema_decay" in (run / "settings.toml").read_text()
    assert "loss of D" in ran.err
    assert "images/s" in ran.err

    # Other settings: the message has the command that resumes.
    other = train(program, images, run, "--steps", 4, settings=["device=cpu"])
    assert other.code == 2
    recipe = run / "settings.toml"
    assert f"--recipe {recipe}" in other.err
    again = train(program, images, run, "--recipe", recipe, "--steps", 4, settings=[])
    assert again.code == 0, again.err


def test_a_recipe_may_begin_with_a_byte_order_mark(program, images, tmp_path):
    (tmp_path / "r.toml").write_text("steps = 3\n", encoding="utf-8-sig")
    ran = program("train", images, tmp_path / "run", "--recipe", tmp_path / "r.toml", "--dry-run")
    assert ran.code == 0, ran.err
    assert "steps = 3\n" in ran.out


@pytest.mark.parametrize("timed", [(), ("--minutes", "0.02")], ids=["steps", "minutes"])
@pytest.mark.parametrize("packed", [False, True], ids=["folder", "records"])
def test_a_dry_run_shows_what_the_run_will_use_and_writes_nothing(
    program, tmp_path, monkeypatch, packed, timed
):
    monkeypatch.setattr("pixmend.training.budget.seconds_per_step", lambda *_: 0.001)
    source, run = tmp_path / "grey", tmp_path / "run"
    source.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (12, 24, 24))):
        Image.fromarray(pixels.astype(np.uint8)).save(source / f"{number:02}.png")
    options = (*timed, "--set", "size=16")
    if packed:
        assert program("pack", source, tmp_path / "records", "--size", 16).code == 0
        source, options = tmp_path / "records", timed
    before = sorted(tmp_path.rglob("*"))
    shown = train(program, source, run, *options, "--dry-run")
    assert shown.code == 0, shown.err
    assert sorted(tmp_path.rglob("*")) == before
    assert "size = 16\n" in shown.out
    assert 'channels = "L"\n' in shown.out
    ran = train(program, source, run, *options, "--set", "steps=2")
    assert ran.code == 0, ran.err
    used = (run / "settings.toml").read_text()
    of_steps = re.compile("^steps = .*\n", re.M)
    assert of_steps.sub("", used) == of_steps.sub("", shown.out)


# Completion


def test_complete_ends_with_the_confidence_and_the_sheet_to_open(program, images, tmp_path):
    one, many = tmp_path / "one", tmp_path / "many"
    one_pass = {"method": "default", "steps": None}
    ran = complete(program, "characters", images / "00.png", out=one, **one_pass)
    assert ran.out.splitlines()[-1] == f"open {one / '00.sheet.png'}"
    assert ran.out.splitlines()[-2].startswith("confidence ")
    for path in list(images.iterdir())[3:]:
        path.unlink()
    ran = complete(program, "characters", images, out=many, **one_pass)
    assert ran.out.splitlines()[-1] == f"open {many / 'sheet.png'}"
    values = [
        json.loads(line)["confidence"] for line in (many / "results.jsonl").read_text().splitlines()
    ]
    assert f"confidence {min(values):.0%} to {max(values):.0%}: " in ran.out


# The mask


def opaque_and_holed(folder):
    pixels = np.random.default_rng(0).integers(1, 256, (2, 16, 16, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[0, 3:9, 4:10, 3] = 0
    for name, image in zip(("a", "b"), pixels, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    return pixels[0, ..., 3] == 0


def test_a_forgotten_mask_is_one_line_with_the_choices_and_changes_no_image(
    program, model, images, tmp_path
):
    for inputs in ([images], [images / "00.png", images / "01.png"]):
        ran = program("complete", model, *inputs, "--out", tmp_path / "out")
        assert ran.code == 2
        assert ran.err.startswith(f"error: {images / '00.png'}: ")
        assert ran.err.count("\n") == 1
        assert all(name in ran.err for name in (*SHAPES, "color:", "mask image", "folder"))
        assert not (tmp_path / "out").exists()


def test_without_a_mask_the_transparent_pixels_are_completed_and_this_is_said(
    program, model, tmp_path
):
    hole = opaque_and_holed(tmp_path)
    ran = program("complete", model, tmp_path / "a.png", "--out", tmp_path / "out", "--steps", 1)
    assert ran.code == 0, ran.err
    assert "no --mask: the transparent pixels of the images are missing" in ran.err
    with Image.open(tmp_path / "a.png") as before, Image.open(tmp_path / "out" / "a.png") as after:
        before, after = np.asarray(before), np.asarray(after)
    assert np.array_equal(before[~hole], after[~hole])
    assert (after[hole] != before[hole]).any(axis=-1).all()


def test_images_beside_the_first_that_miss_nothing_fail_alone(program, model, tmp_path):
    opaque_and_holed(tmp_path)
    inputs = (tmp_path / "a.png", tmp_path / "b.png")
    ran = program("complete", model, *inputs, "--out", tmp_path / "out", "--steps", 1)
    assert ran.code == 2
    assert f"failed: {tmp_path / 'b.png'}: which pixels are missing?" in ran.err
    assert (tmp_path / "out" / "a.png").exists()


def test_python_asks_for_a_mask_too(untrained):
    from pixmend.api import Model

    model = Model(untrained("RGB"), "cpu")
    image = np.full((16, 16), 0.5, np.float32)
    for given in (image, [image], Image.new("RGB", (16, 16))):
        with pytest.raises(MaskError, match="center, half"):
            model.complete(given)
    image[3:9, 4:10] = np.nan
    best = model.complete(image, method="classic", steps=1).best
    assert np.array_equal(best[~np.isnan(image)], image[~np.isnan(image)])
    assert np.isfinite(best).all()


def test_a_run_of_few_steps_says_that_it_is_poor(program, images, tmp_path):
    short = (*TINY, "size=16", "inpainter_filters=0", "monitor=false")
    ran = train(program, images, tmp_path / "run", "--minutes", "0.001", settings=short)
    assert re.search(r"warning: only \d+ steps? in 0.001 minutes.*more --minutes", ran.err), ran.err
