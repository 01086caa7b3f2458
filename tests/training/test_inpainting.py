"""Training the inpainter: what moves, what the masks are, and what it is shown."""

from functools import partial

import numpy as np
import pytest
import torch

from pixmend.models import INPAINTER_LATENT, NEIGHBOURS, Retrieval, load_model
from pixmend.models.alignment import Axis
from pixmend.rng import generator_for
from pixmend.training import train
from pixmend.training.draws import hole_discriminator_losses
from pixmend.training.losses import draw_loss, estimate_loss, variance_loss
from pixmend.training.masking import MaskSampler, choose_retrieval, sample_masks
from pixmend.training.step import (
    discriminator_step,
    generator_step,
    hole_discriminator_step,
    inpainter_step,
)
from pixmend.training.train_state import initial_state
from tests.training.conftest import INPAINTER

CPU = torch.device("cpu")


def weights(module):
    return [weight.detach().clone() for weight in module.parameters()]


def same(before, module):
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def sampler_of(settings, groups=None):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1), np.uint8)
    bank, members = choose_retrieval(settings, 12, pixels.__getitem__, CPU)
    groups = np.repeat(np.arange(6), 2) if groups is None else groups
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    return MaskSampler(settings, groups, bank, members), images, members


@pytest.mark.parametrize("retrieval_images", [0, 12])
def test_each_players_step_moves_its_own_network_alone(tiny, retrieval_images):
    settings = tiny(**{**INPAINTER, "retrieval_images": retrieval_images})
    state = initial_state(settings, CPU)
    sampler, images, _ = sampler_of(settings)
    batch = sampler.mask(images[:8], np.arange(8), 0, 1)
    z = torch.randn(8, settings.latent_dim, generator=generator_for(0, "z"))
    inpainter = state.inpainter
    networks = {"g": state.generator, "d": state.discriminator, "hole": state.hole_discriminator}
    networks |= {"estimator": inpainter.estimator, "drawer": inpainter.drawer}
    networks |= {"down": inpainter.downs}

    def moved(step):
        before = {name: weights(network) for name, network in networks.items()}
        step()
        return {name for name, network in networks.items() if not same(before[name], network)}

    fakes = state.generator(z)
    real = torch.zeros(8, 1, 16, 16)
    assert moved(lambda: discriminator_step(state, real, fakes, settings)) == {"d"}
    assert moved(lambda: generator_step(state, fakes, real, settings)) == {"g"}
    average = weights(state.ema_inpainter)
    step = partial(inpainter_step, state, batch, settings)
    assert moved(partial(step, draws=False)) == {"down", "estimator", "drawer"}
    assert same(weights(inpainter.estimator.head), inpainter.drawer.head), "draws begin there"
    assert moved(partial(step, draws=True)) == {"down", "estimator", "drawer"}
    _, draws = step(draws=True)
    step = partial(hole_discriminator_step, state, batch, draws, settings)
    assert moved(step) == {"hole"}
    assert not same(average, state.ema_inpainter), "the average follows"


def test_draws_do_not_change_the_estimate(tiny):
    settings = tiny(**INPAINTER)
    sampler, images, _ = sampler_of(settings)
    batch, estimators = sampler.mask(images[:8], np.arange(8), 0, 1), []
    for draws in (False, True):
        state = initial_state(settings, CPU)
        inpainter_step(state, batch, settings, draws=draws)
        estimators.append([*weights(state.inpainter.estimator), *weights(state.inpainter.downs)])
    assert all(torch.equal(a, b) for a, b in zip(*estimators, strict=True))


def test_the_discriminator_of_draws_learns_to_tell_them_by_the_mask_too(tiny):
    settings = tiny(**INPAINTER)
    state = initial_state(settings, CPU)
    sampler, images, _ = sampler_of(settings)
    batch = sampler.mask(images[:8], np.arange(8), 0, 1)
    known = batch.evidence.known
    draws = torch.lerp(torch.zeros_like(batch.images), batch.images, known)
    losses = []
    for state.step in range(60):
        losses.append(float(hole_discriminator_step(state, batch, draws, settings).mean()))
    assert losses[-1] < 0.5 < losses[0]
    with torch.no_grad():
        logits = [state.hole_discriminator(draws, each) for each in (known, 1 - known)]
    assert not torch.allclose(*logits, atol=1e-3)


