"""Refining: what it may change, what it may not, and that it stops in time."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from pixmend.completion import METHODS, CompletionOptions, Task, complete_batch
from pixmend.completion.amortized import encode_rows, rank_by_consensus
from pixmend.completion.finetune import finetuned_encoder, finetuned_first_layer, hide
from pixmend.completion.latent import init_latents
from pixmend.images import open_image
from pixmend.masks import make_mask
from pixmend.models import DCGAN, Encoder, Retrieval, encode, initialise
from pixmend.models.dcgan import DCGANSettings
from pixmend.rng import generator_for

BEST = replace(METHODS["best"], steps=5, encoded_steps=3, init_pool=32, restarts=2, finetune=2)


@pytest.fixture(params=["off", "conditional"])
def model(request, lively):
    """A lively model, without an encoder or with one and a memory."""
    plain = lively("RGB")
    if request.param == "off":
        return plain
    return encoded(plain)


def encoded(plain):
    settings = DCGANSettings(
        **plain.settings.model_dump(exclude={"encoder", "retrieval_images"}),
        encoder="conditional",
        retrieval_images=12,
    )
    encoder = Encoder(settings)
    initialise(encoder, generator_for(1, "encoder"))
    with torch.no_grad():
        for part in encoder.modules():
            if isinstance(part, torch.nn.Conv2d):
                part.weight.mul_(8)
    encoder.eval().requires_grad_(False)
    pixels = np.random.default_rng(4).integers(0, 256, (12, 3, 16, 16), np.uint8)
    memory = Retrieval(torch.from_numpy(pixels))
    return DCGAN(settings, plain.generator, plain.discriminator, plain.card, encoder, memory)


def jobs(count=3):
    pixels = np.random.default_rng(2).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return [
        Task(open_image(each), make_mask("strokes:0.4", 16, 16, seed=number), str(number))
        for number, each in enumerate(pixels)
    ]


def seen(count=1):
    pixels = torch.from_numpy(np.stack([job.picture.pixels for job in jobs(count)]))
    known = torch.from_numpy(np.stack([job.mask.known for job in jobs(count)]))
    return pixels.permute(0, 3, 1, 2) / 127.5 - 1, known[:, None].float()


def answers(results):
    return [result.candidates[0].picture.pixels for result in results]


@pytest.mark.parametrize("rows", [1, 30, 10**6])
def test_images_are_answered_alike_however_many_are_encoded_together(lively, monkeypatch, rows):
    model, asked = encoded(lively("RGB")), jobs(7)
    monkeypatch.setattr(
        "pixmend.completion.amortized._ROWS", rows
    )  # 8 neighbours an image: parts of 1, of 3 and all
    options = CompletionOptions(METHODS["default"])
    alone = [complete_batch(model, [job], options)[0] for job in asked]
    together = complete_batch(model, asked, options)
    assert np.array_equal(answers(alone), answers(together))
    first, second = ([each.candidates[0].z for each in found] for found in (alone, together))
    assert np.array_equal(first, second)


def weights(model):
    networks = (model.generator, model.discriminator, model.encoder)
    return {
        (number, name): value.clone()
        for number, network in enumerate(networks)
        if network is not None
        for name, value in network.state_dict().items()
    }


def test_an_image_alone_among_others_and_again_gets_the_same_answer(model):
    together = answers(complete_batch(model, jobs(), CompletionOptions(BEST)))
    again = answers(complete_batch(model, jobs()[::-1], CompletionOptions(BEST)))[::-1]
    for job, ours, other in zip(jobs(), together, again, strict=True):
        (alone,) = answers(complete_batch(model, [job], CompletionOptions(BEST)))
        assert np.array_equal(ours, alone)
        assert np.array_equal(ours, other)


def test_known_pixels_are_sacred_and_the_model_is_as_it_was(model):
    before = weights(model)
    (result,) = complete_batch(model, jobs(1), CompletionOptions(BEST))
    (plain,) = complete_batch(model, jobs(1), CompletionOptions(replace(BEST, finetune=0)))
    ours, mask = answers([result])[0], result.mask
    assert np.array_equal(ours[mask.known], result.original.pixels[mask.known])
    assert not np.array_equal(ours, answers([plain])[0])
    after = weights(model)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(weight.requires_grad for weight in model.generator.parameters())


def test_a_tenth_of_what_is_known_is_hidden():
    known = (torch.rand(2, 1, 64, 64) < 0.6).float()
    left, hidden = hide(known, seed=0)
    assert torch.equal(left + hidden, known)
    assert hidden.sum() / known.sum() == pytest.approx(0.1, abs=0.02)


def hidden_error(images, target, hidden):
    return ((images - target).abs() * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3)) / 3


def test_more_steps_never_draw_the_hidden_pixels_worse_and_some_draw_them_better(lively):
    model = lively("RGB")
    target, known = seen(5)
    objective = BEST.objective(model, target, known)
    z = init_latents(BEST, objective, model.settings, 1, 0)[:, 0]
    _, hidden = hide(known, seed=0)
    errors = []
    for steps in (0, 3, 12):
        images = finetuned_first_layer(objective, z, model.settings, steps=steps, seed=0)
        errors.append(hidden_error(images, target, hidden))
    assert torch.equal(
        errors[0], hidden_error(model.generator(z), target, hidden)
    )  # no steps, no change
    assert (errors[1] <= errors[0]).all()
    assert (errors[2] <= errors[1]).all()
    assert (errors[2] < errors[0]).any()


def test_the_hidden_pixels_are_hidden_from_the_fit(model):
    """Their values decide when to stop, but not which way to go: one step is the same step whatever they are, if taken."""
    target, known = seen()
    _, hidden = hide(known, seed=0)
    other = torch.where(hidden > 0, -target, target)
    found = []
    for image in (target, other):
        if model.encoder is None:
            objective = BEST.objective(model, image, known)
            z = torch.zeros(1, model.settings.latent_dim)
            drawn = finetuned_first_layer(objective, z, model.settings, steps=1, seed=0)
            changed, value = not torch.equal(drawn, model.generator(z)), drawn
        else:
            tuned = finetuned_encoder(model, image, known, steps=1, seed=0)
            changed, value = tuned is not model.encoder, tuned.residual.weight
        if changed:
            found.append(value)
    assert found
    assert all(torch.equal(value, found[0]) for value in found)


def test_a_tuned_encoder_draws_the_hidden_pixels_no_worse_the_longer_it_is_tuned(lively):
    model = encoded(lively("RGB"))
    target, known = seen()
    left, hidden = hide(known, seed=0)
    nearest = model.retrieval.take(model.retrieval.nearest(target, left, 4)[0])
    errors = []
    for steps in (0, 2, 8):
        tuned = replace(model, encoder=finetuned_encoder(model, target, known, steps=steps, seed=0))
        rows = (each.expand(4, -1, -1, -1) for each in (target, left))
        encoding = encode(tuned, *rows, nearest)
        images = model.generator(encoding.mean, encoding.condition)
        errors.append(hidden_error(images, target, hidden.expand(4, -1, -1, -1)).mean().item())
    assert errors[0] >= errors[1] >= errors[2]
    assert errors[2] < errors[0]


def test_steps_that_only_do_harm_are_not_kept(lively, monkeypatch):
    monkeypatch.setattr("pixmend.completion.finetune._ENCODER_RATE", 3.0)
    model = encoded(lively("RGB"))
    target, known = seen()
    assert finetuned_encoder(model, target, known, steps=3, seed=0) is model.encoder


def test_nothing_known_to_hide_leaves_the_encoder_as_it_is(lively):
    model = encoded(lively("RGB"))
    target, known = seen()
    assert finetuned_encoder(model, target, known * 0, steps=3, seed=0) is model.encoder


def test_the_start_is_the_neighbours_answer_that_fits_and_agrees_best(lively):
    model = encoded(lively("RGB"))
    target, known = seen(3)
    rows = torch.tensor([0] * 8 + [1] * 8 + [2] * 8)
    starts = encode_rows(model, target, known, rows, 8, seed=0)
    z, encoding = starts.z, starts.encoding
    objective = METHODS["default"].objective(model, target[rows], known[rows], encoding.condition)
    order = rank_by_consensus(objective, starts, 3, 8)
    assert sorted(order.flatten().tolist()) == list(range(24))
    drawn = objective.draw(z).view(3, 8, 3, 16, 16)
    both = (drawn + encoding.pixel_posterior.mean.view(3, 8, 3, 16, 16)) / 2
    mean = (torch.softmax(starts.log_weights.view(3, 8), 1).view(3, 8, 1, 1, 1) * both).sum(1)
    for image in range(3):
        gaps = ((drawn[image] - mean[image]).abs() * (1 - known[image])).sum((1, 2, 3))
        scores = objective(z).total.view(3, 8)[image] + 0.1 * gaps
        torch.testing.assert_close(
            scores[order[image] - 8 * image], scores.sort().values, rtol=1e-4, atol=1e-4
        )
    (result,) = complete_batch(
        model, jobs(1), CompletionOptions(replace(METHODS["default"], encoded_steps=0))
    )
    assert np.allclose(result.candidates[0].z, z[order[0, 0]], atol=1e-5)


def test_the_nearer_a_neighbour_the_more_its_answer_counts_and_units_do_not(lively):
    model = encoded(lively("RGB"))
    target, known = seen(3)
    rows = torch.tensor([0] * 8 + [1] * 8 + [2] * 8)
    found = encode_rows(model, target, known, rows, 8, seed=0).log_weights.view(3, 8)
    nearest = model.retrieval.nearest(target, known, 8)
    images = model.retrieval.images[nearest].float() / 127.5 - 1  # [3, 8, C, S, S]
    apart = (known[:, None] * (images - target[:, None]) ** 2).sum((2, 3, 4))
    torch.testing.assert_close(found, -4 * apart / apart[:, :1], rtol=1e-5, atol=1e-5)
    assert (found.diff(dim=1) <= 0).all()
    torch.testing.assert_close(found[:, 0], torch.full((3,), -4.0))
    # An image of the memory itself counts alone.
    own = model.retrieval.take(torch.tensor([5]))
    found = encode_rows(model, own, known[:1], torch.zeros(8, dtype=torch.int64), 8, seed=0)
    assert torch.softmax(found.log_weights, 0)[0] > 0.999


def test_tuning_ends_when_somebody_wants_an_answer(lively):
    model = encoded(lively("RGB"))
    mask = make_mask("center", 16, 16)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), np.uint8)
    jobs = [Task(open_image(each), mask) for each in pixels]

    def answer(refine, asks=None):
        asked = count()
        stop = (lambda: False) if asks is None else lambda: next(asked) >= asks
        method = replace(BEST, finetune=refine, encoded_steps=0)
        return [
            each.candidates[0].picture.pixels.tobytes()
            for each in complete_batch(model, jobs, CompletionOptions(method), should_stop=stop)
        ]

    assert answer(5) != answer(0)
    assert answer(5, asks=0) == answer(0)  # asked before the first step, and so on
    assert answer(5, asks=2) == [answer(2)[0], answer(0)[1]]
    assert answer(5, asks=5) == [answer(5)[0], answer(0)[1]]
