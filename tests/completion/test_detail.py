"""Enlarging an answer with the detail of the image's known pixels."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.completion.detail import enlarge, resize


def shapes(height: int, width: int, channels: int = 1, seed: int = 0) -> Tensor:
    """Draw sharp-edged discs and stripes, [C, height, width] in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    radius = (rows - height / 2) ** 2 + (columns - width / 2) ** 2
    disc = (radius < (0.4 * min(height, width)) ** 2) & ((rows + columns) % 24 > 7)
    light, dark = torch.rand(2, channels, 1, 1, generator=generator) * 0.8 + 0.1
    return torch.where(disc, light, -dark)


def hole_in(height: int, width: int) -> Tensor:
    known = torch.ones(height, width, dtype=torch.bool)
    known[height // 2 : height // 2 + height // 4, width // 3 : width // 3 + width // 4] = False
    return known


def hole_psnr(image: Tensor, truth: Tensor, known: Tensor) -> float:
    error = (image - truth).square()[:, ~known].mean()
    return float(10 * torch.log10(4 / error))


@pytest.mark.parametrize("factor", [1.5, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_edges_come_out_closer_to_the_original_than_by_interpolation(
    factor: float, channels: int
) -> None:
    side = 96
    truth, known = shapes(side, side, channels), hole_in(side, side)
    answer = F.adaptive_avg_pool2d(truth, round(side / factor))
    plain = resize(answer, (side, side))
    detailed = enlarge(answer, torch.where(known, truth, 0), known)
    assert hole_psnr(detailed, truth, known) > hole_psnr(plain, truth, known) + 2


def test_only_known_pixels_matter() -> None:
    truth, known = shapes(64, 80), hole_in(64, 80)
    answer = F.adaptive_avg_pool2d(truth, 32)
    black, noise = torch.where(known, truth, -1.0), torch.where(known, truth, torch.rand(64, 80))
    assert torch.equal(enlarge(answer, black, known), enlarge(answer, noise, known))


@pytest.mark.parametrize("size", [(32, 32), (20, 20), (20, 31)])
def test_an_answer_that_does_not_grow_is_only_resized(size: tuple[int, int]) -> None:
    answer, image = shapes(32, 32), shapes(*size)
    assert torch.equal(enlarge(answer, image, hole_in(*size)), resize(answer, size))


@pytest.mark.parametrize("size", [(48, 200), (20, 64), (33, 65), (64, 64)])
def test_any_shape_of_frame_is_filled(size: tuple[int, int]) -> None:
    answer, image = shapes(32, 32), shapes(*size)
    result = enlarge(answer, image, hole_in(*size))
    assert result.shape == (1, *size)
    assert result.isfinite().all()
    assert result.abs().max() <= 1


def test_smooth_surroundings_lend_no_detail() -> None:
    ramp = torch.linspace(-0.5, 0.5, 64).expand(1, 64, 64)
    answer, known = shapes(32, 32), hole_in(64, 64)
    assert torch.equal(enlarge(answer, ramp, known), resize(answer, (64, 64)))


def test_an_image_without_known_pixels_is_only_resized() -> None:
    answer, known = shapes(32, 32), torch.zeros(64, 64, dtype=torch.bool)
    assert torch.equal(enlarge(answer, shapes(64, 64), known), resize(answer, (64, 64)))
