"""The laws of completion on networks whose answers differ, where a law that fails would show."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pixmend.api import Model
from pixmend.completion import (
    METHODS,
    CompletionOptions,
    Task,
    complete,
    complete_batch,
    find_method,
)
from pixmend.completion.latent import best_of_pool
from pixmend.completion.objective import Objective, yeh_prior
from pixmend.completion.pipeline import _blend_in, _distinct, _missing, _view
from pixmend.images import Picture, open_image, to_pixels
from pixmend.masks import Mask, make_mask
from pixmend.models import DCGAN, Discriminator, Generator, clip_radius, sample_latents
from pixmend.rng import generator_for

# Those that need no inpainter; tests/completion/test_inpainted.py has the laws of the others.
SEARCHES = {name: method for name, method in METHODS.items() if method.inpainter != "always"}
QUICK = {
    name: replace(
        method,
        steps=8,
        init_pool=min(method.init_pool, 64),
        restarts=min(method.restarts, 4),
        finetune=min(method.finetune, 2),
    )
    for name, method in SEARCHES.items()
}
SPECS = ("center", "half:top", "random:0.5", "grid", "lowres", "strokes", "half:right")
SHAPES = ((16, 16), (37, 31), (20, 50), (64, 64), (9, 12), (32, 32), (16, 24))


def noise(seed, height=16, width=16, bands=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)


def many():
    """Seven jobs, no two alike in size and mask."""
    return [
        Task(open_image(noise(number, *shape)), make_mask(spec, *shape), str(number))
        for number, (shape, spec) in enumerate(zip(SHAPES, SPECS, strict=True))
    ]


def facts(result):
    """All that a completion found, as something to compare bit by bit."""
    return [
        (answer.picture.native.tobytes(), answer.z.tobytes(), answer.loss, answer.perceptual)
        for answer in result.candidates
    ] + [(step, image.tobytes()) for step, image in result.snapshots.items()]


def drawn(model, count=1, seed=0):
    """Images that the model can draw exactly, uint8 [count, S, S, C]."""
    z = sample_latents(model.settings, count, generator_for(seed, "drawn")).clamp(-0.9, 0.9)
    return to_pixels(model.generator(z))


# An image's answer is its own


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(("candidates", "size", "latent_dim"), [(1, 64, 100), (3, 16, 13)])
def test_batches_of_any_size_give_what_each_image_gets_alone(
    lively, name, candidates, size, latent_dim
):
    model, jobs = lively(size=size, latent_dim=latent_dim), many()[: 7 if size == 16 else 4]
    options = CompletionOptions(QUICK[name], candidates, (0, 5, 8), seed=3)
    together = [facts(result) for result in complete_batch(model, jobs, options)]
    for batch in (1, 3):
        apart = complete(model, jobs, replace(options, batch=batch))
        assert [facts(result) for result in apart] == together


@pytest.mark.parametrize("name", SEARCHES)
def test_permuting_lively_inputs_permutes_outputs(lively, name):
    model, jobs, order = lively(), many(), [3, 0, 6, 1, 5, 2, 4]
    options = CompletionOptions(QUICK[name], 2)
    straight = complete_batch(model, jobs, options)
    permuted = complete_batch(model, [jobs[index] for index in order], options)
    assert [facts(result) for result in permuted] == [facts(straight[index]) for index in order]
    assert len({tuple(facts(result)) for result in straight}) == len(jobs)


def test_the_prior_of_a_logit_does_not_depend_on_where_it_stands():
    logits = torch.linspace(-30, 30, 331)
    for length in (1, 3, 8, 31, 33, 64):
        rows = logits[:length].clone().requires_grad_()
        found = yeh_prior(rows)
        (slopes,) = torch.autograd.grad(found.sum(), rows)
        for index in range(length):
            one = logits[index : index + 1].clone().requires_grad_()
            assert torch.equal(yeh_prior(one)[0], found[index])
            assert torch.equal(torch.autograd.grad(yeh_prior(one), one)[0][0], slopes[index])


def test_seeds_repeat_and_other_seeds_give_other_pixels(lively):
    for name in SEARCHES:
        first, again, other = (
            facts(
                complete_batch(lively(), many()[:2], CompletionOptions(QUICK[name], seed=seed))[0]
            )
            for seed in (1, 1, 2)
        )
        assert first == again
        assert first[0][0] != other[0][0]


# Networks as they were trained, not as they were handed over


def test_networks_handed_over_in_training_mode_complete_all_the_same(lively):
    ours = lively()
    states = [network.state_dict() for network in (ours.generator, ours.discriminator)]
    theirs = DCGAN(ours.settings, Generator(ours.settings), Discriminator(ours.settings), ours.card)
    for network, state in zip((theirs.generator, theirs.discriminator), states, strict=True):
        network.load_state_dict(state)
        network.train()
    before = {name: value.clone() for name, value in theirs.discriminator.state_dict().items()}
    image = noise(0)
    expected = Model(ours, "cpu").complete(image, "center", steps=3)
    assert np.array_equal(
        Model(theirs, "cpu").complete(image, "center", steps=3).best, expected.best
    )
    after = theirs.discriminator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.grad is None for weight in theirs.generator.parameters())


def test_completion_changes_no_buffer_of_either_network(lively):
    model = lively()
    networks = (model.generator, model.discriminator)
    before = [{k: v.clone() for k, v in network.state_dict().items()} for network in networks]
    complete_batch(model, many(), CompletionOptions(QUICK["default"], 3))
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


# The search does what it says


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_finds_an_image_that_the_model_can_draw(lively, name):
    model = lively(latent_dim=2)
    image = drawn(model)[0]
    method = replace(
        find_method(name, steps=300), init_pool=min(METHODS[name].init_pool, 64), restarts=4
    )
    mask = make_mask("half:top", 16, 16)
    (result,) = complete_batch(model, [Task(open_image(image), mask)], CompletionOptions(method))
    error = np.abs(np.asarray(result.best).astype(int) - image)[mask.hole].mean()
    assert error < 12
    assert result.candidates[0].loss < 0.5 * result.history[0]


@pytest.mark.parametrize("name", SEARCHES)
def test_the_loss_reported_is_the_objective_at_the_z_reported(lively, name):
    model = lively()
    mask = make_mask("center", 16, 16)
    image = open_image(noise(0))
    (result,) = complete_batch(model, [Task(image, mask)], CompletionOptions(QUICK[name], 3))
    target = torch.from_numpy(noise(0).astype(np.float32) / 127.5 - 1).movedim(-1, 0)[None]
    known = torch.from_numpy(mask.known).float()[None, None]
    objective = QUICK[name].objective(model, target, known)
    for answer in result.candidates:
        losses = objective(torch.from_numpy(answer.z)[None])
        assert float(losses.total) == pytest.approx(answer.loss, rel=1e-5)
        assert float(losses.contextual) == pytest.approx(answer.contextual, rel=1e-5)
        assert float(losses.perceptual) == pytest.approx(answer.perceptual, rel=1e-4)
    assert result.history[-1] == pytest.approx(result.candidates[0].loss)


@pytest.mark.parametrize("name", SEARCHES)
def test_every_latent_found_is_within_the_clip(lively, name):
    model = lively(latent_dim=100)
    method = replace(QUICK[name], steps=1, learning_rate=1e-9, scheduled=False)
    bound = method.latent_clip or clip_radius(model.settings)
    (result,) = complete_batch(model, many()[:1], CompletionOptions(method, 32))
    assert max(np.abs(answer.z).max() for answer in result.candidates) <= bound


def test_without_a_schedule_more_steps_go_on_where_fewer_stopped(lively):
    for name in ("classic", "yeh"):
        shorter, longer = (
            complete_batch(
                lively(), many()[:1], CompletionOptions(replace(QUICK[name], steps=steps))
            )[0]
            for steps in (5, 12)
        )
        assert np.array_equal(longer.history[:6], shorter.history)
        assert longer.candidates[0].loss <= shorter.candidates[0].loss


def test_a_bank_of_starts_is_drawn_in_parts_and_its_best_come_first(lively):
    model, largest = lively(), 0

    def watch(_, inputs):
        nonlocal largest
        largest = max(largest, len(inputs[0]))

    target = torch.rand(3, 3, 16, 16, generator=generator_for(0, "target")) * 2 - 1
    known = torch.ones(3, 1, 16, 16)
    known[..., 4:12, 4:12] = 0
    objective = METHODS["default"].objective(model, target, known)
    hook = model.generator.register_forward_pre_hook(watch)
    starts = best_of_pool(objective, model.settings, 4, size=1000, seed=5)
    hook.remove()
    assert largest <= 64
    bank = sample_latents(model.settings, 1000, generator_for(5, "bank")).clamp(-3, 3)
    for image in range(3):
        one = METHODS["default"].objective(
            model, target[image].expand(1000, -1, -1, -1), known[image].expand(1000, -1, -1, -1)
        )
        order = torch.argsort(one(bank).total)[:4]
        assert torch.allclose(starts[image], bank[order])


def test_the_gradient_of_the_whole_objective_is_right(lively):
    model = lively(size=16, latent_dim=4)
    copies = []
    for network in (model.generator, model.discriminator):
        copy = type(network)(model.settings).double()
        copy.load_state_dict({name: value.double() for name, value in network.state_dict().items()})
        copies.append(copy.eval().requires_grad_(False))
    target = torch.rand(2, 3, 16, 16, dtype=torch.float64, generator=generator_for(0, "t")) * 2 - 1
    known = torch.ones(2, 1, 16, 16, dtype=torch.float64)
    known[..., :7] = 0
    z = sample_latents(model.settings, 2, generator_for(0, "z")).double().requires_grad_()
    for method in SEARCHES.values():
        objective: Objective = method.objective(DCGAN(model.settings, *copies), target, known)
        assert torch.autograd.gradcheck(lambda z, of=objective: of(z).total, z)


# Large images and small ones


@pytest.mark.parametrize("name", SEARCHES)
def test_a_mask_finer_than_the_model_still_ties_the_answer_to_the_known_pixels(lively, name):
    model = lively(latent_dim=2)
    images = drawn(model, 2, seed=4).repeat(4, axis=1).repeat(4, axis=2)
    masks = [make_mask(spec, 64, 64) for spec in ("random:0.5", "lowres:2", "strokes:0.1")]
    method = replace(
        find_method(name, steps=60), init_pool=min(METHODS[name].init_pool, 64), restarts=4
    )
    jobs = [Task(open_image(image), mask) for mask in masks for image in images]
    results = complete_batch(model, jobs, CompletionOptions(method, 1, (60,)))
    for number, result in enumerate(results):
        assert result.candidates[0].contextual > 0
        found = result.snapshots[60].astype(int)
        own, other = images[number % 2], images[1 - number % 2]
        own, other = (np.abs(found - image[::4, ::4]).mean() for image in (own, other))
        assert own < other


def test_candidates_are_told_apart_where_no_model_pixel_is_wholly_missing(lively):
    # Each pixel of the model covers a known pixel of the image, so no pixel of the model is a hole.
    answers = torch.zeros(4, 3, 16, 16)
    answers[2] = 0.5
    answers[3] = -0.5
    mask = make_mask("lowres:2", 64, 64)
    view = _view(lively(), Task(open_image(noise(0, 64, 64)), mask))
    assert _distinct(answers, _missing(view), 3) == [0, 2, 3]


def test_distinct_answers_come_first_in_order_of_their_losses(lively):
    model = lively(latent_dim=2)
    (result,) = complete_batch(model, many()[:1], CompletionOptions(QUICK["yeh"], 4))
    losses = [answer.loss for answer in result.candidates]
    assert losses == sorted(losses)
    hole = result.mask.hole
    for number, answer in enumerate(result.candidates):
        for other in result.candidates[:number]:
            gap = (answer.picture.native.astype(float) - other.picture.native)[hole]
            assert np.sqrt(np.square(gap).mean()) > 4


def test_an_image_of_the_models_size_is_seen_and_put_back_as_it_is(lively):
    model = lively()
    image, mask = noise(0), make_mask("center", 16, 16)
    method = replace(QUICK["yeh"], blend="paste")
    (result,) = complete_batch(model, [Task(open_image(image), mask)], CompletionOptions(method))
    exact = to_pixels(model.generator(torch.from_numpy(result.candidates[0].z)[None]))[0]
    assert np.array_equal(result.candidates[0].picture.native[mask.hole], exact[mask.hole])


@pytest.mark.parametrize("blend", ["paste", "poisson"])
def test_turning_the_mask_inside_an_image_larger_than_the_model_changes_only_its_hole(
    lively, blend
):
    method = replace(QUICK["default"], blend=blend)
    tasks = [
        Task(open_image(noise(1, *shape)), make_mask(spec, *shape))
        for shape in ((50, 21), (21, 50), (200, 30))
        for spec in ("half:left", "half:bottom", "center:0.2", "random:0.9")
    ]
    results = complete_batch(lively(), tasks, CompletionOptions(method))
    for task, result in zip(tasks, results, strict=True):
        before, after = task.picture.native, result.candidates[0].picture.native
        assert after.shape == before.shape
        assert np.array_equal(after[task.mask.known], before[task.mask.known])


# Colours nobody sees


@pytest.mark.parametrize("channels", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("blend", ["paste", "poisson"])
def test_images_that_look_alike_are_completed_alike(lively, channels, blend):
    visible = noise(0, 24, 20, 4)
    visible[:, :12, 3] = 0
    visible[:, 12:, 3] = 255
    other = visible.copy()
    other[:, :12, :3] = (255, 0, 255)
    mask = make_mask("center", 24, 20)
    method = replace(QUICK["default"], blend=blend)
    first, second = (
        complete_batch(
            lively(channels), [Task(open_image(image), mask)], CompletionOptions(method)
        )[0]
        for image in (visible, other)
    )
    answers = [result.candidates[0].picture.native for result in (first, second)]
    assert np.array_equal(answers[0][mask.hole], answers[1][mask.hole])
    assert np.array_equal(answers[0][mask.known], visible[mask.known])
    assert np.array_equal(answers[1][mask.known], other[mask.known])


def test_what_a_model_draws_clear_is_shown_on_the_background_it_was_trained_on(lively):
    model = lively("RGBA", background="black")
    clear = torch.ones(4, 16, 16)
    clear[3] = -1
    job = Task(open_image(noise(0)), make_mask("center", 16, 16))
    joined = _blend_in(model, job, _view(model, job).frame, clear, "paste", detailed=False)
    assert not joined.native[job.mask.hole].any()


@pytest.mark.parametrize(("channels", "expected"), [("L", 76), ("RGB", (255, 0, 0))])
def test_the_padding_that_a_model_sees_is_the_padding_it_was_trained_on(lively, channels, expected):
    model = lively(channels, fit="pad", background="red")
    view = _view(model, Task(open_image(noise(0, 8, 16)), make_mask("center", 8, 16)))
    assert np.all(to_pixels(view.target)[:4] == expected)
    assert np.all(view.known[0, :4].numpy() == 1)


# What comes back


def test_snapshots_are_the_best_image_by_then(lively):
    model = lively()
    job, method = many()[0], replace(QUICK["classic"], steps=9)
    (result,) = complete_batch(model, [job], CompletionOptions(method, 1, (0, 4, 9, 10)))
    assert list(result.snapshots) == [0, 4, 9]
    for step, image in result.snapshots.items():
        (stopped,) = complete_batch(
            model, [job], CompletionOptions(replace(method, steps=max(step, 1)), 1, (step,))
        )
        assert np.array_equal(stopped.snapshots[step], image)
    last = to_pixels(model.generator(torch.from_numpy(result.candidates[0].z)[None]))[0]
    assert np.array_equal(result.snapshots[9], last)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_a_sheet_has_a_column_for_each_caption(lively, mode):
    image = Image.fromarray(noise(0, 24, 20)).convert(mode)
    result = Model(lively(), "cpu").complete(
        image, "center", steps=4, snapshots=(1, 4), candidates=3
    )
    assert result.captions() == [
        "original", "masked", "after 1", "after 4", "completed", "candidate 2", "candidate 3",
    ]  # fmt: skip
    assert len(result.row()) == 7
    assert result.sheet(cell=32).size == (8 + 7 * 40, 26 + 40 + 8)
    assert isinstance(result.sheet(), Image.Image)


@pytest.mark.parametrize("shape", [(24, 20), (24, 20, 1), (24, 20, 3), (24, 20, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_array_comes_back_with_its_shape_and_type_and_is_not_written_on(lively, shape, dtype):
    if dtype == np.uint16 and len(shape) == 3 and shape[2] > 1:
        return  # colour of 16 bits is refused elsewhere
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)
    before = array.copy()
    array.setflags(write=False)
    result = Model(lively(), "cpu").complete(
        array, "center", method="classic", steps=2, candidates=2
    )
    for answer in result.images:
        assert (type(answer), answer.shape, answer.dtype) == (np.ndarray, shape, dtype)
        known = result.mask.known
        assert np.array_equal(answer[known], before[known])
    assert np.array_equal(array, before)


def test_a_palette_comes_back_in_the_colours_it_showed(lively):
    image = Image.fromarray(noise(0, 24, 20)).quantize(32)
    result = Model(lively(), "cpu").complete(image, "half:right", method="classic", steps=2)
    assert result.best.mode == "RGB"
    known = result.mask.known
    assert np.array_equal(np.asarray(result.best)[known], np.asarray(image.convert("RGB"))[known])


def test_a_mask_may_be_a_mask_a_spec_an_array_or_an_image(lively):
    model, image = Model(lively(), "cpu"), noise(0)
    hole = make_mask("half:right", 16, 16)
    given = ["half:right", hole, hole.hole, hole.to_pixels(), Image.fromarray(hole.hole)]
    answers = [model.complete(image, mask, method="classic", steps=2).best for mask in given]
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_completing_again_where_it_was_completed_leaves_the_rest_alone(lively):
    model, image = Model(lively(), "cpu"), noise(0, 37, 31)
    once = model.complete(image, "center", steps=4)
    twice = model.complete(once.best, "half:left", steps=4)
    known = make_mask("half:left", 37, 31).known
    assert np.array_equal(twice.best[known], once.best[known])


def test_a_record_is_json_and_says_what_was_done(lively):
    import json

    picture = Picture(noise(0), "RGB")
    mask = Mask(np.arange(256).reshape(16, 16) >= 64)
    (result,) = complete_batch(
        lively(), [Task(picture, mask, "a.png")], CompletionOptions(QUICK["yeh"], 2)
    )
    record = json.loads(json.dumps(result.record()))
    assert (record["file"], record["method"], record["steps"]) == ("a.png", "yeh", 8)
    assert record["missing"] == 0.25
    assert len(record["candidates"]) == 2
    assert record["loss"] == record["candidates"][0]


def test_a_sample_of_g_is_found_again_from_its_known_pixels(lively):
    # `default` has five times the steps and four starts. The bundled G, whose images are black and white, hides most of its own samples
    # in the rounding to 8 bits (docs/benchmarks.md, "Completion").
    model = lively("RGB", latent_dim=24)
    method = replace(METHODS["default"], steps=200, restarts=1)
    images = to_pixels(model.generator(sample_latents(model.settings, 64, generator_for(3, "G"))))
    specs = ("center", "half:right", "random:0.8", "grid", "strokes")
    masks = [make_mask(specs[number % 5], 16, 16, seed=number) for number in range(64)]
    jobs = [Task(open_image(image), mask) for image, mask in zip(images, masks, strict=True)]
    found = complete(model, jobs, CompletionOptions(method=method, snapshots=(), batch=64))
    errors = [
        np.square(np.asarray(each.best, float) - image)[mask.hole].mean()
        for each, image, mask in zip(found, images, masks, strict=True)
    ]
    assert np.mean(np.asarray(errors) < 255**2 / 10**3) >= 0.95  # a PSNR over 30 dB
    mean = images.mean(0)
    blind = [
        np.square(mean - image)[mask.hole].mean() for image, mask in zip(images, masks, strict=True)
    ]
    assert (
        min(blind) > 255**2 / 10**2
    )  # the mean image has under 20 dB, so there is something to find
