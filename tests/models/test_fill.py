"""The harmonic fill: nearly harmonic, and a function of the known pixels alone."""

import numpy as np
import pytest
import torch

from pixmend.models import harmonic_fill
from pixmend.rng import generator_for


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=generator_for(seed, "fill")) * 2 - 1


def test_known_pixels_stay_and_the_hole_does_not_matter():
    target, known = noise(3, 2, 32, 32), (noise(3, 1, 32, 32, seed=1) > 0).float()
    filled = harmonic_fill(target, known)
    torch.testing.assert_close(filled * known, target * known)
    torch.testing.assert_close(
        filled, harmonic_fill(torch.where(known > 0, target, -target), known)
    )


def test_a_slope_is_filled_with_the_slope():
    slope = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32)
    known = torch.ones(1, 1, 32, 32)
    known[..., 8:24, 8:24] = 0
    assert (harmonic_fill(slope, known) - slope).abs().max() < 0.12


@pytest.mark.parametrize(
    ("hole", "most"), [(np.s_[8:24, 8:24], 0.1), (np.s_[:, :16], 0.15)], ids=["centre", "half"]
)
def test_it_is_nearly_the_harmonic_function(hole, most):
    """Compared with many sweeps at full size."""
    target, known = noise(1, 1, 32, 32), torch.ones(1, 1, 32, 32)
    target = torch.nn.functional.avg_pool2d(target, 5, 1, 2)
    known[..., *hole] = 0
    exact = target * known
    for _ in range(3000):
        padded = torch.nn.functional.pad(exact, (1, 1, 1, 1), mode="replicate")
        mean = (
            padded[..., :-2, 1:-1]
            + padded[..., 2:, 1:-1]
            + padded[..., 1:-1, :-2]
            + padded[..., 1:-1, 2:]
        ) / 4
        exact = torch.where(known > 0, target, mean)
    gap = (harmonic_fill(target, known) - exact).square().mean().sqrt()
    assert gap < most * (target - exact).square().mean().sqrt()


@pytest.mark.parametrize("least", [0.9, 0.0, -0.9])
def test_no_value_is_beyond_those_known(least):
    target, known = noise(4, 3, 48, 48), (noise(4, 1, 48, 48, seed=1) > least).float()
    target = target.sign() * 0.5 + 0.1 * target
    filled = harmonic_fill(target, known)
    seen = torch.where(known > 0, target, torch.zeros(()))
    assert filled.amax((1, 2, 3)).le(seen.amax((1, 2, 3)) + 1e-5).all()
    assert filled.amin((1, 2, 3)).ge(seen.amin((1, 2, 3)) - 1e-5).all()


def test_an_image_does_not_depend_on_the_others_and_nothing_known_is_grey():
    target, known = noise(4, 1, 16, 16), (noise(4, 1, 16, 16, seed=1) > 0).float()
    together = harmonic_fill(target, known)
    assert torch.equal(together[2:3], harmonic_fill(target[2:3], known[2:3]))
    assert (harmonic_fill(target, torch.zeros_like(known)) == 0).all()
