"""Algorithm 1: who moves when, on what, and what is averaged."""

import copy

import numpy as np
import pytest
import torch

from pixmend.models import Generator, sample_latents
from pixmend.rng import generator_for
from pixmend.training.data import Shuffle
from pixmend.training.export import recompute_batchnorm
from pixmend.training.loop import train
from pixmend.training.optimise import update_ema
from pixmend.training.step import discriminator_step, generator_step
from pixmend.training.train_state import initial_state

CPU = torch.device("cpu")


def weights(module):
    return [weight.detach().clone() for weight in module.parameters()]


def same(before, module):
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def drawn(state, z):
    return state.generator(z)


@pytest.fixture
def moved(tiny):
    settings = tiny()
    state = initial_state(settings, CPU)
    real = torch.rand(8, 1, 16, 16) * 2 - 1
    z = sample_latents(settings.networks(), 8, generator_for(0, "z"))
    return settings, state, real, z


def test_ds_step_moves_d_alone(moved):
    settings, state, real, z = moved
    g, d = weights(state.generator), weights(state.discriminator)
    loss = discriminator_step(state, real, drawn(state, z), settings)
    assert loss.shape == (8,)
    assert same(g, state.generator)
    assert not same(d, state.discriminator)


def test_gs_step_moves_g_and_its_average_alone(moved):
    settings, state, real, z = moved
    g, d, a = weights(state.generator), weights(state.discriminator), weights(state.ema)
    loss = generator_step(state, drawn(state, z), real, settings)
    assert loss.shape == (8,)
    assert not same(g, state.generator)
    assert not same(a, state.ema)
    assert same(d, state.discriminator)
    assert all(weight.requires_grad for weight in state.discriminator.parameters())


def test_a_step_of_each_player_lowers_its_own_loss(moved):
    settings, state, real, z = moved
    first = discriminator_step(state, real, drawn(state, z), settings).mean()
    for _ in range(20):
        last = discriminator_step(state, real, drawn(state, z), settings).mean()
    assert last < first
    first = generator_step(state, drawn(state, z), real, settings).mean()
    for _ in range(20):
        last = generator_step(state, drawn(state, z), real, settings).mean()
    assert last < first


def test_feature_matching_changes_gs_step(tiny):
    results = []
    for weight in (0.0, 0.05):
        settings = tiny(feature_matching=weight)
        state = initial_state(settings, CPU)
        z = sample_latents(settings.networks(), 8, generator_for(0, "z"))
        real = torch.linspace(-1, 1, 8 * 256).view(8, 1, 16, 16)
        generator_step(state, drawn(state, z), real, settings)
        results.append(weights(state.generator))
    assert not all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("k", [1, 3])
def test_k_steps_of_d_see_k_batches_for_each_step_of_g(records, tiny, tmp_path, monkeypatch, k):
    calls = []
    from pixmend.training import step as step_module

    step_d, step_g = step_module.discriminator_step, step_module.generator_step
    monkeypatch.setattr(
        step_module, "discriminator_step", lambda *a: calls.append("D") or step_d(*a)
    )
    monkeypatch.setattr(step_module, "generator_step", lambda *a: calls.append("G") or step_g(*a))
    *_, last = train(records, tmp_path / "run", tiny(n_critic=k, steps=4))
    assert calls == (["D"] * k + ["G"]) * 4
    assert last.images == 4 * k * 8


@pytest.mark.parametrize("reuse", [True, False])
def test_g_learns_from_what_d_has_just_seen_or_from_other_draws(
    records, tiny, tmp_path, monkeypatch, reuse
):
    from pixmend.training import step as step_module

    seen, learnt = [], []
    step_d, step_g = step_module.discriminator_step, step_module.generator_step
    monkeypatch.setattr(
        step_module,
        "discriminator_step",
        lambda s, r, images, *a: seen.append(images) or step_d(s, r, images, *a),
    )
    monkeypatch.setattr(
        step_module, "generator_step", lambda s, d, *a: learnt.append(d) or step_g(s, d, *a)
    )
    list(train(records, tmp_path / "run", tiny(n_critic=2, steps=2, reuse_fakes=reuse)))
    assert len(seen) == 2 * len(learnt) == 4
    assert [torch.equal(a, b) for a, b in zip(seen[1::2], learnt, strict=True)] == [reuse] * 2
    assert not torch.equal(seen[0], seen[1])


def test_every_image_is_seen_once_a_pass_in_a_new_order_each_time():
    order = Shuffle(20, seed=3)
    first, second = order.positions(0, 20), order.positions(20, 20)
    assert sorted(first) == sorted(second) == list(range(20))
    assert list(first) != list(second)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_order_is_a_function_of_position_however_it_is_asked_for(count):
    whole = Shuffle(count, seed=3).positions(0, 60)
    pieces = Shuffle(count, seed=3)
    parts = {first: pieces.positions(first, 7) for first in (49, 0, 21, 28, 7, 14, 42, 35)}
    assert np.array_equal(
        np.concatenate([parts[first] for first in sorted(parts)])[:56], whole[:56]
    )


def test_the_average_follows_the_formula(tiny):
    settings = tiny()
    state = initial_state(settings, CPU)
    moving = copy.deepcopy(state.generator)
    with torch.no_grad():
        for weight in moving.parameters():
            weight.add_(1.0)
    start = weights(state.ema)
    update_ema(state.ema, moving, decay=0.9, step=10_000)
    for before, after, target in zip(
        start, state.ema.parameters(), moving.parameters(), strict=True
    ):
        torch.testing.assert_close(after, 0.9 * before + 0.1 * target)
    update_ema(state.ema, moving, decay=0.0, step=10_000)
    assert same(weights(moving), state.ema)


def test_frozen_statistics_are_the_mean_and_variance_over_the_prior(tiny):
    settings = tiny().networks()
    generator = Generator(settings)
    before = copy.deepcopy(generator.state_dict())
    frozen = recompute_batchnorm(generator, settings, seed=5, batches=4, batch_size=16)
    batches = [sample_latents(settings, 16, generator_for(5, "statistics", n)) for n in range(4)]
    maps = [generator.project(z).unflatten(1, (-1, 4, 4)) for z in batches]
    mean = torch.stack([each.mean((0, 2, 3)) for each in maps]).mean(0)
    variance = torch.stack([each.var((0, 2, 3)) for each in maps]).mean(0)
    torch.testing.assert_close(frozen.project_norm.running_mean, mean)
    torch.testing.assert_close(frozen.project_norm.running_var, variance)
    assert not frozen.training
    assert all(torch.equal(before[name], value) for name, value in generator.state_dict().items())
