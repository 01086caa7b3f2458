"""The smooth fills: nearly harmonic and biharmonic, and functions of the known pixels alone."""

import numpy as np
import pytest
import torch

from pixmend.models import biharmonic_fill, harmonic_fill
from pixmend.rng import generator_for


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=generator_for(seed, "fill")) * 2 - 1


both = pytest.mark.parametrize("fill", [harmonic_fill, biharmonic_fill])


@both
def test_known_pixels_stay_and_the_hole_does_not_matter(fill):
    target, known = noise(3, 2, 32, 32), (noise(3, 1, 32, 32, seed=1) > 0).float()
    filled = fill(target, known)
    torch.testing.assert_close(filled * known, target * known)
    torch.testing.assert_close(filled, fill(torch.where(known > 0, target, -target), known))


def test_an_edge_continues_into_a_biharmonic_hole():
    """As skimage has it; a harmonic hole sags between its sides."""
    slope = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32).square() * 2 - 1
    known = (noise(1, 1, 32, 32, seed=2) > 0).float()
    gaps = [(fill(slope, known) - slope).abs().mean() for fill in (harmonic_fill, biharmonic_fill)]
    assert gaps[1] < gaps[0] / 3


@pytest.mark.parametrize("hole", [np.s_[12:18, 9:17], np.s_[::2, ::3]], ids=["box", "scattered"])
def test_it_is_nearly_the_biharmonic_function(hole):
    """Compared with the solution of the linear system, in float64."""
    target = torch.nn.functional.avg_pool2d(noise(1, 1, 24, 24), 5, 1, 2)
    known = torch.ones(1, 1, 24, 24)
    known[..., *hole] = 0
    size = target.numel()
    neighbours = torch.zeros(size, size, dtype=torch.float64)
    for row in range(24):
        for column in range(24):
            for down, right in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                y, x = min(max(row + down, 0), 23), min(max(column + right, 0), 23)
                neighbours[row * 24 + column, y * 24 + x] += 1
    laplacian = neighbours - 4 * torch.eye(size, dtype=torch.float64)
    free = known.flatten() == 0
    exact = target.double().flatten().clone()
    energy = laplacian.T @ laplacian
    right_side = -energy[free][:, ~free] @ exact[~free]
    exact[free] = torch.linalg.solve(energy[free][:, free], right_side)
    low, high = target.flatten()[~free].min(), target.flatten()[~free].max()
    filled = biharmonic_fill(target, known).flatten()
    torch.testing.assert_close(
        filled, exact.clamp(low, high).float(), atol=0.02 * float(high - low), rtol=0
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
@both
def test_no_value_is_beyond_those_known(least, fill):
    target, known = noise(4, 3, 48, 48), (noise(4, 1, 48, 48, seed=1) > least).float()
    target = target.sign() * 0.5 + 0.1 * target
    filled = fill(target, known)
    seen = torch.where(known > 0, target, torch.zeros(()))
    assert filled.amax((1, 2, 3)).le(seen.amax((1, 2, 3)) + 1e-5).all()
    assert filled.amin((1, 2, 3)).ge(seen.amin((1, 2, 3)) - 1e-5).all()


@both
def test_an_image_does_not_depend_on_the_others_and_nothing_known_is_grey(fill):
    target, known = noise(4, 1, 16, 16), (noise(4, 1, 16, 16, seed=1) > 0).float()
    together = fill(target, known)
    assert torch.equal(together[2:3], fill(target[2:3], known[2:3]))
    assert (fill(target, torch.zeros_like(known)) == 0).all()
