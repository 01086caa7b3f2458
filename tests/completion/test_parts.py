"""The objective, the solvers, the blend and the frame, each against a plain second way to compute it."""

import numpy as np
import pytest
import torch

from pixmend.completion.blend import paste, poisson
from pixmend.completion.objective import (
    Losses,
    contextual_l1,
    contextual_squared,
    contextual_weights,
    negative_logit,
    yeh_prior,
)
from pixmend.completion.solvers import adam, latent_clip, nesterov
from pixmend.completion.view import frame_for


def draw(*shape, seed=0):
    return (
        torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
        - 1
    )


@pytest.mark.parametrize("window", [3, 7])
def test_window_weights_are_equation_3_written_as_loops(window):
    known = (draw(1, 1, 9, 13) > -0.2).double()
    expected = torch.zeros(9, 13, dtype=torch.float64)
    reach = window // 2
    for i in range(9):
        for j in range(13):
            around = known[
                0, 0, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1
            ]
            if known[0, 0, i, j]:
                expected[i, j] = (1 - around).mean()
    torch.testing.assert_close(contextual_weights(known, window)[0, 0], expected)
    raised = contextual_weights(known, window, 0.5)[0, 0]
    torch.testing.assert_close(raised, expected + 0.5 * known[0, 0])
    assert torch.equal(contextual_weights(known, 0, 1.0), known)


def test_weights_are_high_beside_the_hole_and_zero_in_it():
    known = torch.ones(1, 1, 20, 20)
    known[..., 5:15, 5:15] = 0
    weights = contextual_weights(known, 7)[0, 0]
    assert weights[4, 10] > weights[3, 10] > weights[2, 10] > 0
    assert weights[10, 10] == 0
    assert weights[0, 0] == 0


def test_contextual_losses_are_sums_over_each_image_alone():
    images, target, weights = (
        draw(3, 2, 4, 5),
        draw(3, 2, 4, 5, seed=1),
        draw(3, 1, 4, 5, seed=2).abs(),
    )
    for loss, of in ((contextual_l1, abs), (contextual_squared, lambda x: x * x)):
        found = loss(images, target, weights)
        for b in range(3):
            expected = sum(
                float(weights[b, 0, i, j]) * of(float(images[b, c, i, j] - target[b, c, i, j]))
                for c in range(2)
                for i in range(4)
                for j in range(5)
            )
            assert float(found[b]) == pytest.approx(expected)
        assert torch.equal(loss(images[1:2], target[1:2], weights[1:2]), found[1:2])


def test_the_prior_is_log_one_minus_d_and_per_image():
    logits = torch.linspace(-5, 5, 11, dtype=torch.float64)
    torch.testing.assert_close(yeh_prior(logits), torch.log(1 - torch.sigmoid(logits)))
    assert torch.equal(yeh_prior(logits)[4:5], yeh_prior(logits[4:5]))
    for prior in (yeh_prior, negative_logit):
        assert (prior(logits).diff() < 0).all(), "more realistic must be cheaper"


def test_gradients_are_right():
    target, weights = draw(2, 1, 3, 4), draw(2, 1, 3, 4, seed=1).abs()
    images = draw(2, 1, 3, 4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: contextual_l1(x, target, weights), images)
    assert torch.autograd.gradcheck(lambda x: contextual_squared(x, target, weights), images)
    assert torch.autograd.gradcheck(yeh_prior, draw(4).requires_grad_())


CURVATURE = torch.tensor([1.0, 4.0, 9.0])


def bowl(z):
    total = 0.5 * (CURVATURE * (z - 0.3).square()).sum(1)
    return Losses(total, total, torch.zeros_like(total))


def test_adam_is_torchs_adam():
    start = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.9, -0.4]])
    z = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.05)
    for _ in range(25):
        optimiser.zero_grad()
        bowl(z).total.sum().backward()
        optimiser.step()
    *_, last = adam(bowl, start, steps=25, learning_rate=0.05)
    torch.testing.assert_close(last.z, z.detach())


def test_nesterov_is_the_formula_written_out():
    z = np.array([1.0, -1.0, 0.5])
    start, v = torch.tensor([[1.0, -1.0, 0.5]]), np.zeros(3)
    for _ in range(25):
        before = v
        v = 0.9 * v - 0.01 * CURVATURE.numpy() * (z - 0.3)
        z = z - 0.9 * before + 1.9 * v
    *_, last = nesterov(bowl, start, steps=25, learning_rate=0.01)
    np.testing.assert_allclose(last.z[0], z, rtol=1e-4)


