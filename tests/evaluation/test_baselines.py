"""Baselines against a second way of computing them, with and without the extras."""

import numpy as np
import pytest
from skimage.restoration import inpaint_biharmonic

from pixmend.evaluation.baselines import missing_requirement, solve_biharmonic
from pixmend.masks import make_mask

SHAPES = ("center", "half", "random:0.8", "grid", "strokes")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("height", "width", "channels"), [(17, 24, 3), (32, 32, 1), (9, 8, 4)])
def test_biharmonic_is_that_of_scikit_image(shape, height, width, channels):
    image = np.random.default_rng(3).random((height, width, channels))
    image += np.linspace(0, 2, width)[:, None]
    image /= image.max()
    hole = make_mask(shape, height, width, seed=4).hole
    answer = solve_biharmonic(image, hole)
    assert answer == pytest.approx(inpaint_biharmonic(image, hole, channel_axis=-1), abs=1e-6)
    assert np.array_equal(answer[~hole], image[~hole])


def test_biharmonic_continues_a_ramp():
    image = np.tile(np.linspace(0, 1, 11), (9, 1))[..., None]
    hole = np.zeros((9, 11), bool)
    hole[2:7, 3:8] = True
    damaged = np.where(hole[..., None], 0.5, image)
    assert solve_biharmonic(damaged, hole) == pytest.approx(image, abs=1e-9)


@pytest.mark.parametrize("missing", [True, False])
def test_an_image_without_a_hole_or_without_known_pixels_is_returned(missing):
    image = np.random.default_rng(5).random((6, 7, 3))
    assert np.array_equal(solve_biharmonic(image, np.full((6, 7), missing)), image)


def test_only_opencv_is_an_extra(monkeypatch):
    monkeypatch.setattr("pixmend.evaluation.baselines.find_spec", lambda name: None)
    train = np.zeros((2, 8, 8, 1), np.uint8)
    needs = {name: missing_requirement(name, train) for name in ("mean", "nearest", "biharmonic")}
    assert needs == dict.fromkeys(needs)
    assert "pixmend[bench]" in missing_requirement("telea", train)
    assert missing_requirement("mean", None) == "mean needs --train-data RECORDS"
