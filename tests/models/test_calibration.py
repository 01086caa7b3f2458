"""Calibration: predicted against observed shares of correct pixels, and reasons in words for images out of domain."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixmend.models import Calibration, calibrate
from pixmend.models.calibration import observed_correct, predicted_correct
from pixmend.rng import generator_for
from tests.inpainting import fresh_model as make


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=generator_for(seed, "calibration")) * 2 - 1


def some_calibration(**changes):
    held = {"predicted": [0.2, 0.6], "observed": [0.1, 0.9]}
    return Calibration(**{**held, "centre": [0.0], "spread": [1.0], "distance": 2.0, **changes})


def test_predicted_shares_are_those_of_normal_samples():
    variance = torch.tensor([1e-4, 0.04, 1.0]).view(3, 1, 1, 1).expand(3, 1, 200, 200)
    errors = variance.sqrt() * torch.randn(3, 1, 200, 200, generator=generator_for(0, "errors"))
    known = torch.zeros(3, 1, 200, 200)
    predicted = predicted_correct(variance, known)
    observed = observed_correct(errors, torch.zeros_like(errors), known)
    torch.testing.assert_close(predicted, observed, rtol=0, atol=0.01)


def test_correct_shares_ignore_known_pixels():
    target, images = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    known = (noise(2, 1, 8, 8, seed=2) > 0).float()
    changed = torch.where(known > 0, images, target)  # wrong where known, right where missing
    assert observed_correct(changed, target, known).tolist() == [1.0, 1.0]
    assert (observed_correct(images, target, known) < 1).all()


def test_confidence_follows_the_calibration_between_its_groups_and_not_beyond():
    variance, known = torch.full((1, 1, 4, 4), 1e-6), torch.zeros(1, 1, 4, 4)
    assert some_calibration().confidence(variance, known) == [0.9], (
        "certain of all, 0.9 by the calibration"
    )
    assert some_calibration().confidence(variance + 1e6, known) == [0.1]
    middle = some_calibration(predicted=[0.0, 1.0], observed=[0.0, 0.5])
    predicted = float(predicted_correct(variance + 0.05, known))
    assert middle.confidence(variance + 0.05, known) == [pytest.approx(predicted / 2)]


def test_only_a_distance_beyond_the_threshold_gives_a_reason():
    calibration = some_calibration()
    assert calibration.reasons(2.0) == []
    (distance,) = calibration.reasons(2.6)
    assert "2.6 standard deviations off" in distance


def test_a_strange_family_among_the_held_out_moves_no_threshold():
    from pixmend.models.calibration import _threshold

    values = torch.linspace(1, 2, 101)
    assert _threshold(values) == pytest.approx(1.75 + 3 * 0.5)
    strange = torch.cat([values, torch.full((10,), 50.0)])
    assert _threshold(strange) < 3.6


def test_a_calibration_is_ascending_and_survives_json():
    model = make(channels="L")
    held_out, training = noise(12, 1, 16, 16), noise(20, 1, 16, 16, seed=1)
    known = (noise(3, 12, 1, 16, 16, seed=2) > 0).float()
    calibration = calibrate(model, held_out, training, known)
    assert calibration.predicted == sorted(calibration.predicted)
    assert calibration.observed == sorted(calibration.observed)
    assert len(calibration.predicted) == len(calibration.observed) >= 1
    assert len(calibration.centre) == len(calibration.spread) == 16
    again = Calibration.of(json.loads(json.dumps({"calibration": calibration.to_json()})))
    assert again == calibration
    distances = calibration.distances(model.discriminator, training)
    assert distances.square().mean() == pytest.approx(19 / 20, rel=1e-3), (
        "standard scores of 20 images"
    )


def test_a_model_without_an_inpainter_is_not_calibrated():
    images = noise(4, 3, 16, 16)
    model = replace(make(), inpainter=None)
    assert calibrate(model, images, images, torch.ones(1, 4, 1, 16, 16)) is None
    assert Calibration.of({}) is None
    assert Calibration.of({"calibration": {"predicted": []}}) is None


def test_groups_that_fall_are_pooled():
    from pixmend.models.calibration import _isotonic

    predicted, observed = np.array([0.3, 0.1, 0.2, 0.9]), np.array([0.2, 0.1, 0.6, 0.8])
    assert _isotonic(predicted, observed) == ([0.1, 0.25, 0.9], [0.1, 0.4, 0.8])
