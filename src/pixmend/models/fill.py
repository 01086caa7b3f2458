"""A first guess of the missing pixels that needs no training: as smooth as what is known around them allows."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SWEEPS = 8  # at each size
# Chebyshev's acceleration counts on no error that one sweep of Jacobi shrinks by less than this: 8 sweeps then do what 40 did. Nearer to 1
# they would smooth wide holes further and stir up narrow ones.
_RADIUS = 0.97
_LEAST_SIDE = 4


@torch.no_grad()
def harmonic_fill(target: Tensor, known: Tensor) -> Tensor:
    """Fill holes [B, C, S, S] with a harmonic function of what is known around them, nearly: no extremes, no edges.

    Relaxed from coarse to fine: at each size the hole starts with the smaller one's values, and each missing pixel becomes the mean of its
    four neighbours eight times (Jacobi's iteration), in the Chebyshev semi-iterative method's steps (Golub and Varga 1961, equation 2.15).
    Where nothing is known at all it is 0, mid-grey.

    Parameters
    ----------
    target
        [B, C, S, S] in [-1, 1]; values in the hole do not matter.
    known
        [B, 1, S, S], 1 = known, 0 = missing, or a share between.
    """
    sums, shares = [target * known], [known]
    while sums[-1].shape[-1] >= 2 * _LEAST_SIDE:
        sums.append(F.avg_pool2d(sums[-1], 2))
        shares.append(F.avg_pool2d(shares[-1], 2))
    # What is known of the whole image, where the smallest one knows nothing of a pixel.
    whole = sums[-1].mean((2, 3), keepdim=True) / shares[-1].mean((2, 3), keepdim=True).clamp_min(
        1e-6
    )
    filled = whole.expand_as(sums[-1])
    for total, share in zip(sums[::-1], shares[::-1], strict=True):
        if filled.shape != total.shape:
            filled = F.interpolate(filled, scale_factor=2.0, mode="bilinear", align_corners=False)
        # A coarse pixel of which a part is known counts as known: its mean is that of the known part.
        fixed = (share > 0).to(share.dtype) if total is not sums[0] else share
        values = total / share.clamp_min(1e-6)
        filled = _relaxed(torch.lerp(filled, values, fixed), values, fixed)
    # Acceleration may overshoot; a harmonic function stays between the values that bound it.
    low = torch.where(known > 0, target, 1).amin((2, 3), keepdim=True)
    high = torch.where(known > 0, target, -1).amax((2, 3), keepdim=True)
    return filled.clamp(torch.minimum(low, high), torch.maximum(low, high))


def _relaxed(filled: Tensor, values: Tensor, fixed: Tensor) -> Tensor:
    before, step = filled, 1.0
    for sweep in range(_SWEEPS):
        swept = torch.lerp(_neighbours(filled), values, fixed)
        if sweep:
            step = 1 / (1 - _RADIUS**2 * step / (2 if sweep == 1 else 4))
        filled, before = before + step * (swept - before), filled
    return filled


def _neighbours(values: Tensor) -> Tensor:
    """Return the mean of the four neighbours; beyond the edge the image repeats."""
    padded = F.pad(values, (1, 1, 1, 1), mode="replicate")
    return (
        padded[:, :, :-2, 1:-1]
        + padded[:, :, 2:, 1:-1]
        + padded[:, :, 1:-1, :-2]
        + padded[:, :, 1:-1, 2:]
    ) / 4
