"""Joining what G drew to what is known; only hole pixels ever come from here."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["BLENDS", "Blend", "paste", "poisson"]

Blend = Literal["paste", "poisson"]


def paste(image: Tensor, drawn: Tensor, known: Tensor) -> Tensor:
    """Return M * y + (1 - M) * G(z): [C, H, W] of two [C, H, W] and a bool [H, W]."""
    return torch.where(known, image, drawn)


def poisson(image: Tensor, drawn: Tensor, known: Tensor, *, tolerance: float = 1e-4) -> Tensor:
    """Fill the hole with G's gradients and the image's values at its border (Perez 2003, equation 4; Yeh 2017, equation 6).

    With x = G(z) + u, the correction u is harmonic in the hole and y - G(z) around it; where the hole meets the edge of the image, u is
    flat across it. Solved by conjugate gradients, coarse to fine.

    Parameters
    ----------
    image, drawn
        [C, H, W] in [-1, 1].
    known
        bool [H, W], at least one True.
    tolerance
        Largest residual that ends the iteration, in units of the pixel values (a grey level of 8 bits is 0.008).
    """
    difference = torch.where(known, image - drawn, torch.zeros_like(image))
    return torch.where(known, image, (drawn + _harmonic(difference, known, tolerance)).clamp(-1, 1))


BLENDS: dict[Blend, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "paste": paste,
    "poisson": poisson,
}


def _harmonic(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """Extend values [C, H, W] from where ``known`` into the hole, harmonically."""
    hole = (~known).to(values.dtype)[None]
    guess = _coarse_guess(values, known, tolerance) * hole
    # A u = b on the hole, A = degree - adjacency of the pixel grid, b = the known neighbours' sum.
    degree = _neighbours(torch.ones_like(hole))
    b = _neighbours(values) * hole
    u = guess
    residual = (b - (degree * u - _neighbours(u))) * hole
    direction = residual / degree
    power = (residual * direction).sum((1, 2), keepdim=True)
    for _ in range(4 * sum(known.shape)):
        if residual.abs().max() < tolerance:
            break
        applied = (degree * direction - _neighbours(direction)) * hole
        length = power / (direction * applied).sum((1, 2), keepdim=True).clamp_min(1e-30)
        u, residual = u + length * direction, residual - length * applied
        before, scaled = power, residual / degree
        power = (residual * scaled).sum((1, 2), keepdim=True)
        direction = scaled + power / before.clamp_min(1e-30) * direction
    return u + values


def _coarse_guess(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """Solve at half the size, where the same hole takes half as many iterations."""
    height, width = known.shape
    if min(height, width) < 32:
        return torch.zeros_like(values)
    share = F.avg_pool2d(known.to(values.dtype)[None], 2, ceil_mode=True, count_include_pad=False)
    sums = F.avg_pool2d(values, 2, ceil_mode=True, count_include_pad=False)
    half = torch.where(share > 0, sums / share.clamp_min(1e-6), torch.zeros_like(sums))
    coarse = _harmonic(half, share[0] > 0, tolerance)
    return F.interpolate(coarse[None], (height, width), mode="bilinear", align_corners=False)[0]


def _neighbours(values: Tensor) -> Tensor:
    """Return the sum of the up to four neighbours inside the image, [C, H, W]."""
    padded = F.pad(values, (1, 1, 1, 1))
    return padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
