"""R1 against gradients known in closed form, spectral norm against singular values, schedules at their corners."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from pixmend.models import Discriminator, initialise
from pixmend.rng import generator_for
from pixmend.training.loop import train
from pixmend.training.losses import gradient_penalty
from pixmend.training.optimise import lr_factor, set_learning_rates
from pixmend.training.spectral import iterate_powers, normalise_spectrally, plain_discriminator
from pixmend.training.step import discriminator_step
from pixmend.training.train_state import initial_state
from tests.training.conftest import ALL_OPTIONS

CPU = torch.device("cpu")


@pytest.fixture
def discriminator(tiny):
    made = Discriminator(tiny(channels="RGB").networks())
    initialise(made, generator_for(0, "discriminator"))
    return made


def test_the_penalty_of_a_linear_d_is_the_square_of_its_weights():
    weight = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    images = torch.randn(6, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty((images * weight).sum((1, 2, 3)) + 7, images)
    torch.testing.assert_close(penalty, weight.square().sum().expand(6))
    (gradient,) = torch.autograd.grad(penalty.mean(), weight)
    torch.testing.assert_close(gradient, 2 * weight)


def test_the_penalty_of_a_quadratic_d_is_each_images_own():
    images = torch.randn(6, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty(images.square().sum((1, 2, 3)) / 2, images)
    torch.testing.assert_close(penalty, images.square().sum((1, 2, 3)))


def penalised_steps(tiny, **changes):
    """Return at which of nine steps R1 changed D's weights from those of the same step without it."""
    settings = tiny(r1_gamma=1e3, **changes)
    without = settings.model_copy(update={"r1_gamma": 0.0})
    real = torch.rand(8, 1, 16, 16) * 2 - 1
    z = torch.randn(8, 6)
    found = []
    for step in range(9):
        ends = []
        for held in (settings, without):
            state = initial_state(held, CPU)
            state.images = step * 8
            discriminator_step(state, real, state.generator(z), held)
            ends.append(torch.cat([w.detach().flatten() for w in state.discriminator.parameters()]))
        if not torch.equal(*ends):
            found.append(step)
    return found


def test_r1_comes_every_so_many_steps(tiny):
    assert penalised_steps(tiny, r1_every=4) == [0, 4, 8]
    assert penalised_steps(tiny, r1_every=1) == list(range(9))


def test_r1_is_half_of_gamma_times_its_lazy_interval(tiny):
    settings = tiny(r1_gamma=2.0, r1_every=3)
    state = initial_state(settings, CPU)
    other = initial_state(settings, CPU)
    real = (torch.rand(8, 1, 16, 16) * 2 - 1).requires_grad_()
    z = torch.randn(8, 6)
    discriminator_step(state, real, state.generator(z), settings)
    with torch.no_grad():
        fake = other.generator(z)
    logits = other.discriminator(real)
    softplus = nn.functional.softplus
    loss = softplus(-logits) + softplus(other.discriminator(fake))
    (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    total = loss.mean() + 3 * (2.0 / 2) * gradient.square().sum((1, 2, 3)).mean()
    expected = torch.autograd.grad(total, list(other.discriminator.parameters()))
    for weight, wanted in zip(state.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, wanted)


def test_the_largest_singular_value_of_each_layer_becomes_1(discriminator):
    ordinary = discriminator.to_logit.weight.detach().clone()
    normalise_spectrally(discriminator, seed=0)
    for _ in range(300):
        iterate_powers(discriminator)
    layers = [part for part in discriminator.modules() if isinstance(part, nn.Conv2d)]
    assert len(layers) == 3
    for layer in layers:
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        torch.testing.assert_close(largest, torch.ones(()), rtol=1e-3, atol=0)
    assert not torch.equal(discriminator.to_logit.weight, ordinary)


def test_batch_norms_are_not_normalised(discriminator):
    before = [p.clone() for n, p in discriminator.named_parameters() if n.endswith("1.weight")]
    normalise_spectrally(discriminator, seed=0)
    after = [p for n, p in discriminator.named_parameters() if n.endswith("1.weight")]
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_start_of_the_iteration_is_a_function_of_the_seed(discriminator, tiny):
    ends = []
    for seed in (0, 0, 1):
        made = plain_discriminator(discriminator, tiny(channels="RGB").networks())
        normalise_spectrally(made, seed=seed)
        ends.append(dict(made.named_buffers())["downs.1.0.parametrizations.weight.0.u"])
        ends.append(dict(made.named_buffers())["downs.1.0.parametrizations.weight.0.v"])
    assert torch.equal(ends[1], ends[3])
    assert not torch.equal(ends[1], ends[5])


def test_what_is_exported_gives_the_logits_of_the_d_that_was_trained(tiny):
    settings = tiny(channels="RGB", spectral_norm=True)
    state = initial_state(settings, CPU)
    real, z = torch.rand(8, 3, 16, 16) * 2 - 1, torch.randn(8, 6)
    for _ in range(3):
        discriminator_step(state, real, state.generator(z), settings)
        state.images += 8
    exported = plain_discriminator(state.discriminator, settings.networks())
    fresh = Discriminator(settings.networks())
    assert exported.state_dict().keys() == fresh.state_dict().keys()
    state.discriminator.eval()
    with torch.no_grad():
        wanted = state.discriminator(real)
        torch.testing.assert_close(exported.eval()(real), wanted, rtol=1e-5, atol=1e-6)
    assert wanted.std() > 0


def test_a_model_trained_with_all_options_is_a_model_file_like_any_other(records, tiny, tmp_path):
    from pixmend.models import load_model

    list(train(records, tmp_path / "run", tiny(**ALL_OPTIONS)))
    model = load_model(tmp_path / "run")
    assert model.discriminator(torch.zeros(2, 1, 16, 16)).shape == (2,)


@pytest.mark.parametrize(
    ("schedule", "warmup", "shares"),
    [
        ("constant", 0.0, [1, 1, 1, 1]),
        ("constant", 0.1, [0.1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.5, 0.01, 0]),
        ("cosine", 0.0, [1, 0.5, 0.000246719, 0]),
        ("linear", 0.1, [0.1, 50 / 90, 1 / 90, 0]),
    ],
)
def test_schedules_at_the_start_the_middle_the_last_step_and_the_end(schedule, warmup, shares):
    held = [lr_factor(t, 100, schedule=schedule, warmup=warmup) for t in (0, 50, 99, 100)]
    assert held == pytest.approx(shares, rel=1e-5, abs=1e-9)


def test_a_schedule_rises_and_falls_without_a_jump():
    for schedule in ("linear", "cosine"):
        held = [lr_factor(t, 200, schedule=schedule, warmup=0.1) for t in range(201)]
        assert held[:20] == sorted(held[:20])
        assert held[19:] == sorted(held[19:], reverse=True)
        assert max(abs(a - b) for a, b in pairwise(held)) < 0.06


def test_each_player_has_its_own_rate(tiny):
    settings = tiny(discriminator_learning_rate=4e-4, lr_schedule="linear", steps=10)
    state = initial_state(settings, CPU)
    set_learning_rates(state.optimisers(), settings, 5, settings.steps)
    assert state.generator_optimiser.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert state.discriminator_optimiser.param_groups[0]["lr"] == pytest.approx(2e-4)
    alike = initial_state(tiny(), CPU)
    assert alike.discriminator_optimiser.param_groups[0]["lr"] == 2e-4
