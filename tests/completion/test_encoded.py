"""Completing from an encoder: the laws that hold of every method, of models that have one."""

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
from pixmend.models import DCGAN, Calibration, Encoder, Retrieval, encode, infer, initialise
from pixmend.models.dcgan import DCGANSettings
from pixmend.rng import generator_for

ENCODED = [METHODS["instant"], replace(METHODS["default"], encoded_steps=4)]


@pytest.fixture(params=[0, 6], ids=["no memory", "memory"])
def model(request, lively):
    """A lively model with an encoder, and a memory of random images or none."""
    plain, count = lively("RGB"), request.param
    settings = DCGANSettings(
        **plain.settings.model_dump(exclude={"encoder", "retrieval_images"}),
        encoder="conditional",
        retrieval_images=count,
    )
    encoder = Encoder(settings)
    initialise(encoder, generator_for(1, "encoder"))
    with torch.no_grad():
        for part in encoder.modules():
            if isinstance(part, torch.nn.Conv2d):
                part.weight.mul_(8)
    encoder.eval().requires_grad_(False)
    pixels = np.random.default_rng(4).integers(0, 256, (count, 3, 16, 16), np.uint8)
    memory = Retrieval(torch.from_numpy(pixels)) if count else None
    return DCGAN(settings, plain.generator, plain.discriminator, plain.card, encoder, memory)


def jobs(count=5):
    pixels = np.random.default_rng(2).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return [
        Task(open_image(each), make_mask("strokes:0.4", 16, 16, seed=number), str(number))
        for number, each in enumerate(pixels)
    ]


def answers(results):
    return [[candidate.picture.pixels for candidate in result.candidates] for result in results]


@pytest.mark.parametrize("method", ENCODED, ids=lambda method: method.name)
def test_known_pixels_are_sacred_and_missing_ones_are_filled(model, method):
    for result in complete_batch(model, jobs(), CompletionOptions(method, candidates=3)):
        assert len(result.candidates) == 3
        for candidate in result.candidates:
            before, after = result.original.pixels, candidate.picture.pixels
            assert np.array_equal(before[result.mask.known], after[result.mask.known])
            assert not np.array_equal(before[result.mask.hole], after[result.mask.hole])


@pytest.mark.parametrize("method", ENCODED, ids=lambda method: method.name)
def test_an_image_alone_among_others_and_in_another_order_gets_the_same_answer(model, method):
    options = CompletionOptions(method, candidates=2)
    together = answers(complete_batch(model, jobs(), options))
    alone = [answers(complete_batch(model, [job], options))[0] for job in jobs()]
    turned = answers(complete_batch(model, jobs()[::-1], options))[::-1]
    for ours, single, other in zip(together, alone, turned, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(ours, single, strict=True))
        assert all(np.array_equal(a, b) for a, b in zip(ours, other, strict=True))


@pytest.mark.parametrize("model", [6], indirect=True, ids=["memory"])
def test_a_batch_of_64_equals_64_singles_and_64_in_batches_of_5(model):
    many = jobs(64)
    options = CompletionOptions(replace(METHODS["instant"], blend="paste"), batch=64)
    together = answers(complete(model, many, options))
    alone = answers(complete(model, many, replace(options, batch=1)))
    in_fives = answers(complete(model, many, replace(options, batch=5)))
    for ours, single, other in zip(together, alone, in_fives, strict=True):
        assert np.array_equal(ours, single)
        assert np.array_equal(ours, other)


def test_instant_is_one_pass_of_encoder_and_generator(model):
    job = jobs(1)[0]
    options = CompletionOptions(replace(METHODS["instant"], blend="paste"))
    (result,) = complete_batch(model, [job], options)
    target = torch.from_numpy(job.picture.pixels).permute(2, 0, 1)[None] / 127.5 - 1
    known = torch.from_numpy(job.mask.known).float()[None, None]
    expected = ((infer(model, target, known)[0] + 1) * 127.5).permute(1, 2, 0).numpy()
    gap = np.abs(result.candidates[0].picture.pixels.astype(float) - expected)
    assert gap[job.mask.hole].max() <= 0.51
    assert result.steps == 0


def test_default_starts_from_the_encoder_and_is_never_worse_by_its_objective(model):
    start, end = (
        next(complete(model, jobs(1), CompletionOptions(replace(ENCODED[1], encoded_steps=steps))))
        for steps in (0, 8)
    )
    assert end.history[0] == start.history[0]
    assert end.candidates[0].loss < start.candidates[0].loss
    assert end.steps == 8


def test_candidates_are_distinct_answers(model):
    (result,) = complete_batch(model, jobs(1), CompletionOptions(METHODS["instant"], candidates=3))
    holes = [candidate.picture.pixels[result.mask.hole] for candidate in result.candidates]
    assert not any(np.array_equal(holes[0], other) for other in holes[1:])


