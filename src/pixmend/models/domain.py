"""Whether an image is of a model's domain, by nothing but its known pixels and training images."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_MOST, _FEWEST = 1024, 16  # images that others are compared with
_LEAST_SPREAD = 1.0  # grey levels


@dataclass(frozen=True)
class OutOfDomain:
    """Some training images, and how far others lie from the nearest of them.

    Attributes
    ----------
    images
        In grey levels, [N, P] with P = C * S * S.
    allowed
        Of each pixel, the mean square by which training images differ there from their nearest, but no less than the mean over pixels:
        what is known may be the busy part of an image, or the quiet one.
    fence
        Root mean square difference, in units of what is allowed, from which on an image is foreign: Tukey's far-out fence (1977, section
        2C) of training images, three times the interquartile range above the upper quartile, but no less than twice that quartile:
        where training images are much alike, those of other families are less so.
    """

    images: Tensor
    allowed: Tensor
    fence: float

    @classmethod
    def of(cls, images: Tensor) -> Self | None:
        """Measure it on training images, uint8 [N, C, S, S]: each of some against the nearest of as many others; None of too few."""
        count = min(_MOST, len(images) // 2)
        if count < _FEWEST:
            return None
        spread = torch.linspace(0, len(images) - 1, 2 * count, device=images.device).long()
        chosen = images[spread].flatten(1).float()
        some, others = chosen[::2], chosen[1::2]
        gaps = (others - some[_nearest(some, others, torch.ones_like(others))]).square()
        allowed = gaps.mean(0).clamp_min(max(float(gaps.mean()), _LEAST_SPREAD))
        scores = (gaps.sum(1) / allowed.sum()).sqrt()
        lower, upper = torch.quantile(scores, scores.new_tensor([0.25, 0.75])).tolist()
        return cls(some, allowed, max(upper + 3 * (upper - lower), 2 * upper))

    def anomaly_score(self, target: Tensor, known: Tensor) -> Tensor:
        """Return how far images lie from the nearest training image on the known pixels, 1 being the fence, [B].

        Parameters
        ----------
        target, known
            [B, C, S, S] in [-1, 1] and [B, 1, S, S], 1 = known.
        """
        shares = known.expand_as(target).flatten(1)
        pixels = (target.flatten(1) + 1) * 127.5
        gaps = (pixels - self.images[_nearest(self.images, pixels, shares)]).square()
        allowed = (shares * self.allowed).sum(1).clamp_min(1e-6)
        return ((shares * gaps).sum(1) / allowed).sqrt() / max(self.fence, 1e-6)


def _nearest(images: Tensor, pixels: Tensor, shares: Tensor) -> Tensor:
    """Return which of the images [N, P] differs least from each of ``pixels`` [B, P] by ``shares``, [B]."""
    return (shares @ images.square().T - 2 * (shares * pixels) @ images.T).argmin(1)
