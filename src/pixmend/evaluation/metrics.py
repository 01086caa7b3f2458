"""How far a completed image is from the original: functions of arrays, uint8 [H, W, C], each with its source.

What counts for a completion is the hole; figures of the whole image are kept beside it because papers give them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pixmend.images import Pixels
from pixmend.models import CORRECT_TOLERANCE

_LEAST_ERROR = (
    1e-2  # squared grey levels: an answer without error has 68.13 dB, so that means stay finite
)
_SIGMA, _RADIUS = 1.5, 5  # Wang 2004, section III-B: windows of 11 x 11
_C1, _C2 = 0.01**2, 0.03**2  # Wang 2004, equations 7 and 11, of values in [0, 1]

Where = NDArray[np.bool_]  # [H, W]


def rms(answer: Pixels, image: Pixels, where: Where) -> float:
    """Return the root mean square error over some pixels and all channels, in grey levels."""
    return math.sqrt(_squared(answer, image, where))


def psnr(answer: Pixels, image: Pixels, where: Where) -> float:
    """Return 10 log10(255^2 / mean squared error) over some pixels, in dB; 68.13 at the most."""
    return 10 * math.log10(255**2 / max(_squared(answer, image, where), _LEAST_ERROR))


def l1(answer: Pixels, image: Pixels, where: Where) -> float:
    """Return the mean absolute error over some pixels, in grey levels."""
    return float(np.abs(answer.astype(np.float64) - image)[where].mean())


def right_share(answer: Pixels, image: Pixels, where: Where) -> float:
    """Return the share of some pixels that are off by less than 26 grey levels, the mean over channels: what confidence foretells."""
    off = np.abs(answer.astype(np.float64) - image).mean(-1)
    return float((off <= CORRECT_TOLERANCE * 127.5)[where].mean())


def ssim_map(answer: Pixels, image: Pixels) -> NDArray[np.float64]:
    """Return the structural similarity at each pixel, [H, W], the mean over channels (Wang 2004, equation 13).

    Gaussian windows of sigma 1.5 cut at 5 pixels, mirrored at the edges, variances of the population.
    """
    from scipy.ndimage import gaussian_filter

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        smoothed: NDArray[np.float64] = gaussian_filter(
            values, (_SIGMA, _SIGMA, 0), mode="mirror", radius=(_RADIUS, _RADIUS, 0)
        )
        return smoothed

    x, y = answer.astype(np.float64) / 255, image.astype(np.float64) / 255
    mean_x, mean_y = smooth(x), smooth(y)
    spread_x, spread_y = smooth(x * x) - mean_x**2, smooth(y * y) - mean_y**2
    together = smooth(x * y) - mean_x * mean_y
    means = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    spreads = (2 * together + _C2) / (spread_x + spread_y + _C2)
    similar: NDArray[np.float64] = (means * spreads).mean(-1)
    return similar


def border_step(pixels: Pixels, known: Where) -> float:
    """Return the mean absolute step across the hole's border, in grey levels; 0 where there is no border.

    Steps are between neighbours in a row or column of which one is known. The seam of answers is their mean over that of the originals:
    1 is as (in)visible, below 1 is smoother.
    """
    total, count = 0.0, 0
    for axis in (0, 1):
        crosses = np.diff(known, axis=axis)
        steps = np.abs(np.diff(pixels.astype(np.float64), axis=axis)).mean(-1)[crosses]
        total += float(steps.sum())
        count += int(crosses.sum())
    return total / count if count else 0.0


def diversity(candidates: Sequence[Pixels], where: Where) -> float:
    """Return the mean root mean square difference of two candidates over some pixels, in grey levels; 0 of one."""
    pairs = [rms(a, b, where) for a, b in combinations(candidates, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


def covers(candidates: Sequence[Pixels], image: Pixels, where: Where) -> float:
    """Return 1 where the image is as near to some candidate as two candidates are to each other: it may be one of them; else 0."""
    nearest = min(rms(each, image, where) for each in candidates)
    return float(nearest <= diversity(candidates, where))


@dataclass(frozen=True)
class Group:
    """Cases that were foretold about the same: what was foretold, what came true, and of how many."""

    foretold: float
    true: float
    count: int


def calibration(
    foretold: Sequence[float], true: Sequence[float], *, groups: int = 8, squared: bool = False
) -> list[Group]:
    """Return what came true beside what was foretold, in groups of equal count in order of what was foretold (Guo 2017, section 2).

    Parameters
    ----------
    squared
        Take root mean squares of the groups in place of means: of errors, whose variances were foretold.
    """
    order = np.argsort(foretold, kind="stable")
    said, came = np.asarray(foretold, np.float64)[order], np.asarray(true, np.float64)[order]
    count = max(1, min(groups, len(said) // 4))
    power = 2 if squared else 1
    return [
        Group(
            float(np.mean(said[part] ** power) ** (1 / power)),
            float(np.mean(came[part] ** power) ** (1 / power)),
            len(part),
        )
        for part in np.array_split(np.arange(len(said)), count)
        if len(part)
    ]


def _squared(answer: Pixels, image: Pixels, where: Where) -> float:
    return float(np.square(answer.astype(np.float64) - image)[where].mean())