def test_draws_are_judged_with_known_pixels_pasted_and_gradients_penalised(tiny):
    settings = tiny(**INPAINTER)
    state = initial_state(settings, CPU)
    sampler, images, _ = sampler_of(settings)
    batch = sampler.mask(images[:8], np.arange(8), 0, 1)
    known = batch.evidence.known
    _, draws = inpainter_step(state, batch, settings, draws=True)
    assert torch.equal(draws * known, batch.images * known)
    for step in (7, 8):
        losses, total = hole_discriminator_losses(state.hole_discriminator, batch, draws, step)
        assert (total > losses.mean()) == (step == 8), "every eighth step"


def test_it_learns_to_complete_what_it_is_shown(tiny):
    settings = tiny(**INPAINTER)
    state = initial_state(settings, CPU)
    sampler, images, _ = sampler_of(settings)
    batch = sampler.mask(images[:8], np.arange(8), 0, 1)
    losses = [
        float(inpainter_step(state, batch, settings, draws=False)[0].mean()) for _ in range(150)
    ]
    assert losses[-1] < losses[0] - 0.2


@pytest.mark.parametrize("loss", [draw_loss, estimate_loss])
def test_the_loss_of_an_inpainted_image_is_its_definition(loss):
    generator = generator_for(0, "loss")
    images, target = torch.rand(2, 4, 3, 8, 8, generator=generator) * 2 - 1
    known = (torch.rand(4, 1, 8, 8, generator=generator) < 0.5).float()
    losses = loss(images, target, known)
    for row in range(4):
        gaps = (images - target)[row][:, known[row, 0] == 0]
        squared = gaps.square().mean()
        first = 0.5 * gaps.abs().mean() if loss is draw_loss else squared
        expected = first + 0.1 * torch.log(squared + 1e-3)
        torch.testing.assert_close(losses[row], expected)
    changed = torch.where(known > 0, -images, images)
    assert torch.equal(loss(changed, target, known), losses), "known pixels do not count"


def test_the_variance_is_learned_from_the_error_and_does_not_pull_the_image():
    target, known = torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    images = torch.full((1, 3, 8, 8), 0.5).requires_grad_()
    log_variance = torch.zeros(1, 1, 8, 8).requires_grad_()
    for _ in range(200):
        loss = variance_loss(log_variance, images, target, known)
        (gradient,) = torch.autograd.grad(loss.sum(), log_variance, retain_graph=True)
        log_variance.data -= 10 * gradient
    torch.testing.assert_close(log_variance.exp(), torch.full_like(log_variance, 0.25))
    loss = variance_loss(log_variance, images, target, known).sum()
    assert torch.autograd.grad(loss, images, allow_unused=True) == (None,)


def test_of_several_draws_the_best_is_trained(tiny):
    """Its modulation gets the gradient that it would get as the only draw."""
    settings = tiny(**INPAINTER)
    sampler, images, _ = sampler_of(settings)
    batch = sampler.mask(images[:1], np.arange(1), 0, 1)
    state, gradients, losses = initial_state(settings, CPU), [], []
    with torch.no_grad():
        head = state.inpainter.drawer.head
        head.weight.normal_(0, 0.3, generator=generator_for(0, "head"))
    start = {name: value.clone() for name, value in state.inpainter.state_dict().items()}
    for latents in (batch.latents, batch.latents[:1], batch.latents[1:]):
        state.inpainter.load_state_dict(start)
        one = type(batch)(batch.images, batch.evidence, latents)
        evidence = batch.evidence
        with torch.no_grad():
            begun = state.inpainter.drawer.begin(state.inpainter.encode(evidence))
            drawn = state.inpainter.draw(begun, latents[0], evidence)
            losses.append(float(draw_loss(drawn, batch.images, evidence.known)))
        inpainter_step(state, one, settings, draws=True)
        gradients.append(head.weight.grad.clone())
    best = 1 if losses[1] < losses[2] else 2
    torch.testing.assert_close(gradients[0], gradients[best], rtol=1e-4, atol=1e-7)
    assert not torch.allclose(gradients[0], gradients[3 - best], rtol=1e-2)


def test_draws_are_trained_in_the_second_half_of_a_run(records, tiny, tmp_path, monkeypatch):
    seen = []

    def step(*arguments, draws):
        seen.append(draws)
        return inpainter_step(*arguments, draws=draws)

    monkeypatch.setattr("pixmend.training.step.inpainter_step", step)
    settings = tiny(**INPAINTER)
    list(train(records, tmp_path / "run", settings))
    half = settings.steps // 2
    assert seen == [False] * half + [True] * (settings.steps - half)


