"""The mean of the answers that fit, and how far they differ: PSNR's best answer, and how sure each pixel is.

A draw is sharp and errs more, a mean errs least and blurs (Blau and Michaeli 2018): no answer is the best of both.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pixmend.models import PixelPosterior

Answer = Literal["sharp", "average"]


@dataclass(frozen=True)
class Average:
    """Of all answers to each image.

    Attributes
    ----------
    mean
        [B, C, S, S] in [-1, 1].
    variance
        Mean over the channels, [B, 1, S, S].
    """

    mean: Tensor
    variance: Tensor


def average(
    drawn: Tensor, estimate: PixelPosterior | None, log_weight: Tensor | None = None
) -> Average:
    """Return the mean answer to each image, and the variance of its pixels, over lanes.

    Where E makes estimates, one a lane, the mean is over them and what G has ``drawn``, which err in different ways; the variance is the
    mean of what the estimates tell and the variance of their means (the law of total variance). Else it is all of what was drawn.

    Parameters
    ----------
    drawn
        [B, lanes, C, S, S] in [-1, 1].
    pixel_posterior
        Of the same images in the same order, [B * lanes, ...]; rows beyond are spare.
    log_weight
        How much each counts, laid out alike, [B * lanes]: the logarithm, but for a constant of the image; without it all count alike.
    """
    count, lanes, *shape = drawn.shape
    log_weight = drawn.new_zeros(count * lanes) if log_weight is None else log_weight
    weights = torch.softmax(log_weight[: count * lanes].view(count, lanes), 1)
    weights = weights.view(count, lanes, 1, 1, 1)
    of_drawn = _over_lanes(drawn, weights)
    if estimate is None:
        return of_drawn
    told = estimate.log_variance[: count * lanes].exp().view(count, lanes, 1, *shape[1:])
    means = _over_lanes(estimate.mean[: count * lanes].view(count, lanes, *shape), weights)
    variance = means.variance + (weights * told).sum(1)
    return Average((means.mean + of_drawn.mean) / 2, variance)


def _over_lanes(values: Tensor, weights: Tensor) -> Average:
    mean = (weights * values).sum(1)
    variance = (weights * (values - mean[:, None]).square()).sum(1)
    return Average(mean, variance.mean(1, keepdim=True))
