"""Fine-tuning: what it may change, what it may not, and that it stops in time."""

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from pixmend.completion import METHODS, CompletionOptions, Task, complete_batch
from pixmend.completion.finetune import finetuned_first_layer, hide
from pixmend.completion.latent import init_latents
from pixmend.images import open_image
from pixmend.masks import make_mask

BEST = replace(METHODS["best"], steps=5, init_pool=32, restarts=2, finetune=2)


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


@pytest.fixture
def model(lively):
    return lively("RGB")


def weights(model):
    networks = (model.generator, model.discriminator)
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


def test_the_hidden_pixels_are_hidden_from_the_fit(lively):
    """Their values decide when to stop, but not which way to go: one step is the same step, if it is taken."""
    model = lively("RGB")
    target, known = seen()
    _, hidden = hide(known, seed=0)
    other = torch.where(hidden > 0, -target, target)
    steps = []
    for image in (target, other):
        objective = BEST.objective(model, image, known)
        z = torch.zeros(1, model.settings.latent_dim)
        images = finetuned_first_layer(objective, z, model.settings, steps=1, seed=0)
        if not torch.equal(images, model.generator(z)):
            steps.append(images)
    assert steps
    assert all(torch.equal(images, steps[0]) for images in steps)


def test_fine_tuning_ends_when_somebody_wants_an_answer(lively):
    model = lively("RGB")
    target, known = seen(2)
    objective = BEST.objective(model, target, known)
    z = init_latents(BEST, objective, model.settings, 1, 0)[:, 0]

    def images(steps, asks=None):
        asked = count()
        stop = (lambda: False) if asks is None else lambda: next(asked) >= asks
        return finetuned_first_layer(
            objective, z, model.settings, steps=steps, seed=0, should_stop=stop
        )

    assert not torch.equal(images(12), images(0))
    assert torch.equal(images(12, asks=0), images(0))
