"""Image metrics over arrays, uint8 [H, W, C].

Metrics of the hole measure a completion; metrics of the whole image allow comparison with papers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pixmend.images import Pixels
from pixmend.models import CORRECT_TOLERANCE

_MIN_SQUARED_ERROR = 1e-2  # bounds PSNR at 68.13 dB, so that means stay finite
_SIGMA, _RADIUS = 1.5, 5  # Wang 2004, section III-B: windows of 11 x 11
_C1, _C2 = 0.01**2, 0.03**2  # Wang 2004, equations 7 and 11, for values in [0, 1]

Region = NDArray[np.bool_]  # [H, W], True = evaluated (or, of `boundary_step`, known)


def rmse(answer: Pixels, image: Pixels, region: Region) -> float:
    """Return the root mean square error over a region and all channels, in grey levels."""
    return math.sqrt(_mean_squared_error(answer, image, region))


def psnr(answer: Pixels, image: Pixels, region: Region) -> float:
    """Return 10 log10(255^2 / mean squared error) over a region, in dB; at most 68.13."""
    error = max(_mean_squared_error(answer, image, region), _MIN_SQUARED_ERROR)
    return 10 * math.log10(255**2 / error)


def l1(answer: Pixels, image: Pixels, region: Region) -> float:
    """Return the mean absolute error over a region, in grey levels."""
    return float(np.abs(answer.astype(np.float64) - image)[region].mean())


def correct_share(answer: Pixels, image: Pixels, region: Region) -> float:
    """Return the share of pixels within 25 grey levels (mean over channels); confidence predicts it."""
    error = np.abs(answer.astype(np.float64) - image).mean(-1)
    return float((error <= CORRECT_TOLERANCE * 127.5)[region].mean())


def ssim_map(answer: Pixels, image: Pixels) -> NDArray[np.float64]:
    """Return SSIM at each pixel, [H, W], averaged over channels (Wang 2004, equation 13).

    Gaussian windows (sigma 1.5, radius 5), mirrored at the edges, with population variances.
    """
    from scipy.ndimage import gaussian_filter

    window = {"sigma": (_SIGMA, _SIGMA, 0), "radius": (_RADIUS, _RADIUS, 0)}
    smooth = partial(gaussian_filter, mode="mirror", **window)
    x, y = answer.astype(np.float64) / 255, image.astype(np.float64) / 255
    mean_x, mean_y = smooth(x), smooth(y)
    variance_x, variance_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    covariance = smooth(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (variance_x + variance_y + _C2)
    ssim: NDArray[np.float64] = (luminance * structure).mean(-1)
    return ssim


def boundary_step(pixels: Pixels, known: Region) -> float:
    """Return the mean absolute step, in grey levels, across the hole's boundary; 0 without one."""
    steps = [
        np.abs(np.diff(pixels.astype(np.float64), axis=axis)).mean(-1)[np.diff(known, axis=axis)]
        for axis in (0, 1)
    ]
    total, count = sum(float(each.sum()) for each in steps), sum(map(len, steps))
    return total / count if count else 0.0


def diversity(candidates: Sequence[Pixels], region: Region) -> float:
    """Return the mean pairwise RMSE of candidates over a region, in grey levels; 0 for one."""
    distances = [rmse(a, b, region) for a, b in combinations(candidates, 2)]
    return float(np.mean(distances)) if distances else 0.0


def covers(candidates: Sequence[Pixels], image: Pixels, region: Region) -> float:
    """Return 1 if the nearest candidate is no further than the candidates' diversity, else 0."""
    nearest = min(rmse(candidate, image, region) for candidate in candidates)
    return float(nearest <= diversity(candidates, region))


@dataclass(frozen=True)
class CalibrationBin:
    """Answers with similar predictions: the mean prediction, the mean outcome and the count."""

    predicted: float
    observed: float
    count: int


def calibration_bins(
    predicted: Sequence[float], observed: Sequence[float], *, power: int = 1
) -> list[CalibrationBin]:
    """Return up to 8 bins of about equal count, by ascending prediction (Guo 2017, section 2).

    ``power`` is the exponent of the mean: 2 for errors, as their variances were predicted.
    """
    order = np.argsort(predicted, kind="stable")
    cases = np.array([predicted, observed], np.float64)[:, order]
    bins = np.array_split(cases, max(1, min(8, len(order) // 4)), axis=1)
    means = [[float(np.mean(row**power) ** (1 / power)) for row in each] for each in bins]
    return [CalibrationBin(x, y, each.shape[1]) for (x, y), each in zip(means, bins, strict=True)]


def _mean_squared_error(answer: Pixels, image: Pixels, region: Region) -> float:
    return float(np.square(answer.astype(np.float64) - image)[region].mean())
