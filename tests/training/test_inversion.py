"""Inversion-aware training: what moves, what the masks are, and that prior samples stay prior samples."""

import copy
import json

import numpy as np
import pytest
import torch

from pixmend.models import Retrieval, infer, kl_to_prior, load_model, sample_latents
from pixmend.models.encoder import Encoding, PixelPosterior
from pixmend.rng import generator_for
from pixmend.training import train
from pixmend.training.ema import recompute_batchnorm_pair
from pixmend.training.losses import completion_loss, nonsaturating, pixel_posterior_loss
from pixmend.training.masking import (
    Generated,
    MaskedBatch,
    MaskSampler,
    choose_retrieval,
    generate,
    sample_masks,
)
from pixmend.training.step import discriminator_step, generator_step
from pixmend.training.train_state import initial_state
from tests.training.test_run import assert_same_end

CPU = torch.device("cpu")
CONDITIONAL = {"encoder": "conditional", "retrieval_images": 12, "latent_prior": "normal"}


def weights(module):
    return [weight.detach().clone() for weight in module.parameters()]


def same(before, module):
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def some_masked(settings, count=4):
    generator = generator_for(0, "some")
    images = torch.rand(count, 1, 16, 16, generator=generator) * 2 - 1
    neighbour = -images if settings.retrieval_images else None
    noise = torch.randn(count, settings.latent_dim, generator=generator)
    return MaskedBatch(images, sample_masks(count, 16, generator), neighbour, noise)


@pytest.mark.parametrize("retrieval_images", [0, 12])
def test_gs_step_moves_g_and_e_and_ds_step_neither(tiny, retrieval_images):
    settings = tiny(**{**CONDITIONAL, "retrieval_images": retrieval_images})
    state, masked = initial_state(settings, CPU), some_masked(settings)
    z = torch.randn(4, 6, generator=generator_for(0, "z"))
    g, e, d = weights(state.generator), weights(state.encoder), weights(state.discriminator)
    drawn = generate(state.generator, state.encoder, masked, z)
    discriminator_step(state, torch.zeros(8, 1, 16, 16), drawn.images, settings)
    assert same(g, state.generator)
    assert same(e, state.encoder)
    assert not same(d, state.discriminator)
    d = weights(state.discriminator)
    losses = generator_step(state, drawn, torch.zeros(8, 1, 16, 16), settings)
    assert losses.shape == (4,), "of the prior samples alone"
    assert not same(g, state.generator)
    assert not same(e, state.encoder)
    assert same(d, state.discriminator)
    assert not same(e, state.ema_encoder), "the average follows"


def test_e_and_g_learn_to_give_back_what_they_were_shown(tiny):
    settings = tiny(reconstruction_weight=1000.0, completion_weight=0.0, **CONDITIONAL)
    state, masked = initial_state(settings, CPU), some_masked(settings)
    z = torch.randn(4, 6, generator=generator_for(0, "z"))

    def error():
        images = generate(state.generator, state.encoder, masked, z).images
        return float((images[:4] - masked.images).detach().abs().mean())

    before = error()
    for _ in range(150):
        drawn = generate(state.generator, state.encoder, masked, z)
        generator_step(state, drawn, masked.images, settings)
    assert error() < 0.6 * before


def test_the_estimate_learns_the_mean_of_what_fits_and_its_variance(tiny):
    """Two images that differ in the hole alone: the mean is between them, the variance their distance to it."""
    settings = tiny(reconstruction_weight=0.0, completion_weight=0.0, kl_weight=0.0, **CONDITIONAL)
    state, masked = initial_state(settings, CPU), some_masked(settings)
    known = torch.ones(4, 1, 16, 16)
    known[..., :8] = 0
    images = masked.images[:1].repeat(4, 1, 1, 1)
    images[::2, :, :, :8], images[1::2, :, :, :8] = 0.5, -0.5
    masked = MaskedBatch(images, known, torch.zeros_like(images), masked.noise)
    z = torch.randn(4, 6, generator=generator_for(0, "z"))
    for _ in range(300):
        drawn = generate(state.generator, state.encoder, masked, z)
        generator_step(state, drawn, images, settings)
    estimate = drawn.encoding.pixel_posterior
    assert estimate.mean[..., :8].abs().mean() < 0.1
    assert (estimate.mean - images)[..., 8:].abs().mean() < 0.2
    torch.testing.assert_close(
        estimate.log_variance[..., :8].exp().mean(), torch.tensor(0.25), rtol=0.3, atol=0
    )