@pytest.mark.parametrize("name", ["instant", "default"])
@pytest.mark.parametrize("count", [2, 8])
def test_the_best_of_several_candidates_is_the_answer_given_alone(model, name, count):
    method = replace(METHODS[name], encoded_steps=0, neighbours=min(METHODS[name].neighbours, 8))
    alone = complete_batch(model, jobs(3), CompletionOptions(method))
    several = complete_batch(model, jobs(3), CompletionOptions(method, candidates=count))
    for one, many in zip(alone, several, strict=True):
        assert np.array_equal(one.best, many.best)
        assert one.confidence == many.confidence or one.confidence is None


def test_a_model_without_an_encoder_asked_for_instant_says_what_to_do(lively):
    with pytest.raises(SettingsError, match="encoder=conditional"):
        Model(lively("RGB"), "cpu").complete(
            jobs(1)[0].picture.to_pil(), "center", method="instant"
        )


def test_steps_that_were_asked_for_are_taken_from_any_start(model, lively):
    method = find_method("default", steps=7)
    assert method.for_model(model).steps == 7
    assert method.for_model(lively("RGB")).steps == 7
    assert (
        METHODS["default"].for_model(model).steps
        < METHODS["default"].for_model(lively("RGB")).steps
    )


def test_more_candidates_than_the_memory_has_images_are_distinct_too(model):
    (result,) = complete_batch(model, jobs(1), CompletionOptions(METHODS["instant"], candidates=9))
    holes = [
        candidate.picture.pixels[result.mask.hole].tobytes() for candidate in result.candidates
    ]
    assert len(set(holes)) == 9


def test_the_average_is_of_estimates_that_lean_on_eight_neighbours_without_a_search(model):
    job = jobs(1)[0]
    method = replace(METHODS["default"], blend="paste")
    (result,) = complete_batch(model, [job], CompletionOptions(method, answer="average"))
    target = torch.from_numpy(job.picture.pixels).permute(2, 0, 1)[None] / 127.5 - 1
    known = torch.from_numpy(job.mask.known).float()[None, None]
    neighbours, weights = [None], torch.full((8, 1, 1, 1), 1 / 8)
    if model.retrieval is not None:  # of six images; the lanes beyond lean on the same again
        order = model.retrieval.nearest(target, known, 6)[0]
        neighbours = [model.retrieval.take(order[lane % 6][None]) for lane in range(8)]
        far = torch.stack([(known * (each - target) ** 2).sum() for each in neighbours])
        weights = torch.softmax(-4 * far / far[0], 0).view(8, 1, 1, 1)
    encodings = [encode(model, target, known, each) for each in neighbours]
    estimates = [each.pixel_posterior for each in encodings]
    means = torch.stack([each.mean[0] for each in estimates])
    if model.retrieval is None:  # one estimate, eight draws
        encodings *= 8
        means = means.expand(8, -1, -1, -1)
    # The lanes beyond what there is to lean on are draws from the posterior.
    first = 1 if model.retrieval is None else 6
    noise = [torch.randn(8, generator=generator_for(0, "posterior", lane)) for lane in range(8)]
    latents = [
        encoding.draw(noise[lane] * (lane >= first)) for lane, encoding in enumerate(encodings)
    ]
    drawn = [
        model.generator(z, each.condition)[0] for z, each in zip(latents, encodings, strict=True)
    ]
    mean = (weights * means).sum(0)
    expected = ((mean + (weights * torch.stack(drawn)).sum(0)) / 2 + 1) * 127.5
    gap = np.abs(
        result.candidates[0].picture.pixels.astype(float) - expected.permute(1, 2, 0).numpy()
    )
    assert gap[job.mask.hole].max() <= 0.51
    assert result.steps == 0
    told = (weights * torch.stack([each.log_variance[0].exp() for each in estimates])).sum(0)
    apart = (weights * (means - mean) ** 2).sum(0).mean(0)
    spread = (told + apart).sqrt()[0].numpy() * 127.5
    np.testing.assert_allclose(
        result.uncertainty[job.mask.hole], spread[job.mask.hole], rtol=1e-3, atol=1e-3
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
    held = {"predicted": [0.0, 1.0], "observed": [0.0, 0.5], "known_error": 1e6, "distance": 1e6}
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
    foreign = calibrated_model(model, known_error=1.0, distance=1e-3)
    (result,) = complete_batch(foreign, jobs(1), CompletionOptions(METHODS["instant"]))
    assert len(result.warnings) == 2
    assert all(each.startswith("unlike the images") for each in result.warnings)


@pytest.mark.parametrize("model", [6], indirect=True, ids=["memory"])
def test_an_image_far_from_all_training_images_of_the_memory_is_told(model):
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
        calibrated_model(model, known_error=0.0), jobs(1), CompletionOptions(method)
    )
    assert result.confidence is None
    assert result.warnings == ()
