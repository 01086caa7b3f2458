"""What users see: one line per mistake, no half-written file, and verbs that list what exists."""

import builtins
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import pixmend
from pixmend.completion import METHODS
from pixmend.masks import SHAPES
from pixmend.models import BUNDLED, save_model


@pytest.fixture(scope="module")
def model(lively, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(lively(), path)
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)).save(path)
    return path


def is_one_line(ran, *words):
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert ran.err.count("\n") == 1
    assert ran.out == ""
    assert all(str(word) in ran.err for word in words), ran.err


# Mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mask", "centre"], ["centre", *SHAPES]),
        (["--mask", "center:7"], ["center:7", "between 0 and 1"]),
        (["--mask", "half:up"], ["half:up", "left, right, top or bottom"]),
        (["--mask", "nowhere.png"], ["nowhere.png"]),
        (["--method", "clasic"], ["clasic", "did you mean classic", *METHODS]),
        (["--method", "nonsense"], ["nonsense", *METHODS]),
        (["--steps", "0"], ["steps = 0"]),
        (["--candidates", "65"], ["candidates = 65"]),
        (["--snapshots", "1,x"], ["--snapshots 1,x"]),
        (["--snapshots", "-1"], ["counted from 0"]),
        (["--batch", "0"], ["batch = 0"]),
        (["--device", "abacus"], ["abacus"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_wrong_option_is_one_line_and_nothing_is_written(
    program, model, image, tmp_path, options, words
):
    out = tmp_path / "out"
    is_one_line(
        program("complete", "--mask", "center", model, image, "--out", out, *options), *words
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[: len(content) // 2], ["tiny.safetensors"]),
        (lambda content: content[:100], ["tiny.safetensors"]),
        (lambda content: b"", ["tiny.safetensors"]),
        (lambda content: b"a text, no model\n" * 9, ["not a pixmend model"]),
        (
            lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
            ["altered or damaged"],
        ),
        (
            lambda content: content.replace(b'\\"format\\": 2', b'\\"format\\": 9'),
            ["of format 9", "reads formats up to 2"],
        ),
    ],
    ids=["half", "header", "empty", "text", "one bit", "version"],
)
def test_a_damaged_model_is_one_line(program, model, image, tmp_path, damage, words):
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(damage(model.read_bytes()))
    assert path.read_bytes() != model.read_bytes()
    out = tmp_path / "out"
    is_one_line(program("complete", "--mask", "center", path, image, "--out", out), *words)
    assert not out.exists()


def test_a_flipped_byte_of_a_model_is_reported_or_harmless(program, model, tmp_path):
    content, path = model.read_bytes(), tmp_path / "tiny.safetensors"
    rng = np.random.default_rng(0)
    header = int.from_bytes(content[:8], "little") + 8
    positions = [*rng.integers(0, header, 60), *rng.integers(header, len(content), 20)]
    for position in positions:
        altered = bytearray(content)
        altered[position] ^= int(rng.integers(1, 256))
        path.write_bytes(altered)
        ran = program("sample", path, "--out", tmp_path / "grid.png", "--count", 1)
        assert ran.code == 0 or is_one_line(ran, "tiny.safetensors") is None


def test_a_missing_model_names_the_bundled_ones(program, image, tmp_path):
    names = [path.stem for path in BUNDLED.glob("*.safetensors")]
    is_one_line(
        program("complete", "--mask", "center", "carrots", image, "--out", tmp_path / "out"),
        "carrots",
        *names,
    )
    (tmp_path / "run").mkdir()
    ran = program(
        "complete", "--mask", "center", tmp_path / "run", image, "--out", tmp_path / "out"
    )
    is_one_line(ran, "holds no model.safetensors")


def test_missing_and_empty_inputs_are_one_line(program, model, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, word in (("empty", "no images"), ("missing", "check the path")):
        ran = program(
            "complete", "--mask", "center", model, tmp_path / name, "--out", tmp_path / "out"
        )
        is_one_line(ran, name, word)


@pytest.mark.parametrize("level", ["out", "out/deeper"])
def test_an_output_that_cannot_be_written_is_one_line(program, model, image, tmp_path, level):
    (tmp_path / "out").write_text("in the way")
    ran = program(
        "complete", "--mask", "center", model, image, "--out", tmp_path / level, "--steps", 1
    )
    is_one_line(ran, "out", "choose another folder")
    assert (tmp_path / "out").read_text() == "in the way"


def test_sample_names_the_suffixes_it_writes(program, model, tmp_path):
    is_one_line(program("sample", model, "--out", tmp_path / "grid.jpg"), "grid.jpg", ".png")
    assert not (tmp_path / "grid.jpg").exists()


def test_a_usage_error_has_code_2_and_no_traceback(program, model):
    for arguments in (["complete", model], ["complete"], ["nonsense"], ["sample", model]):
        ran = program(*arguments)
        assert ran.code == 2
        assert "Traceback" not in ran.err


def test_a_bug_keeps_its_traceback(program, model, image, tmp_path, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("pixmend.api.load", broken)
    with pytest.raises(ZeroDivisionError):
        program("complete", "--mask", "center", model, image, "--out", tmp_path / "out")


# Verbs


def test_sample_generates_count_images_that_depend_on_the_seed(program, model, tmp_path):
    for name, seed in (("a.png", 1), ("b.png", 1), ("c.png", 2)):
        ran = program("sample", model, "--out", tmp_path / name, "--count", 6, "--seed", seed)
        assert ran.code == 0, ran.err
    contents = [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "c.png")]
    assert contents[0] == contents[1] != contents[2]
    with Image.open(tmp_path / "a.png") as grid:
        assert grid.size == (2 * 66 + 2, 3 * 66 + 2)


def test_a_walk_is_an_animation_that_moves_in_small_steps_and_ends_near_where_it_began(lively):
    from pixmend.api import Model

    frames = Model(lively(), "cpu").walk(40, corners=4).astype(float)
    steps = np.abs(np.roll(frames, -1, axis=0) - frames).mean((1, 2, 3))
    across = np.abs(frames[20] - frames[0]).mean()
    assert steps.min() > 0
    assert steps.max() < across
    assert np.abs(frames[-1] - frames[0]).mean() < across


def test_info_shows_settings_and_card_and_its_json_is_valid(program, model, tmp_path):
    text = program("info", model)
    assert text.code == 0
    assert "16 px RGB, filters 8, latent_dim 8" in text.out
    assert len(text.out.splitlines()) <= 10
    facts = json.loads(program("info", model, "--json").out)
    assert facts["settings"]["channels"] == "RGB"
    assert facts["card"]["fit"] == "crop"
    is_one_line(program("info", tmp_path / "nothing"), "nothing")
    # A file with a memory says so to who may want to pass it on.
    held = json.loads(program("info", "characters", "--json").out)["contains"]
    assert held == "32,768 training images, visible to anyone who has the file"
    assert "contains" not in facts


def test_info_reads_the_log_of_a_run_that_was_killed_in_the_middle_of_a_line(program, tmp_path):
    from pixmend.training import resolve
    from pixmend.training.settings import to_toml

    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "settings.toml").write_text(to_toml(resolve({"steps": 9})))
    (run / "log.jsonl").write_text('{"step": 4, "loss_d": 1.5}\n{"step": 8, "lo')
    ran = program("info", run, "--json")
    assert ran.code == 0, ran.err
    facts = json.loads(ran.out)
    assert facts["settings"]["steps"] == 9
    assert facts["last line of log"] == {"step": 4, "loss_d": 1.5}
    (run / "log.jsonl").write_text('{"step')
    assert "last line of log" not in json.loads(program("info", run, "--json").out)


def test_info_of_a_run_has_its_best_step_and_the_model_that_completes(program, model, tmp_path):
    from pixmend.training import resolve
    from pixmend.training.settings import to_toml

    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text("{}")
    (run / "settings.toml").write_text(to_toml(resolve({"steps": 9})))
    names = ("images", "kid", "fid", "diversity", "accuracy_training", "accuracy_samples")
    scores = {"features": "random", **dict.fromkeys(names, 0.5)}
    lines = [{"step": step, "best": step < 3, **scores} for step in (1, 2, 3)]
    (run / "monitor.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for name in ("best", "model"):
        (run / f"{name}.safetensors").write_bytes(model.read_bytes())
    text, facts = program("info", run), json.loads(program("info", run, "--json").out)
    assert "step 2: KID 0.5000 (random features), diversity 0.50" in text.out
    assert (facts["best"]["step"], facts["model"]) == (2, str(run / "best.safetensors"))
    assert str(run / "best.safetensors") in text.out


@pytest.mark.parametrize("key", ["card", "settings", "figures", "title", "steps", "classes"])
@pytest.mark.parametrize(
    "value", [None, [1], "\x1b[31mred\nerror: forged", float("nan"), {"a": []}]
)
def test_info_of_any_header_is_printable_lines_and_json(program, tmp_path, key, value):
    from pixmend.models import write_tensors

    path = tmp_path / "m.safetensors"
    header = {"card": {key: value}} if key not in ("card", "settings") else {key: value}
    write_tensors(path, {}, kind="model", header=header)
    ran = program("info", path)
    assert ran.code == 0
    assert all(line.isprintable() for line in ran.out.splitlines())
    assert not [line for line in ran.out.splitlines() if line.startswith("error")]
    json.loads(program("info", path, "--json").out, parse_constant=pytest.fail)


def test_doctor_lists_the_installation(program, monkeypatch):
    from importlib import metadata

    requires = metadata.requires("pixmend")
    absent = "no-such-package>=1; extra == 'metrics'"
    monkeypatch.setattr(metadata, "requires", lambda name: [*requires, absent])
    ran = program("doctor")
    assert ran.code == 0, ran.err
    for word in (
        pixmend.__version__,
        "torch",
        "pillow",
        "device",
        "threads",
        "extra     metrics: not installed; pip install 'pixmend[metrics]', or '.[metrics]'",
        "installation complete",
    ):
        assert word in ran.out


@pytest.mark.parametrize("missing", ["torch", "safetensors"])
def test_doctor_names_missing_packages_and_how_to_install_them(program, monkeypatch, missing):
    from importlib import metadata

    version, real_import = metadata.version, builtins.__import__

    def no_version(name):
        if name == missing:
            raise metadata.PackageNotFoundError(name)
        return version(name)

    def no_import(name, *rest, **more):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)
        return real_import(name, *rest, **more)

    monkeypatch.setattr(metadata, "version", no_version)
    monkeypatch.setattr(builtins, "__import__", no_import)
    ran = program("doctor")
    assert ran.code == 2
    assert f"pip install {missing}" in ran.out + ran.err


def test_demo_writes_the_files_it_names(program, monkeypatch, tmp_path):
    from dataclasses import replace

    monkeypatch.setitem(METHODS, "classic", replace(METHODS["classic"], steps=2))
    ran = program("demo", "--out", tmp_path / "demo")
    assert ran.code == 0, ran.err
    assert str(tmp_path / "demo" / "sheet.png") in ran.out
    assert (tmp_path / "demo" / "sheet.png").is_file()
    assert ran.out.splitlines()[-1].startswith("next")
    for path in (tmp_path / "demo" / "masks").iterdir():
        with (
            Image.open(path) as mask,
            Image.open(tmp_path / "demo" / path.name) as after,
            Image.open(tmp_path / "demo" / "originals" / path.name) as before,
        ):
            known = np.asarray(mask) < 128
            assert np.array_equal(np.asarray(before)[known], np.asarray(after)[known])


# What waits


def test_importing_pixmend_imports_neither_torch_nor_numpy_and_every_name_resolves():
    code = (
        "import sys, pixmend\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)\n"
        "assert all(getattr(pixmend, name) is not None for name in pixmend.__all__)\n"
        "assert set(dir(pixmend)) == set(pixmend.__all__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_name_that_pixmend_does_not_have_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        _ = pixmend.nonsense