@pytest.mark.parametrize("solver", [adam, nesterov])
def test_solvers_count_steps_respect_the_clip_and_keep_the_best(solver):
    start = torch.tensor([[0.9, -0.9, 0.9]])
    states = list(solver(bowl, start, steps=12, learning_rate=0.4, projection=latent_clip(0.95)))
    assert [state.step for state in states] == list(range(13))
    assert torch.equal(states[0].z, start)
    assert all(state.z.abs().max() <= 0.95 for state in states)
    best = min(states, key=lambda state: float(state.losses.total))
    assert torch.equal(states[-1].best_z, best.z)
    assert torch.equal(states[-1].best.total, best.losses.total)


def dense_poisson(image, drawn, known):
    """Solve the same equations with a dense matrix, channel by channel."""
    height, width = known.shape
    result = image.clone()
    places = [(i, j) for i in range(height) for j in range(width) if not known[i, j]]
    index = {place: n for n, place in enumerate(places)}
    for c in range(len(image)):
        matrix, right = np.zeros((len(places), len(places))), np.zeros(len(places))
        for (i, j), n in index.items():
            for p, q in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if not (0 <= p < height and 0 <= q < width):
                    continue
                matrix[n, n] += 1
                right[n] += float(drawn[c, i, j] - drawn[c, p, q])
                if (p, q) in index:
                    matrix[n, index[p, q]] -= 1
                else:
                    right[n] += float(image[c, p, q])
        for (i, j), value in zip(places, np.linalg.solve(matrix, right), strict=True):
            result[c, i, j] = min(max(value, -1), 1)
    return result


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("hole", [np.s_[3:9, 4:11], np.s_[0:5, :7], np.s_[:, 6:], np.s_[::2, ::3]])
@pytest.mark.parametrize("shape", [(11, 14), (36, 41)])
def test_poisson_is_the_dense_solution(channels, hole, shape):
    known = torch.ones(shape, dtype=torch.bool)
    known[hole] = False
    image, drawn = draw(channels, *shape) * 0.4, draw(channels, *shape, seed=1) * 0.4
    found = poisson(image, drawn, known)
    torch.testing.assert_close(found, dense_poisson(image, drawn, known), atol=8e-3, rtol=0)
    assert torch.equal(found[:, known], image[:, known])


def test_poisson_takes_out_a_constant_offset():
    image = draw(3, 12, 15) * 0.5
    known = torch.ones(12, 15, dtype=torch.bool)
    known[3:8, 5:12] = False
    torch.testing.assert_close(poisson(image, image + 0.3, known), image, atol=4e-3, rtol=0)
    torch.testing.assert_close(paste(image, image + 0.3, known)[:, ~known], image[:, ~known] + 0.3)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_at_equal_size_the_frame_is_the_image(fit):
    image = draw(3, 16, 16).float()
    known = torch.ones(16, 16, dtype=torch.bool)
    known[2:6, 9:] = False
    frame = frame_for(known, fit)
    target, seen = frame.view(image, known, 16, torch.ones(3))
    assert torch.equal(seen[0] > 0.5, known)
    torch.testing.assert_close(target[:, known], image[:, known])
    assert torch.equal(frame.put_back(image, image), image)


@pytest.mark.parametrize("shape", [(20, 50), (50, 20)])
@pytest.mark.parametrize("hole", [np.s_[1:4, 1:4], np.s_[-4:-1, -4:-1], np.s_[8:12, 8:12]])
def test_a_cropped_frame_covers_the_hole_and_stays_inside_the_image(shape, hole):
    known = torch.ones(shape, dtype=torch.bool)
    known[hole] = False
    frame = frame_for(known, "crop")
    assert frame.height == frame.width == 20
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[frame.top : frame.top + 20, frame.left : frame.left + 20] = True
    assert inside[~known].all()
    assert 0 <= frame.top <= shape[0] - 20
    assert 0 <= frame.left <= shape[1] - 20


def test_beyond_the_edges_a_padded_model_sees_background_and_a_cropped_one_sees_a_hole():
    image, known = torch.zeros(1, 10, 20), torch.ones(10, 20, dtype=torch.bool)
    known[:, 1:19] = False
    target, seen = frame_for(known, "pad").view(image, known, 20, torch.ones(1))
    assert (seen[0, :5] == 1).all()
    assert (target[0, :5] == 1).all()
    _, seen = frame_for(known, "crop").view(image, known, 18, torch.ones(1))
    assert (seen[0, 0] == 0).all()


def test_known_pixels_are_averaged_without_the_hole():
    image = torch.zeros(1, 8, 8)
    known = torch.ones(8, 8, dtype=torch.bool)
    image[0, 0, 0], known[0, 0] = 1.0, False
    image[0, 4:6, 4:6], known[4:6, 4:6] = 1.0, False
    target, seen = frame_for(known, "stretch").view(image, known, 4, torch.ones(1))
    assert target[0, 0, 0] == 0
    assert seen[0, 0, 0] == 0.75
    assert seen[0, 2, 2] == 0
