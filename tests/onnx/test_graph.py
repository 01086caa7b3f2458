"""An ONNX file gives the answers of `complete --method default`, whatever the image."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pixmend.api import Model
from pixmend.completion import CompletionOptions, Task, complete_batch, find_method
from pixmend.completion.detail import resize
from pixmend.images import find_images, open_image
from pixmend.masks import make_mask
from pixmend.models import BUNDLED, Calibration, load_model
from pixmend.models.alignment import WARPED, align
from pixmend.models.inpainter import gather_evidence
from tests.inpainting import fresh_model

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnxruntime
from onnx import TensorProto, helper

from pixmend.onnx.enlargement import _shuffled
from pixmend.onnx.networks import _align, biharmonic_fill
from pixmend.onnx.onnx_file import export_onnx
from pixmend.onnx.runtime import OnnxModel
from pixmend.onnx.values import Graph, Value, typed

MASKS = ("center", "half:right", "random:0.8", "strokes:0.3", "grid")
BANDS = {"L": 1, "RGB": 3, "RGBA": 4}


def smooth(height, width, bands, *, seed=0):
    """Return an image with edges and gradients, uint8 [H, W, bands]."""
    rows, columns = np.mgrid[:height, :width]
    phases = np.random.default_rng(seed).uniform(0, 6, (bands, 3))
    waves = [
        np.sin(rows / 5 + a) + np.sin(columns / 7 + b) + (rows > columns + c) for a, b, c in phases
    ]
    return (np.stack(waves, -1) * 50 + 100).clip(0, 255).astype(np.uint8)


def task_of(pixels, spec, seed=0):
    height, width = pixels.shape[:2]
    picture = open_image(pixels if pixels.shape[2] > 1 else pixels[..., 0])
    return Task(picture, make_mask(spec, height, width, seed=seed))


def assert_equal(networks, exported, task, *, answer="sharp", share=0.02):
    # Conjugate gradients and networks amplify the rounding of sums, and of two examples that are nearly as like a patch
    # either may be taken: few values differ by more than one grey level.
    options = CompletionOptions(find_method("default"), candidates=3, answer=answer)
    (expected,) = complete_batch(networks, [task], options)
    (actual,) = exported.complete_tasks([task], options)
    known = task.mask.known
    for one, other in zip(expected.candidates, actual.candidates, strict=True):
        difference = np.abs(one.picture.pixels.astype(int) - other.picture.pixels)
        assert difference.max() <= 2 or max(known.shape) > networks.settings.size
        assert np.mean(difference > 1) < share
        assert np.array_equal(other.picture.native[known], task.picture.native[known])
        assert one.answer == other.answer
    assert np.abs(expected.uncertainty - actual.uncertainty).max() < 0.5
    if expected.confidence is None:
        assert actual.confidence is None
    else:
        assert actual.confidence == pytest.approx(expected.confidence, abs=1e-3)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a maker of small models and their ONNX files."""
    made = {}

    def make(channels="RGB", *, fit="crop", retrieval_images=6, size=16, background="#e0c080"):
        key = channels, fit, retrieval_images, size
        if key not in made:
            networks = fresh_model(size=size, channels=channels, retrieval_images=retrieval_images)
            centre = [0.0] * networks.discriminator.to_logit.in_channels
            calibration = Calibration(
                [0.1, 0.2, 0.3, 0.6], [0.15, 0.4, 0.5, 0.9], centre, [1.0] * len(centre), 1e9
            )
            card = {"fit": fit, "background": background, "calibration": calibration.to_json()}
            networks = replace(networks, card=card)
            path = tmp_path_factory.mktemp("onnx") / "model.onnx"
            made[key] = networks, export_onnx(networks, path)
        return made[key]

    return make


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(
    ("channels", "bands"), [("L", 1), ("L", 3), ("RGB", 3), ("RGB", 1), ("RGB", 4), ("RGBA", 4)]
)
def test_answers_are_those_of_torch_within_a_grey_level(small, fit, channels, bands):
    networks, exported = small(channels, fit=fit)
    sizes = [(16, 16), (31, 20), (9, 40), (50, 33)]
    for number, (spec, (height, width)) in enumerate(zip(MASKS, [*sizes, sizes[1]], strict=True)):
        pixels = smooth(height, width, bands, seed=number)
        assert_equal(networks, exported, task_of(pixels, spec, seed=number))


