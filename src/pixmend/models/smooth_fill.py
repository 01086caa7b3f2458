"""Smooth fills of holes, which need no training: harmonic, and biharmonic from there."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SWEEPS = 8  # at each resolution
# Assumed spectral radius of a Jacobi sweep, so that 8 accelerated sweeps do the work of 40 plain ones. Closer to 1, wide
# holes would become smoother and narrow ones unstable.
_RADIUS = 0.97
_MIN_SIDE = 4
_BIHARMONIC_STEPS = 48  # of conjugate gradients at each resolution: each reaches a pixel further
_BIHARMONIC_MIN_SIDE = 16
_TINY = 1e-12


@torch.no_grad()
def harmonic_fill(target: Tensor, known: Tensor) -> Tensor:
    """Fill holes [B, C, S, S] with a nearly harmonic function of the known pixels: no extremes, no edges.

    Coarse to fine: each resolution starts from the coarser one and takes eight Jacobi sweeps (each missing pixel becomes
    the mean of its four neighbours), accelerated by the Chebyshev semi-iterative method (Golub and Varga 1961, equation
    2.15). ``target`` is in [-1, 1], ``known`` [B, 1, S, S] in [0, 1], 1 = known. An image without known pixels becomes 0.
    """
    sums, shares = [target * known], [known]
    while sums[-1].shape[-1] >= 2 * _MIN_SIDE:
        sums.append(F.avg_pool2d(sums[-1], 2))
        shares.append(F.avg_pool2d(shares[-1], 2))
    # The mean of all known pixels, where the coarsest resolution has no known pixel.
    share = shares[-1].mean((2, 3), keepdim=True).clamp_min(1e-6)
    filled = (sums[-1].mean((2, 3), keepdim=True) / share).expand_as(sums[-1])
    for total, share in zip(sums[::-1], shares[::-1], strict=True):
        if filled.shape != total.shape:
            filled = F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)
        # A coarse pixel that is partly known counts as known: its value is the mean of the known part.
        fixed = (share > 0).to(share.dtype) if total is not sums[0] else share
        values = total / share.clamp_min(1e-6)
        filled = _relax(torch.lerp(filled, values, fixed), values, fixed)
    return _clamp_to_known(filled, target, known)


@torch.no_grad()
def biharmonic_fill(target: Tensor, known: Tensor) -> Tensor:
    """Fill holes [B, C, S, S] with a nearly biharmonic function of the known pixels: edges continue into the hole.

    Coarse to fine, from `harmonic_fill` at 16 to 31 pixels a side: at each resolution, 48 steps of conjugate gradients
    (Hestenes and Stiefel 1952) decrease the sum of squares of the Laplacian. Arguments are those of `harmonic_fill`.
    """
    return _clamp_to_known(_biharmonic(target * known, known), target, known)


def _biharmonic(total: Tensor, share: Tensor) -> Tensor:
    """Fill pixels [B, C, S, S] of known share 0; the others are ``total / share``, the mean of what they know."""
    fixed = (share > 0).to(share.dtype)
    values = total / share.clamp_min(1e-6)
    if total.shape[-1] < 2 * _BIHARMONIC_MIN_SIDE:
        return _conjugate_gradients(harmonic_fill(values, fixed), 1 - fixed)
    coarse = _biharmonic(F.avg_pool2d(total, 2), F.avg_pool2d(share, 2))
    filled = F.interpolate(coarse, scale_factor=2.0, mode="bicubic", align_corners=False)
    return _conjugate_gradients(torch.lerp(filled, values, fixed), 1 - fixed)


def _conjugate_gradients(filled: Tensor, free: Tensor) -> Tensor:
    """Decrease the sum of squares of the Laplacian over the pixels where ``free`` is 1."""
    residual = -free * _laplacian(_laplacian(filled))
    direction, squared = residual, _sum_of_squares(residual)
    for _ in range(_BIHARMONIC_STEPS):
        curved = _laplacian(direction)
        step = squared / _sum_of_squares(curved).clamp_min(_TINY)
        filled = filled + step * direction
        residual = residual - step * free * _laplacian(curved)
        before, squared = squared, _sum_of_squares(residual)
        direction = residual + squared / before.clamp_min(_TINY) * direction
    return filled


def _clamp_to_known(filled: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Clamp each channel to the range of its known pixels: steps may overshoot."""
    low = torch.where(known > 0, target, 1).amin((2, 3), keepdim=True)
    high = torch.where(known > 0, target, -1).amax((2, 3), keepdim=True)
    return filled.clamp(torch.minimum(low, high), torch.maximum(low, high))


def _laplacian(values: Tensor) -> Tensor:
    """Return the divergence of the gradient, which is 0 across the edges of the image."""
    down = values[..., 1:, :] - values[..., :-1, :]
    right = values[..., 1:] - values[..., :-1]
    result = torch.zeros_like(values)
    result[..., :-1, :] = down
    result[..., 1:, :] -= down
    result[..., :-1] += right
    result[..., 1:] -= right
    return result


def _sum_of_squares(values: Tensor) -> Tensor:
    return values.square().flatten(2).sum(2)[:, :, None, None]


def _relax(filled: Tensor, values: Tensor, fixed: Tensor) -> Tensor:
    previous, step = filled, 1.0
    for sweep in range(_SWEEPS):
        swept = torch.lerp(_mean_of_neighbours(filled), values, fixed)
        if sweep:
            step = 1 / (1 - _RADIUS**2 * step / (2 if sweep == 1 else 4))
        filled, previous = previous + step * (swept - previous), filled
    return filled


def _mean_of_neighbours(values: Tensor) -> Tensor:
    """Return the mean of the four neighbours of each pixel; edges are replicated."""
    padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
    vertical = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1]
    return (vertical + padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]) / 4
