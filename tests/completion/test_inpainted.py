"""Completing by the inpainter: the laws that hold of every method, of models that have one."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pixmend.api import Model
from pixmend.completion import (
    METHODS,
    CompletionOptions,
    Task,
    complete,
    complete_batch,
    find_method,
)
from pixmend.errors import SettingsError
from pixmend.images import open_image
from pixmend.masks import make_mask
from pixmend.models import Calibration, Retrieval
from tests.inpainting import with_inpainter

INPAINTED = [METHODS["instant"], METHODS["default"]]


@pytest.fixture(params=[0, 6], ids=["no retrieval", "retrieval"])
def model(request, lively):
    """A lively model with an inpainter, and retrieval of random images or none."""
    return with_inpainter(lively("RGB"), retrieval_images=request.param)


def jobs(count=5):
    pixels = np.random.default_rng(2).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return [
        Task(open_image(each), make_mask("strokes:0.4", 16, 16, seed=number), str(number))
        for number, each in enumerate(pixels)
    ]


def answers(results):
    return [[candidate.picture.pixels for candidate in result.candidates] for result in results]


@pytest.mark.parametrize("method", INPAINTED, ids=lambda method: method.name)
def test_known_pixels_are_sacred_and_missing_ones_are_filled(model, method):
    for result in complete_batch(model, jobs(), CompletionOptions(method, candidates=3)):
        assert len(result.candidates) == 3
        for candidate in result.candidates:
            before, after = result.original.pixels, candidate.picture.pixels
            assert np.array_equal(before[result.mask.known], after[result.mask.known])
            assert not np.array_equal(before[result.mask.hole], after[result.mask.hole])


@pytest.mark.parametrize("method", INPAINTED, ids=lambda method: method.name)
def test_an_image_alone_among_others_and_in_another_order_gets_the_same_answer(model, method):
    options = CompletionOptions(method, candidates=2)
    together = answers(complete_batch(model, jobs(), options))
    alone = [answers(complete_batch(model, [job], options))[0] for job in jobs()]
    turned = answers(complete_batch(model, jobs()[::-1], options))[::-1]
    for ours, single, other in zip(together, alone, turned, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, single, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(ours, other, strict=True))


@pytest.mark.parametrize("model", [6], indirect=True, ids=["retrieval"])
def test_a_batch_of_64_equals_64_singles_and_64_in_batches_of_5(model):
    many = jobs(64)
    options = CompletionOptions(replace(METHODS["instant"], blend="paste"), batch=64)
    together = answers(complete(model, many, options))
    alone = answers(complete(model, many, replace(options, batch=1)))
    in_fives = answers(complete(model, many, replace(options, batch=5)))
    for ours, single, other in zip(together, alone, in_fives, strict=True):
        assert np.array_equal(ours, single)
        assert np.array_equal(ours, other)


def seen(job):
    """What the model sees of a task of its own size."""
    target = torch.from_numpy(job.picture.pixels).permute(2, 0, 1)[None] / 127.5 - 1
    return target, torch.from_numpy(job.mask.known).float()[None, None]


def assert_in_the_hole(job, result, expected):
    levels = ((expected + 1) * 127.5).permute(1, 2, 0).numpy()
    gap = np.abs(result.candidates[0].picture.pixels.astype(float) - levels)
    assert gap[job.mask.hole].max() <= 0.51
    assert result.steps == 0


def test_instant_is_the_first_draw_of_the_inpainter(model):
    job = jobs(1)[0]
    options = CompletionOptions(replace(METHODS["instant"], blend="paste"))
    (result,) = complete_batch(model, [job], options)
    assert_in_the_hole(job, result, model.inpaint(*seen(job), draws=1).draws[0, 0])


def test_default_is_the_draw_of_eight_that_is_nearest_to_the_estimate(model):
    job = jobs(1)[0]
    options = CompletionOptions(replace(METHODS["default"], blend="paste"))
    (result,) = complete_batch(model, [job], options)
    inpainted = model.inpaint(*seen(job), draws=8)
    missing = 1 - seen(job)[1][0]
    gaps = [
        ((each - inpainted.estimate[0]) * missing).square().sum() for each in inpainted.draws[0]
    ]
    assert_in_the_hole(job, result, inpainted.draws[0, int(torch.stack(gaps).argmin())])


def test_candidates_are_distinct_answers(model):
    (result,) = complete_batch(model, jobs(1), CompletionOptions(METHODS["instant"], candidates=3))
    holes = [candidate.picture.pixels[result.mask.hole] for candidate in result.candidates]
    assert not any(np.array_equal(holes[0], other) for other in holes[1:])


@pytest.mark.parametrize("count", [2, 8])
def test_the_best_of_several_candidates_is_the_answer_given_alone(model, count):
    alone = complete_batch(model, jobs(3), CompletionOptions(METHODS["default"]))
    options = CompletionOptions(METHODS["default"], candidates=count)
    for one, many in zip(alone, complete_batch(model, jobs(3), options), strict=True):
        assert np.array_equal(one.best, many.best)
        assert one.confidence == many.confidence or one.confidence is None


def test_a_model_without_an_inpainter_asked_for_instant_says_what_to_do(lively):
    with pytest.raises(SettingsError, match="inpainter_filters=32"):
        Model(lively("RGB"), "cpu").complete(
            jobs(1)[0].picture.to_pil(), "center", method="instant"
        )


def test_a_number_of_steps_asks_for_a_search(model, lively):
    method = find_method("default", steps=7)
    for each in (model, lively("RGB")):
        assert method.for_model(each).steps == 7
        assert not method.uses_inpainter(each)
    assert METHODS["default"].for_model(model).steps == 0
    quick = replace(method, init_pool=16, restarts=1)
    (searched,) = complete_batch(model, jobs(1), CompletionOptions(quick))
    (plain,) = complete_batch(lively("RGB"), jobs(1), CompletionOptions(quick))
    assert np.array_equal(searched.best, plain.best)


def test_more_candidates_than_there_are_retrieval_images_are_distinct_too(model):
    (result,) = complete_batch(model, jobs(1), CompletionOptions(METHODS["instant"], candidates=9))
    holes = [
        candidate.picture.pixels[result.mask.hole].tobytes() for candidate in result.candidates
    ]
    assert len(set(holes)) == 9


def test_the_average_is_the_estimate_with_its_uncertainty(model):
    job = jobs(1)[0]
    method = replace(METHODS["default"], blend="paste")
    (result,) = complete_batch(model, [job], CompletionOptions(method, answer="average"))
    inpainted = model.inpaint(*seen(job))
    assert_in_the_hole(job, result, inpainted.estimate[0])
    deviation = (inpainted.log_variance / 2).exp()[0, 0].numpy() * 127.5
    np.testing.assert_allclose(
        result.uncertainty[job.mask.hole], deviation[job.mask.hole], rtol=1e-3, atol=1e-3
    )


def test_an_average_alone_and_among_others_is_the_same_and_keeps_known_pixels(model):
    options = CompletionOptions(METHODS["default"], answer="average")
    together = complete_batch(model, jobs(), options)
    for job, result in zip(jobs(), together, strict=True):
        (alone,) = complete_batch(model, [job], options)
        ours, theirs = result.candidates[0].picture.pixels, alone.candidates[0].picture.pixels
        assert np.array_equal(ours, theirs)
        assert np.array_equal(ours[job.mask.known], job.picture.pixels[job.mask.known])


def calibrated_model(model, **changes):
    """The model with a calibration: half of what is said comes true, and images are expected to be like anything."""
    held = {"predicted": [0.0, 1.0], "observed": [0.0, 0.5], "distance": 1e6}
    calibration = Calibration(**{**held, "centre": [0.0], "spread": [1.0], **changes})
    return replace(model, card={**model.card, "calibration": calibration.to_json()})


def test_confidence_is_what_the_variances_say_as_calibrated(model):
    (job,) = jobs(1)
    (plain,) = complete_batch(model, [job], CompletionOptions(METHODS["instant"]))
    assert plain.confidence is None
    assert plain.warnings == ()
    (result,) = complete_batch(
        calibrated_model(model), [job], CompletionOptions(METHODS["instant"])
    )
    deviation = result.uncertainty[job.mask.hole] / 127.5
    said = np.mean([math.erf(0.2 / (each * math.sqrt(2))) for each in deviation])
    assert result.confidence == pytest.approx(said / 2, abs=1e-4)
    assert result.warnings == ()
    assert result.record()["confidence"] == pytest.approx(result.confidence, abs=1e-3)
    # Each image's own, whatever the others in the batch are, and in windows a mean over pixels.
    together = complete_batch(
        calibrated_model(model), jobs(), CompletionOptions(METHODS["instant"])
    )
    assert together[0].confidence == pytest.approx(result.confidence, abs=1e-6)
    (parts,) = complete_batch(
        calibrated_model(model), [job], CompletionOptions(METHODS["instant"], view="window")
    )
    assert 0 < parts.confidence < 0.5


def test_an_image_unlike_those_of_the_training_is_told(model):
    foreign = calibrated_model(model, distance=1e-3)
    (result,) = complete_batch(foreign, jobs(1), CompletionOptions(METHODS["instant"]))
    assert len(result.warnings) == 1
    assert all(each.startswith("unlike the images") for each in result.warnings)


@pytest.mark.parametrize("model", [6], indirect=True, ids=["retrieval"])
def test_an_image_far_from_all_training_images_is_told(model):
    dark = np.random.default_rng(5).integers(0, 40, (40, 3, 16, 16), np.uint8)
    held = replace(calibrated_model(model), retrieval=Retrieval(torch.from_numpy(dark)))
    mask = make_mask("center", 16, 16)
    own, foreign = (
        Task(open_image(each.transpose(1, 2, 0)), mask) for each in (dark[1], 255 - dark[1])
    )
    first, second = complete_batch(held, [own, foreign], CompletionOptions(METHODS["instant"]))
    assert first.warnings == ()
    (words,) = second.warnings
    assert "as far from the nearest training image as any should" in words


def test_other_methods_claim_no_confidence(model):
    method = replace(METHODS["yeh"], steps=2)
    (result,) = complete_batch(
        calibrated_model(model, distance=0.0), jobs(1), CompletionOptions(method)
    )
    assert result.confidence is None
    assert result.warnings == ()


@pytest.mark.parametrize("rows", [1, 30, 10**6])
def test_images_are_answered_alike_however_many_rows_are_decoded_together(model, monkeypatch, rows):
    """Eight draws an image: parts of 1, of 3 and all."""
    monkeypatch.setattr("pixmend.models.inpainter._ROWS", rows)
    options = CompletionOptions(METHODS["default"])
    alone = [complete_batch(model, [job], options)[0] for job in jobs(7)]
    together = complete_batch(model, jobs(7), options)
    assert np.array_equal(answers(alone), answers(together))


@pytest.mark.parametrize("side", [16, 32])
def test_only_a_sharp_answer_that_grows_is_given_detail(model, monkeypatch, side):
    from pixmend.completion import detail

    pixels = np.random.default_rng(2).integers(0, 256, (side, side, 3), np.uint8)
    task = Task(open_image(pixels), make_mask("center:0.3", side, side))
    results = {}
    for name, replacement in (("with", detail._add_detail), ("without", lambda answer, *_: answer)):
        monkeypatch.setattr(detail, "_add_detail", replacement)
        for kind in ("sharp", "average"):
            options = CompletionOptions(METHODS["default"], answer=kind)
            ((results[name, kind],),) = answers(complete_batch(model, [task], options))
    assert np.array_equal(results["with", "sharp"], results["without", "sharp"]) == (side == 16)
    assert np.array_equal(results["with", "average"], results["without", "average"])