def test_masks_of_all_kinds_leave_something_known_and_something_missing():
    for size in (16, 32, 64, 96):
        known = sample_masks(200, size, generator_for(1, "masks"))
        assert known.shape == (200, 1, size, size)
        assert set(known.unique().tolist()) == {0.0, 1.0}
        missing = 1 - known.flatten(1).mean(1)
        assert (missing > 0).all()
        assert (missing < 1).all()
        for kind, least, most in (
            (0, 0.25, 0.25),
            (1, 0.01, 0.97),
            (2, 0.02, 0.7),
            (3, 0.5, 0.5),
            (4, 0.08, 0.52),
        ):
            shares = missing[kind::5]
            assert least <= shares.min() + 1e-6
            assert shares.max() <= most + 1e-6
        quarter = size // 4
        assert (known[0, 0, quarter:-quarter, quarter:-quarter] == 0).all()
        assert known[0].sum() == size**2 * 3 / 4
        halves = known[3::5, 0]
        corners = {(float(h[0, 0]), float(h[-1, -1]), float(h[0, -1])) for h in halves}
        assert corners == {(0, 1, 0), (1, 0, 1), (0, 1, 1), (1, 0, 0)}, (
            "halves of rows and of columns, both sides"
        )


def test_an_image_sees_its_own_group_rarely_and_others_always(tiny, monkeypatch):
    settings = tiny(**INPAINTER)
    sampler, images, _ = sampler_of(settings)
    groups = sampler.groups

    def own_groups(step):
        evidence = sampler.mask(images, np.arange(12), 0, step).evidence
        gaps = (evidence.neighbours[:, 0][:, None] - images[None]).abs().flatten(2).sum(2)
        assert (gaps.amin(1) == 0).all()
        return groups[gaps.argmin(1).numpy()] == groups

    axis = Axis(torch.arange(16.0)[None].double(), torch.arange(16)[None], torch.zeros(1))
    monkeypatch.setattr(Axis, "of", lambda _: axis)  # neighbours stay as they are
    monkeypatch.setattr("pixmend.training.masking._OWN_SHARE", 0.0)
    assert not any(own_groups(step).any() for step in range(8))
    monkeypatch.setattr("pixmend.training.masking._OWN_SHARE", 1.0)
    assert own_groups(0).all(), "each image is its own nearest"


def test_retrieval_images_are_a_part_of_the_training_images_and_the_same_each_time(tiny):
    settings = tiny(**{**INPAINTER, "retrieval_images": 5})
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1), np.uint8)
    bank, members = choose_retrieval(settings, 12, pixels.__getitem__, CPU)
    again, _ = choose_retrieval(settings, 12, pixels.__getitem__, CPU)
    assert len(bank) == len(set(members.tolist())) == 5
    assert torch.equal(bank.images, again.images)
    assert np.array_equal(bank.images[:, 0].numpy(), pixels[members, ..., 0])


def test_latents_and_masks_are_functions_of_the_key(tiny):
    settings = tiny(**INPAINTER)
    sampler, images, _ = sampler_of(settings)
    one, again, other = (sampler.mask(images, np.arange(12), 0, step) for step in (1, 1, 2))
    assert one.latents.shape == (2, 12, INPAINTER_LATENT)
    assert torch.equal(one.latents, again.latents)
    assert torch.equal(one.evidence.known, again.evidence.known)
    assert not torch.equal(one.latents, other.latents)
    followed = one.latents[..., :NEIGHBOURS].argmax(-1)
    assert (followed[0] != followed[1]).all(), "draws of an image follow different neighbours"
    assert not torch.equal(one.evidence.known, other.evidence.known)


def test_a_run_exports_a_model_that_completes_in_one_pass(records, tiny, tmp_path):
    list(train(records, tmp_path / "run", tiny(**INPAINTER)))
    model = load_model(tmp_path / "run")
    assert isinstance(model.retrieval, Retrieval)
    target = torch.zeros(2, 1, 16, 16)
    known = sample_masks(2, 16, generator_for(0, "known"))
    images = model.inpaint(target, known, draws=2).draws
    assert images.shape == (2, 2, 1, 16, 16)
    assert torch.isfinite(images).all()