def test_the_variance_does_not_pull_the_mean(tiny):
    settings, estimates = tiny(**CONDITIONAL), []
    images = some_masked(settings).images
    for log_variance in (-3.0, 3.0):
        mean = torch.zeros_like(images).requires_grad_()
        estimate = PixelPosterior(mean, torch.full((4, 1, 16, 16), log_variance))
        pixel_posterior_loss(estimate, images, torch.ones(4, 1, 16, 16)).sum().backward()
        estimates.append(mean.grad)
    assert torch.equal(*estimates)


def test_the_loss_of_completions_is_its_definition(tiny):
    losses = {"reconstruction_weight": 2.0, "estimate_weight": 3.0, "kl_weight": 0.5}
    settings = tiny(**CONDITIONAL, **losses)
    masked = some_masked(settings)
    images = -masked.images
    mean, log_variance = torch.randn(2, 4, 6, generator=generator_for(0, "posterior"))
    estimate = PixelPosterior(masked.images / 2, torch.full((4, 1, 16, 16), -1.5))
    encoding = Encoding(mean, log_variance, None, estimate)
    kl = kl_to_prior(encoding)
    drawn = Generated(torch.cat([images, images]), masked, encoding)
    settings = settings.model_copy(update={"free_nats": float(kl[0])})
    found = completion_loss(drawn, settings)
    for row in range(4):
        weight = np.where(masked.known[row].numpy() > 0, 0.25, 1.0)
        gap = np.abs((images - masked.images)[row].numpy())
        squared = (masked.images[row].numpy() / 2) ** 2
        likelihood = -1.5 + squared * np.exp(1.5)
        expected = 2 * (weight * gap).sum() / weight.sum() + 0.5 * max(0, float(kl[row] - kl[0]))
        expected += 3 * (weight * (squared + 0.01 * likelihood)).sum() / weight.sum()
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)


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


def test_an_image_is_never_shown_its_own_family(tiny):
    settings = tiny(**CONDITIONAL)
    families = np.repeat(np.arange(6), 2)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1), np.uint8)
    memory, members = choose_retrieval(settings, 12, pixels.__getitem__, CPU)
    assert members.tolist() == list(range(12))
    sampler = MaskSampler(settings, families, memory, members)
    everything = memory.take(torch.arange(12))
    for step in range(8):
        masked = sampler.mask(everything, np.arange(12), 0, step)
        gaps = (masked.neighbour[:, None] - everything[None]).abs().flatten(2).sum(2)
        shown = families[gaps.argmin(1).numpy()]
        assert (gaps.amin(1) == 0).all()
        assert (shown != families).all()


def test_a_memory_is_a_part_of_the_training_images_and_the_same_each_time(tiny):
    settings = tiny(**{**CONDITIONAL, "retrieval_images": 5})
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1), np.uint8)
    memory, members = choose_retrieval(settings, 12, pixels.__getitem__, CPU)
    again, _ = choose_retrieval(settings, 12, pixels.__getitem__, CPU)
    assert len(memory) == len(set(members.tolist())) == 5
    assert torch.equal(memory.images, again.images)
    assert np.array_equal(memory.images[:, 0].numpy(), pixels[members, ..., 0])