def test_the_colour_of_transparent_pixels_is_the_background(tmp_path):
    networks = fresh_model(channels="RGBA")
    networks.retrieval.images[:, 3] = 0
    with torch.no_grad():  # own colours are transparent, too
        for way_up in (networks.inpainter.estimator, networks.inpainter.drawer):
            way_up.head.bias[-2] = -99
    networks = replace(networks, card={"fit": "crop", "background": "#e0c080"})
    pixels = smooth(20, 30, 4)
    pixels[..., 3] = 0
    exported = export_onnx(networks, tmp_path / "model.onnx")
    assert_equal(networks, exported, task_of(pixels, "strokes"))
    pixels[:9, :9, 3] = 200
    assert_equal(networks, exported, task_of(pixels, "strokes"))


@pytest.mark.parametrize("count", [0, 2, 300])
def test_any_number_of_retrieval_images_is_looked_up(small, count):
    networks, exported = small(retrieval_images=count, size=32)
    assert_equal(networks, exported, task_of(smooth(40, 30, 3), "center"))


def test_the_average_comes_first_if_it_is_asked_for(small):
    networks, exported = small()
    assert_equal(networks, exported, task_of(smooth(20, 30, 3), "half"), answer="average")


def test_a_hole_far_larger_than_the_model_is_joined_to_its_border(small):
    networks, exported = small()
    # Detail of eight doublings repeats a choice between two examples.
    assert_equal(networks, exported, task_of(smooth(300, 201, 3), "half:top"), share=0.05)


@pytest.mark.parametrize(("channels", "bands"), [("L", 1), ("RGB", 3), ("RGB", 4), ("RGBA", 4)])
def test_sharp_answers_have_the_detail_of_the_known_pixels(small, channels, bands):
    networks, exported = small(channels)
    task = task_of(smooth(70, 90, bands), "center")
    options = CompletionOptions(find_method("default"))
    with patch(
        "pixmend.completion.view.enlarge", lambda image, to, _: resize(image, tuple(to.shape[1:]))
    ):
        (plain,) = complete_batch(networks, [task], options)
    (expected,) = complete_batch(networks, [task], options)
    (actual,) = exported.complete_tasks([task], options)
    hole = task.mask.hole

    def share(one, other):
        pixels = (each.candidates[0].picture.pixels[hole].astype(int) for each in (one, other))
        return np.mean(np.abs(np.subtract(*pixels)) > 1)

    assert share(plain, expected) > 0.1
    assert share(actual, expected) < 0.01


def session_of(compute, *names):
    """Return a session of one output."""
    graph = Graph()
    graph.rename(compute(*(Value(graph, name) for name in names)), "result")
    inputs = [typed(name, TensorProto.FLOAT) for name in names]
    body = helper.make_model(
        graph.finish(inputs, [typed("result", TensorProto.FLOAT)]),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=11,
    )
    return onnxruntime.InferenceSession(body.SerializeToString())


