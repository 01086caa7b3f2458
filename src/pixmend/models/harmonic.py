"""A harmonic fill of holes: the first guess of the inpainter."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SWEEPS = 8  # at each resolution
# Assumed spectral radius of a Jacobi sweep, so that 8 accelerated sweeps do the work of 40 plain ones. Closer to 1, wide
# holes would become smoother and narrow ones unstable.
_RADIUS = 0.97
_MIN_SIDE = 4


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
    # Acceleration may overshoot; a harmonic function stays between its boundary values.
    low = torch.where(known > 0, target, 1).amin((2, 3), keepdim=True)
    high = torch.where(known > 0, target, -1).amax((2, 3), keepdim=True)
    return filled.clamp(torch.minimum(low, high), torch.maximum(low, high))


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
