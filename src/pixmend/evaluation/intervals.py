"""How sure a mean is: bootstrap intervals over families of images (Efron 1979; whole families are drawn, as Field and Welsh 2007).

Two faces of one font are no two witnesses, so families are drawn with replacement and not images; where each image is a family of
its own the two are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixmend.rng import array_generator_for

_DRAWS = 2000
_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval; of fewer than two families the ends are the mean and say nothing.

    Attributes
    ----------
    mean, low, high
        In the unit of the values.
    images, families
        Over how many.
    """

    mean: float
    low: float
    high: float
    images: int
    families: int

    @property
    def sure(self) -> int:
        """1 where the whole interval is above 0, -1 where it is below, 0 where it cannot be told."""
        if self.families < 2:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def mean_interval(values: Sequence[float], families: Sequence[str], *, seed: int = 0) -> Interval:
    """Return the mean of ``values`` [N], of images of these families [N], with its percentile interval.

    For a comparison, hand over the differences of pairs: two methods on one image.
    """
    of_image = np.asarray(values, np.float64)
    _, numbers = np.unique(np.asarray(families), return_inverse=True)
    sums: NDArray[np.float64] = np.bincount(numbers, of_image).astype(np.float64)
    counts: NDArray[np.int64] = np.bincount(numbers)
    return _interval(float(of_image.mean()), sums, counts.astype(np.float64), len(of_image), seed)


def ratio_interval(
    values: Sequence[float], over: Sequence[float], families: Sequence[str], *, seed: int = 0
) -> Interval:
    """Return the sum of ``values`` over the sum of ``over``, both [N], with its interval; 1 where both are nothing."""
    _, numbers = np.unique(np.asarray(families), return_inverse=True)
    # A thousandth of a grey level: two flat sets have a ratio of 1.
    tops, floors = (
        np.bincount(numbers, np.asarray(each, np.float64) + 1e-3).astype(np.float64)
        for each in (values, over)
    )
    ratio = float(tops.sum() / floors.sum())
    return _interval(ratio, tops, floors, len(values), seed)


def _interval(
    mean: float,
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
    images: int,
    seed: int,
) -> Interval:
    ends = np.quantile(_bootstrap(sums, counts, seed), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(mean, float(ends[0]), float(ends[1]), images, len(sums))


def _bootstrap(
    sums: NDArray[np.float64], counts: NDArray[np.float64], seed: int
) -> NDArray[np.float64]:
    """Return the means of draws of as many families as there are."""
    drawn = array_generator_for(seed, "bootstrap").integers(0, len(sums), (_DRAWS, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(1) / counts[drawn].sum(1)
    return means