@pytest.mark.parametrize("size", [16, 64])
@pytest.mark.parametrize("spec", ["center", "half:right", "random:0.8"])
def test_candidates_are_warped_and_ordered_as_torch_does(size, spec):
    generator = torch.Generator().manual_seed(size)
    small = torch.rand(18, 3, size // 8, size // 8, generator=generator)
    images = (F.interpolate(small, (size, size), mode="bicubic").clamp(0, 1) * 255).round()
    images[1:4] = images[0] * torch.tensor([1.0, 0.9, 0.5])[:, None, None, None]
    known = torch.from_numpy(make_mask(spec, size, size).known).float()[None, None]
    target = images[:1].roll(1, 2) / 127.5 - 1
    expected, _ = align(images[None].byte(), target, known, 8)
    values = {"images": images.floor(), "target": target, "known": known}
    session = session_of(lambda *inputs: _align(*inputs, size, WARPED, 8)[0], *values)
    (aligned,) = session.run(None, {name: value.numpy() for name, value in values.items()})
    assert not torch.equal(expected[0, 0], images[0] / 127.5 - 1)
    assert np.abs(aligned - expected[0].numpy()).max() < 1e-5


@pytest.mark.parametrize("spec", ["center", "half:right", "strokes:0.3"])
def test_the_fill_is_that_of_torch_to_a_hundredth_of_a_level(spec):
    session = session_of(lambda image, known: biharmonic_fill(image, known, 64), "image", "known")
    known = torch.from_numpy(make_mask(spec, 64, 64).known).float()[None, None]
    for seed in range(3):
        pixels = torch.from_numpy(smooth(64, 64, 3, seed=seed)).permute(2, 0, 1)[None]
        image = (pixels / 127.5 - 1) * known
        (fill,) = session.run(None, {"image": image.numpy(), "known": known.numpy()})
        expected = gather_evidence(image, known, None).fill
        assert (torch.from_numpy(fill) - expected).abs().max() * 127.5 < 0.01


@pytest.mark.parametrize("count", [1, 2, 100, 1023, 1024, 1025, 90_000])
def test_examples_are_drawn_as_torch_draws_them(count):
    graph = Graph()
    graph.rename(_shuffled(Value(graph, "count")), "order")
    inputs, outputs = typed("count", TensorProto.INT64, []), typed("order", TensorProto.INT64)
    body = helper.make_model(
        graph.finish([inputs], [outputs]),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=11,
    )
    session = onnxruntime.InferenceSession(body.SerializeToString())
    (order,) = session.run(None, {"count": np.array(count)})
    expected = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:1024]
    assert np.array_equal(order[:count], expected)


def test_an_image_answers_as_the_type_that_was_given(small):
    networks, exported = small()
    pixels = smooth(20, 30, 3)
    result = exported.complete(pixels, "center", candidates=2, answer="average")
    expected = Model(networks).complete(pixels, "center", candidates=2, answer="average")
    assert result.best.shape == pixels.shape
    assert len(result.images) == 2
    assert np.abs(result.best.astype(int) - expected.best).max() <= 1
    deep = (pixels[..., 0].astype(np.uint16) * 257 + 5).clip(max=65535)
    several = exported.complete([deep, deep], "center")
    known = make_mask("center", 20, 30).known
    assert several[1].best.dtype == np.uint16
    assert np.array_equal(several[1].best[known], deep[known])
    assert (several[1].best[~known] > 255).any()


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    networks = load_model("characters")
    return networks, export_onnx(networks, tmp_path_factory.mktemp("onnx") / "characters.onnx")


@pytest.mark.parametrize("spec", MASKS)
def test_the_bundled_model_equals_torch_on_characters(bundled, spec):
    networks, exported = bundled
    for folder in sorted(BUNDLED.glob("characters/Sample*"))[::12]:
        picture = open_image(next(find_images(folder)))
        task = Task(picture, make_mask(spec, picture.height, picture.width))
        assert_equal(networks, exported, task)


def test_float16_weights_halve_them_and_cost_little(bundled, tmp_path):
    networks, exported = bundled
    path = tmp_path / "half.onnx"
    half = export_onnx(networks, path, half=True)
    weights = 4 * sum(value.numel() for value in networks.inpainter.parameters())
    assert exported.facts["bytes"] - half.facts["bytes"] > 0.45 * weights
    picture = open_image(next(find_images(BUNDLED / "characters" / "Sample011")))
    one, other = (
        each.complete(picture.pixels, "center", answer="average").best for each in (exported, half)
    )
    assert np.abs(one.astype(int) - other).mean() < 0.5
    assert isinstance(half, OnnxModel)
