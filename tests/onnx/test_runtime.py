"""ONNX files on the command line and without torch, and files that cannot be used."""

import json
import subprocess
import sys

import numpy as np
import pytest

from pixmend.errors import ImageError, MaskError, ModelFileError, SettingsError, VersionError
from pixmend.images import encode_png
from pixmend.masks import Mask
from tests.inpainting import fresh_model
from tests.onnx.test_graph import smooth

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from pixmend.completion import Task  # noqa: E402
from pixmend.images import open_image  # noqa: E402
from pixmend.models import save_model  # noqa: E402
from pixmend.onnx.onnx_file import export_onnx  # noqa: E402
from pixmend.onnx.runtime import MAX_SIDE, OnnxModel  # noqa: E402

# Runs a command without the packages of the extras train and export.
WITHOUT_TORCH = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "safetensors", "scipy", "pyamg", "jinja2", "onnx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def networks():
    return fresh_model()


@pytest.fixture(scope="module")
def file(networks, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(networks, path, digest="0f")
    return path


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(encode_png(smooth(20, 30, 3)))
    return path


def without_torch(code, *arguments):
    command = [sys.executable, "-c", WITHOUT_TORCH + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


CLI = "from pixmend.cli import main; main()"


def test_the_command_line_completes_without_torch(file, image, tmp_path):
    out = tmp_path / "out"
    ran = without_torch(
        CLI,
        "complete",
        file,
        image,
        "--mask",
        "center",
        "--out",
        out,
        "--candidates",
        2,
        "--uncertainty",
    )
    assert ran.returncode == 0, ran.stderr
    best = open_image(out / "image.png").pixels
    known = ~np.pad(np.ones((10, 15), bool), ((5, 5), (7, 8)))
    assert np.array_equal(best[known], smooth(20, 30, 3)[known])
    assert not np.array_equal(best, smooth(20, 30, 3))
    assert {path.name for path in out.iterdir()} >= {
        "image.candidate-2.png", "image.uncertainty.png", "image.sheet.png", "results.jsonl"
    }  # fmt: skip


def test_python_completes_without_torch(file, image):
    code = (
        "import pixmend; print(pixmend.load(sys.argv[1]).complete(sys.argv[2], 'center').best.size)"
    )
    ran = without_torch(code, file, image)
    assert ran.stdout == "(30, 20)\n", ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("complete", "characters", "IMAGE", "--mask", "center", "--out", "out"),
        ("sample", "characters", "--out", "out.png"),
        ("train", "IMAGES", "run"),
        ("evaluate", "characters", "IMAGES", "--out", "out"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_verb_that_needs_torch_says_so_in_a_line(image, tmp_path, arguments):
    names = {
        "IMAGE": image,
        "IMAGES": image.parent,
        "out": tmp_path / "out",
        "run": tmp_path / "run",
    }
    ran = without_torch(CLI, *(names.get(each, each) for each in arguments))
    assert ran.returncode == 2
    line = ran.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert "pip install 'pixmend[train]'" in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr


def test_export_and_complete_are_verbs(program, networks, image, tmp_path):
    model, file = tmp_path / "model.safetensors", tmp_path / "out.onnx"
    save_model(networks, model)
    ran = program("export", model, file, "--half")
    assert ran.code == 0, ran.err
    assert "float16" in ran.out
    ran = program("complete", file, image, "--mask", "center", "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["method"] == "default"
    facts = OnnxModel.load(file).facts
    assert len(facts["model_digest"]) == 64
    assert facts["weights"] == "float16"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--method", "best"), "--method"),
        (("--steps", "5"), "--steps"),
        (("--seconds", "1"), "--seconds"),
        (("--animation", "x.gif"), "--animation"),
        (("--blend", "paste"), "--blend"),
        (("--view", "window"), "view = window"),
        (("--candidates", "9"), "candidates = 9"),
    ],
)
def test_what_a_file_does_not_hold_is_refused_in_a_line(
    program, file, image, tmp_path, options, word
):
    ran = program("complete", file, image, "--mask", "center", "--out", tmp_path / "out", *options)
    assert ran.code == 2
    assert word in ran.err
    assert ran.err.count("error:") == 1


def test_an_image_above_the_bound_does_not_stop_the_others(program, file, image, tmp_path):
    (tmp_path / "a.png").write_bytes(encode_png(np.zeros((4, MAX_SIDE + 1, 3), np.uint8)))
    out = tmp_path / "out"
    ran = program("complete", file, tmp_path / "a.png", image, "--mask", "center", "--out", out)
    assert ran.code != 0
    assert f"up to {MAX_SIDE} a side" in " ".join(ran.err.split())
    assert "1 of 2 inputs failed" in ran.err
    assert (out / "image.png").is_file()


def test_a_model_without_an_inpainter_is_refused(untrained, tmp_path):
    with pytest.raises(SettingsError, match="no inpainter"):
        export_onnx(untrained(), tmp_path / "out.onnx")


def changed(content, **facts):
    """Return a file of ours with other facts."""
    model = onnx.load_from_string(content)
    (entry,) = model.metadata_props
    entry.value = json.dumps({**json.loads(entry.value), **facts})
    return model.SerializeToString()


def test_files_that_cannot_be_used_are_refused_in_a_line(file, tmp_path):
    content = file.read_bytes()
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph([], "other", [], []),
        opset_imports=[onnx.helper.make_opsetid("", 21)],
        ir_version=10,
    )
    newer = onnx.load_from_string(content)
    newer.opset_import[0].version = 99
    middle = content.index(b"constant_") + 40
    flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    weight = onnx.load_from_string(content)
    largest = max(weight.graph.initializer, key=lambda each: len(each.raw_data))
    largest.raw_data = bytes([largest.raw_data[0] ^ 1]) + largest.raw_data[1:]
    cases = {
        "foreign": (foreign.SerializeToString(), ModelFileError, "not an ONNX file of pixmend"),
        "empty": (b"", ModelFileError, "truncated or damaged"),
        "text": (b"hello", ModelFileError, "truncated or damaged"),
        "truncated": (content[:-100], ModelFileError, "truncated or damaged|not an ONNX file"),
        "half": (
            content[: len(content) // 2],
            ModelFileError,
            "truncated or damaged|not an ONNX file",
        ),
        "opset": (newer.SerializeToString(), VersionError, "opset 99.*onnxruntime"),
        "format": (changed(content, format=2), VersionError, "format 2"),
        "flipped": (flipped, ModelFileError, "digest|damaged"),
        "weight": (weight.SerializeToString(), ModelFileError, "digest"),
        "digest": (changed(content, digest="00"), ModelFileError, "digest"),
    }
    for name, (damaged, kind, words) in cases.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(damaged)
        with pytest.raises(kind, match=f"(?i){words}") as raised:
            OnnxModel.load(path)
        assert "\n" not in str(raised.value)
        assert str(path) in str(raised.value)
    with pytest.raises(ModelFileError, match="no such file"):
        OnnxModel.load(tmp_path / "missing.onnx")


def test_images_that_cannot_be_completed_are_refused_in_a_line(file):
    model = OnnxModel.load(file)
    pixels = smooth(20, 30, 3)
    with pytest.raises(MaskError, match="10 x 10"):
        list(model.complete(pixels, Mask(np.ones((10, 10), bool))))
    large = np.zeros((4, MAX_SIDE + 1), np.uint8)
    with pytest.raises(ImageError, match=f"up to {MAX_SIDE} a side"):
        model.complete(large, "center")


def test_nothing_missing_is_nothing_changed(file):
    picture = open_image(smooth(20, 30, 3))
    (result,) = OnnxModel.load(file).complete_tasks(
        [Task(picture, Mask(np.ones((20, 30), bool)))], _options()
    )
    assert np.array_equal(result.best, picture.to_pil())
    assert result.warnings == ("nothing is missing",)


def _options():
    from pixmend.completion import CompletionOptions, find_method

    return CompletionOptions(find_method("default"))