def test_frozen_statistics_of_the_pair_are_those_of_the_mixture(tiny):
    settings = tiny(**CONDITIONAL)
    state, masked = initial_state(settings, CPU), some_masked(settings)
    z = sample_latents(settings.networks(), 4, generator_for(0, "z"))
    generator, encoder = recompute_batchnorm_pair(state.generator, state.encoder, [(masked, z)])
    assert not generator.training
    assert not encoder.training
    encoding = state.encoder(masked.images, masked.known, masked.neighbour)
    maps = state.generator.project(torch.cat([encoding.draw(masked.noise), z])).unflatten(
        1, (-1, 4, 4)
    )
    torch.testing.assert_close(generator.project_norm.running_mean, maps.mean((0, 2, 3)).detach())
    inputs = torch.cat([masked.images * masked.known, masked.known * 2 - 1, masked.neighbour], 1)
    first = state.encoder.downs[0][0](inputs)
    torch.testing.assert_close(encoder.downs[0][1].running_mean, first.mean((0, 2, 3)).detach())


@pytest.mark.parametrize(
    "changes",
    [
        CONDITIONAL,
        {**CONDITIONAL, "retrieval_images": 0},
        {**CONDITIONAL, "hole_init": "harmonic"},
    ],
)
def test_k_steps_and_a_resume_are_n_steps_with_an_encoder_too(records, tiny, tmp_path, changes):
    list(train(records, tmp_path / "whole", tiny(**changes)))
    done = []
    for now in train(
        records, tmp_path / "cut", tiny(**changes), should_stop=lambda: len(done) == 4
    ):
        done.append(now)  # noqa: PERF402 - should_stop reads it as it grows
    list(train(records, tmp_path / "cut", tiny(**changes)))
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_a_run_exports_a_model_that_completes_in_one_pass(records, tiny, tmp_path):
    list(train(records, tmp_path / "run", tiny(**CONDITIONAL)))
    model = load_model(tmp_path / "run")
    assert isinstance(model.retrieval, Retrieval)
    target = torch.zeros(2, 1, 16, 16)
    known = sample_masks(2, 16, generator_for(0, "known"))
    completed = infer(model, target, known)
    assert completed.shape == (2, 1, 16, 16)
    assert torch.isfinite(completed).all()


def test_an_image_with_no_other_family_to_look_at_is_shown_nothing(tiny):
    settings = tiny(**CONDITIONAL)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 1), np.uint8)
    memory, members = choose_retrieval(settings, 12, pixels.__getitem__, CPU)
    sampler = MaskSampler(settings, np.zeros(12, np.int64), memory, members)
    masked = sampler.mask(memory.take(torch.arange(12)), np.arange(12), 0, 1)
    assert (masked.neighbour == 0).all()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_whatever_the_share_of_completions_there_are_some_and_prior_samples_too(
    records, tiny, tmp_path, share
):
    settings = tiny(batch_size=2, completion_share=share, steps=2, **CONDITIONAL)
    *_, last = train(records, tmp_path / "run", settings)
    assert last.event == "done"
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["skipped"] == 0


def test_prior_samples_and_completions_have_the_weights_that_the_settings_give(tiny):
    weightless = {"reconstruction_weight": 0.0, "estimate_weight": 0.0, "kl_weight": 0.0}
    settings = tiny(completion_weight=0.25, **weightless, **CONDITIONAL)
    state, masked = initial_state(settings, CPU), some_masked(settings)
    z = torch.randn(4, 6, generator=generator_for(0, "z"))
    twin = copy.deepcopy(state)
    drawn = generate(state.generator, state.encoder, masked, z)
    generator_step(state, drawn, masked.images, settings)
    images = generate(twin.generator, twin.encoder, masked, z).images
    losses = nonsaturating(twin.discriminator(images))
    (losses[4:].mean() + 0.25 * losses[:4].mean()).backward()
    for ours, theirs in zip(state.generator.parameters(), twin.generator.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
