"""Calibration: predicted against observed shares of correct pixels, and reasons in words for images out of domain."""

import json

import numpy as np
import pytest
import torch

from pixmend.models import Calibration, calibrate, known_error
from pixmend.models.calibration import observed_correct, predicted_correct
from pixmend.rng import generator_for
from tests.models.test_encoder import make


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=generator_for(seed, "calibration")) * 2 - 1


def some_calibration(**changes):
    held = {"predicted": [0.2, 0.6], "observed": [0.1, 0.9], "known_error": 10.0}
    return Calibration(**{**held, "centre": [0.0], "spread": [1.0], "distance": 2.0, **changes})


def test_predicted_shares_are_those_of_normal_samples():
    variance = torch.tensor([1e-4, 0.04, 1.0]).view(3, 1, 1, 1).expand(3, 1, 200, 200)
    errors = variance.sqrt() * torch.randn(3, 1, 200, 200, generator=generator_for(0, "errors"))
    known = torch.zeros(3, 1, 200, 200)
    predicted = predicted_correct(variance, known)
    observed = observed_correct(errors, torch.zeros_like(errors), known)
    torch.testing.assert_close(predicted, observed, rtol=0, atol=0.01)


def test_correct_shares_ignore_known_pixels_and_known_errors_ignore_missing_ones():
    target, images = noise(2, 3, 8, 8), noise(2, 3, 8, 8, seed=1)
    known = (noise(2, 1, 8, 8, seed=2) > 0).float()
    changed = torch.where(
        known > 0, images, target
    )  # wrong where it is known, right where it is missing
    assert observed_correct(changed, target, known).tolist() == [1.0, 1.0]
    assert (observed_correct(images, target, known) < 1).all()
    mended = torch.where(known > 0, target, images)
    assert known_error(mended, target, known).tolist() == [0.0, 0.0]
    expected = ((images - target)[0][:, known[0, 0] > 0] * 127.5).square().mean().sqrt()
    assert known_error(images, target, known)[0] == pytest.approx(float(expected), rel=1e-5)


def test_confidence_follows_the_calibration_between_its_groups_and_not_beyond():
    variance, known = torch.full((1, 1, 4, 4), 1e-6), torch.zeros(1, 1, 4, 4)
    assert some_calibration().confidence(variance, known) == [0.9], (
        "certain of all, 0.9 by the calibration"
    )
    assert some_calibration().confidence(variance + 1e6, known) == [0.1]
    middle = some_calibration(predicted=[0.0, 1.0], observed=[0.0, 0.5])
    predicted = float(predicted_correct(variance + 0.05, known))
    assert middle.confidence(variance + 0.05, known) == [pytest.approx(predicted / 2)]


def test_only_values_beyond_a_threshold_give_reasons():
    calibration = some_calibration()
    assert calibration.reasons(10.0, 2.0, 0.5) == []
    (error,) = calibration.reasons(13.0, 0.0, 0.5)
    assert "13 grey levels off" in error
    (distance,) = calibration.reasons(0.0, 2.6, 0.5)
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


def test_a_model_without_an_encoder_is_not_calibrated():
    images = noise(4, 3, 16, 16)
    assert (
        calibrate(
            make(encoder="off", retrieval_images=0), images, images, torch.ones(1, 4, 1, 16, 16)
        )
        is None
    )
    assert Calibration.of({}) is None
    assert Calibration.of({"calibration": {"predicted": []}}) is None


def test_groups_that_fall_are_pooled():
    from pixmend.models.calibration import _isotonic

    predicted, observed = np.array([0.3, 0.1, 0.2, 0.9]), np.array([0.2, 0.1, 0.6, 0.8])
    assert _isotonic(predicted, observed) == ([0.1, 0.25, 0.9], [0.1, 0.4, 0.8])


def test_images_with_few_known_pixels_may_have_larger_errors():
    model = make(channels="L")
    held_out, training = noise(40, 1, 16, 16), noise(20, 1, 16, 16, seed=1)
    chance = (noise(2, 40, 1, 16, 16, seed=2) + 1) / 2
    known = torch.stack([chance[0] > 0.9, chance[1] > 0.5]).float()
    calibration = calibrate(model, held_out, training, known)
    assert calibration.known_errors == sorted(calibration.known_errors)
    assert len(calibration.known_errors) == 5
    alone = [calibrate(model, held_out, training, each[None]).known_error for each in known]
    # A tenth known, in the last fifth; half, in the third, which what is below goes by too.
    assert calibration.known_errors[2] == calibration.known_errors[0]
    assert calibration.known_errors[4] >= max(alone) - 1e-6


def test_thresholds_follow_the_missing_share_and_older_files_have_one_for_all():
    calibration = some_calibration(known_errors=[5.0, 5.0, 6.0, 7.0, 20.0])
    assert calibration.reasons(13.0, 0.0, 0.9) == []
    assert calibration.reasons(20.0, 0.0, 1.0) == []
    (reason,) = calibration.reasons(13.0, 0.0, 0.25)
    assert "13 grey levels off (held-out images: below 5)" in reason
    assert some_calibration().reasons(9.0, 0.0, 0.1) == []
    assert some_calibration().reasons(11.0, 0.0, 0.9)


def test_thresholds_are_of_enough_images_or_of_the_next_bin():
    from pixmend.models.calibration import _threshold, _thresholds

    values = torch.cat([torch.linspace(1, 2, 20), torch.linspace(4, 5, 20), torch.full((3,), 90.0)])
    missing = torch.cat([torch.full((20,), 0.3), torch.full((20,), 0.7), torch.full((3,), 0.9)])
    low, high = _threshold(values[:20]), _threshold(values[20:40])
    assert _thresholds(values, missing) == [low, low, low, high, high]
    assert _thresholds(values[:3], missing[:3]) == [_threshold(values[:3])] * 5
