"""The objective's losses and terms, each against its equation written out, gradient-checked, and per image."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixmend.completion import METHODS, CompletionOptions, Task, complete, complete_batch
from pixmend.completion.latent import best_of_pool
from pixmend.completion.methods import SOLVERS
from pixmend.completion.objective import (
    contextual_l1,
    contextual_mean_squared,
    contextual_squared,
    latent_norm,
    nonsaturating_prior,
)
from pixmend.images import open_image
from pixmend.masks import make_mask
from pixmend.models import sample_latents
from pixmend.rng import generator_for


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1


def holes(*shape, seed=5):
    return (draw(shape[0], 1, *shape[2:], seed=seed) > -0.3).double()


SHAPE = (3, 3, 16, 16)


@pytest.mark.parametrize("loss", [contextual_l1, contextual_squared, contextual_mean_squared])
def test_losses_of_images_are_per_image_have_right_gradients_and_no_say_in_the_hole(loss):
    images, target, known = draw(*SHAPE), draw(*SHAPE, seed=1), holes(*SHAPE)
    found = loss(images, target, known)
    assert found.shape == (3,)
    assert found.min() > 0
    for row in range(3):
        alone = loss(*(each[row : row + 1] for each in (images, target, known)))
        torch.testing.assert_close(alone[0], found[row])
    other = torch.where(known > 0, target, draw(*SHAPE, seed=7))  # the same, but in the hole
    torch.testing.assert_close(loss(images, other, known), found)
    drawn_right = torch.where(known > 0, target, images)
    assert torch.equal(loss(drawn_right, target, known), torch.zeros(3, dtype=torch.float64))
    one = [each[:1] for each in (images, target, known)]
    assert torch.autograd.gradcheck(
        lambda x: loss(x, *one[1:]), one[0].requires_grad_(), fast_mode=True
    )


def test_losses_of_z_and_of_logits_have_right_gradients_and_are_per_row():
    for loss, at in (
        (lambda z: latent_norm(None, z, None), draw(4, 5) * 2),
        (nonsaturating_prior, draw(4) * 9),
    ):
        assert torch.equal(loss(at)[2:3], loss(at[2:3]))
        assert torch.autograd.gradcheck(loss, at.requires_grad_())


def test_the_mean_squared_error_is_over_known_pixels_alone():
    images, target, known = draw(*SHAPE), draw(*SHAPE, seed=1), holes(*SHAPE)
    for row, value in enumerate(contextual_mean_squared(images, target, known)):
        seen = known[row, 0] > 0
        gap = (images - target)[row][:, seen]
        assert float(value) == pytest.approx(float(gap.square().mean()))


def test_the_nonsaturating_prior_is_minus_log_d():
    logits = torch.linspace(-5, 5, 11).double()
    torch.testing.assert_close(nonsaturating_prior(logits), -torch.log(torch.sigmoid(logits)))


# Methods made of them

DEFAULT = replace(METHODS["default"], steps=6, init_pool=32)
COMPOSED = {
    "terms": replace(DEFAULT, terms=((latent_norm, 0.01),)),
    "no prior": replace(DEFAULT, lambda_perceptual=0.0, contextual=contextual_mean_squared),
    "lbfgs": replace(DEFAULT, solver="lbfgs", learning_rate=1.0, scheduled=False),
    "impatient": replace(
        DEFAULT, steps=60, scheduled=False, learning_rate=0.1, patience=4, tolerance=0.02
    ),
}


def jobs():
    pixels = np.random.default_rng(2).integers(0, 256, (5, 16, 16, 3), np.uint8)
    return [
        Task(open_image(each), make_mask("strokes:0.4", 16, 16, seed=number), str(number))
        for number, each in enumerate(pixels)
    ]


def facts(result):
    return (
        [(answer.picture.native.tobytes(), answer.z.tobytes()) for answer in result.candidates],
        [(step, image.tobytes()) for step, image in result.snapshots.items()],
        result.history.tobytes(),
        result.steps,
    )


@pytest.mark.parametrize("name", COMPOSED)
def test_an_image_alone_among_others_and_in_another_order_gets_the_same_answer(lively, name):
    options = CompletionOptions(COMPOSED[name], 2, (3, 9, 20), seed=3)
    together = [facts(result) for result in complete_batch(lively(), jobs(), options)]
    alone = [facts(result) for result in complete(lively(), jobs(), replace(options, batch=1))]
    turned = [facts(result) for result in complete_batch(lively(), jobs()[::-1], options)]
    assert together == alone == turned[::-1]


@pytest.mark.parametrize("name", COMPOSED)
def test_more_steps_are_never_worse_and_known_pixels_are_sacred(lively, name):
    # Each is a run of its own; what the longer one did first is what the shorter one did.
    last = None
    for steps in (6, 12):
        method = replace(COMPOSED[name], steps=steps, scheduled=False)
        (result,) = complete_batch(lively(), jobs()[:1], CompletionOptions(method))
        assert (np.diff(result.history) <= 0).all()
        assert result.candidates[0].loss == pytest.approx(float(result.history[-1]))
        known = result.mask.known
        after = result.candidates[0].picture.native
        assert np.array_equal(after[known], result.original.native[known])
        assert last is None or result.candidates[0].loss <= last
        last = result.candidates[0].loss


def test_images_stop_by_themselves_and_a_stopped_batch_ends(lively):
    options = CompletionOptions(COMPOSED["impatient"], snapshots=tuple(range(60)))
    results = complete_batch(lively(), jobs(), options)
    steps = [result.steps for result in results]
    assert [list(result.snapshots) for result in results] == [list(range(n + 1)) for n in steps]
    assert [len(result.history) for result in results] == [each + 1 for each in steps]
    assert len(set(steps)) > 1
    assert max(steps) < 60


@pytest.mark.parametrize("name", ["terms", "no prior"])
def test_a_bank_is_ranked_by_the_whole_objective(lively, name):
    model, method = lively(), COMPOSED[name]
    target, known = draw(3, 3, 16, 16).float(), holes(3, 3, 16, 16).float()
    objective = method.objective(model, target, known)
    starts = best_of_pool(objective, model.settings, 3, size=100, seed=5)
    bank = sample_latents(model.settings, 100, generator_for(5, "bank"))
    for image in range(3):
        rows = torch.full((100,), image)
        totals = objective.take(rows)(bank).total
        assert torch.allclose(starts[image], bank[torch.argsort(totals)[:3]])


def test_a_method_that_gives_d_no_say_does_not_ask_it(lively):
    model, asked = lively(), []
    hook = model.discriminator.register_forward_pre_hook(lambda *_: asked.append(1))
    for name, count in (("csgm", 0), ("surgery", 0), ("bamos", 3)):
        asked.clear()
        (result,) = complete_batch(
            model, jobs()[:1], CompletionOptions(replace(METHODS[name], steps=2))
        )
        assert len(asked) == count  # in each of three states
        assert (result.candidates[0].perceptual == 0) == (count == 0)
    hook.remove()


def test_every_solver_is_one_that_a_method_may_name():
    assert {method.solver for method in [*METHODS.values(), *COMPOSED.values()]} == set(SOLVERS)
