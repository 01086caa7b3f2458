"""A first guess of the missing pixels that needs no training: as smooth as what is known around them allows."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Guess", "guess", "join_guesses", "smooth_fill"]

_SWEEPS = 8  # at each size; what is left to smooth is then below what the network learns to change
_LEAST_SIDE = 4
_LEAST_CONTRAST = 0.02  # 2.5 grey levels; below, noise would be blown up
_FARTHEST = 6.0  # contrasts from the level: beyond, one bright pixel would say all


@dataclass(frozen=True)
class Guess:
    """A smooth guess of an image, and the units in which a network sees and corrects it.

    In its own units a faint image looks to the network as a bold one does, and what the network gets wrong is as faint as the image: it
    then works alike at every brightness and contrast (Mohan 2020, section 5, has scale equivariance by nets without biases).

    Attributes
    ----------
    values
        [B, C, S, S] in [-1, 1]: the image where it is known, `smooth_fill` in the hole.
    level, contrast
        Mean and standard deviation of the known values, each [B, 1, 1, 1]; of the latter at least 2.5 grey levels.
    """

    values: Tensor
    level: Tensor
    contrast: Tensor

    def seen(self, images: Tensor) -> Tensor:
        """Return images [B, C, S, S] in units of this one, about -1 to 1."""
        units = (images - self.level) / self.contrast
        return units.clamp(-_FARTHEST, _FARTHEST) / 3

    def corrected(self, by: Tensor) -> Tensor:
        """Return the guess corrected by so many contrasts [B, C, S, S], in [-1, 1]; the gradient passes the bounds as if they were not."""
        moved = self.values + self.contrast * by
        return moved + (moved.clamp(-1, 1) - moved).detach()

    def take(self, rows: Tensor) -> "Guess":
        """Return the guesses of the images numbered ``rows`` [N]."""
        return Guess(self.values[rows], self.level[rows], self.contrast[rows])


@torch.no_grad()
def guess(target: Tensor, known: Tensor) -> Guess:
    """Guess images from what is known of them; shapes as in `smooth_fill`. Of nothing known the level is 0."""
    values = smooth_fill(target, known)
    count = (known.sum((1, 2, 3), keepdim=True) * target.shape[1]).clamp_min(1)
    level = (target * known).sum((1, 2, 3), keepdim=True) / count
    spread = ((target - level).square() * known).sum((1, 2, 3), keepdim=True) / count
    return Guess(values, level, spread.sqrt().clamp_min(_LEAST_CONTRAST))


def join_guesses(guesses: list[Guess]) -> Guess | None:
    """Return the guesses of several batches as those of one; None of none."""
    if not guesses:
        return None
    parts = ((each.values, each.level, each.contrast) for each in guesses)
    values, level, contrast = (torch.cat(each) for each in zip(*parts, strict=True))
    return Guess(values, level, contrast)


@torch.no_grad()
def smooth_fill(target: Tensor, known: Tensor) -> Tensor:
    """Fill holes [B, C, S, S] with a harmonic function of what is known around them, nearly: no extremes, no edges.

    Relaxed from coarse to fine: at each size the hole starts with the smaller one's values, and each missing pixel becomes the mean of its
    four neighbours (Jacobi's iteration) eight times. Where nothing is known at all it is 0, mid-grey.

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
        filled = torch.lerp(filled, values, fixed)
        for _ in range(_SWEEPS):
            filled = torch.lerp(_neighbours(filled), values, fixed)
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
