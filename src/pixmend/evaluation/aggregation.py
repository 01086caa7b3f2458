"""Aggregated results: means with bootstrap intervals, paired differences and calibration."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pixmend.evaluation.evaluated_methods import EvaluatedMethod
from pixmend.evaluation.metrics import CalibrationBin, calibration_bins
from pixmend.evaluation.realism import Realism
from pixmend.evaluation.results import ResultRow
from pixmend.rng import array_generator_for

ALL = "all masks"
METRICS = (
    *("psnr", "ssim", "l1", "whole_psnr", "whole_ssim", "whole_l1"),
    *("best_of", "diversity", "covered", "correct", "class_correct"),
)
COMPARED = {"psnr": 1, "ssim": 1, "l1": -1, "correct": 1}  # with baselines; -1: less is better
_DRAWS = 2000
_LEVELS = ((1 - 0.95) / 2, (1 + 0.95) / 2)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval, over a number of images and groups."""

    mean: float
    low: float
    high: float
    images: int
    groups: int

    @property
    def sign(self) -> int:
        """1 or -1 if the whole interval is above or below 0, else 0; 0 for a single group."""
        return 0 if self.groups < 2 else int(self.low > 0) - int(self.high < 0)


def mean_interval(values: ArrayLike, groups: ArrayLike) -> Interval:
    """Return the mean of values [N] and its percentile bootstrap interval (Efron 1979).

    Whole groups are drawn (Field and Welsh 2007), as images of one group are not independent.
    """
    x = np.asarray(values, np.float64)
    return _bootstrap(x, np.ones(len(x)), groups)


def ratio_interval(numerators: ArrayLike, denominators: ArrayLike, groups: ArrayLike) -> Interval:
    """Return the ratio of the sums of two [N] and its interval; 1 if both sums are 0."""
    # The offset, a thousandth of a grey level, gives two flat sets a ratio of 1.
    x, y = (np.asarray(values, np.float64) + 1e-3 for values in (numerators, denominators))
    return _bootstrap(x, y, groups)


def _bootstrap(x: NDArray[np.float64], y: NDArray[np.float64], groups: ArrayLike) -> Interval:
    """Return the ratio of the sums of x and y [N], and its interval."""
    _, of_image = np.unique(np.asarray(groups), return_inverse=True)
    tops, floors = np.bincount(of_image, x), np.bincount(of_image, y)
    count = len(tops)
    draws = array_generator_for(0, "bootstrap").integers(0, count, (_DRAWS, count))
    low, high = np.quantile(tops[draws].sum(1) / floors[draws].sum(1), _LEVELS).tolist()
    return Interval(float(x.mean() / y.mean()), low, high, len(x), count)


@dataclass(frozen=True)
class Cell:
    """A method under one mask, or under `ALL`, where images count with their mean over masks."""

    label: str
    mask: str
    figures: dict[str, Interval]  # of `METRICS`, and of "boundary_ratio"
    missing: float  # mean share of pixels
    seconds: float | None  # mean per image
    peak_mib: float | None
    kid: float | None  # None for too few images
    fid: float | None
    behind: Interval | None  # the best method's hole PSNR less this one's, paired; None if best

    @property
    def psnr(self) -> Interval:
        return self.figures["psnr"]

    @property
    def best(self) -> bool:
        """Whether it has the highest mean hole PSNR under the mask."""
        return self.behind is None

    @property
    def as_good(self) -> bool:
        """Whether it is the best, or not significantly worse."""
        return self.behind is None or self.behind.sign <= 0


@dataclass(frozen=True)
class Lead(Interval):
    """By how much our best method is better, paired, than the baseline with the best mean."""

    baseline: str


@dataclass(frozen=True)
class Pair:
    """One method of two models: paired differences of hole PSNR and SSIM, B - A, by mask."""

    first: str
    second: str
    psnr: dict[str, Interval]
    ssim: dict[str, Interval]


@dataclass(frozen=True)
class Summary:
    """The numbers of the report."""

    labels: tuple[str, ...]
    ours: tuple[str, ...]  # labels of the methods that use the model
    masks: tuple[str, ...]  # then `ALL` if there are several
    cells: dict[tuple[str, str], Cell]  # by (label, mask)
    best_ours: str | None  # by mean hole PSNR over all masks
    best_baseline: str | None
    leads: dict[str, dict[str, Lead]]  # by figure of `COMPARED` and mask; {} without both
    errors: dict[str, list[CalibrationBin]]  # by our labels: calibration of predicted errors
    shares: dict[str, list[CalibrationBin]]  # and of confidences
    pairs: tuple[Pair, ...]  # the methods that two models share

    @property
    def over_all(self) -> str:
        return self.masks[-1]

    @property
    def lead(self) -> Lead | None:
        return self.leads["psnr"][self.over_all] if self.leads else None

    def total(self, label: str) -> Cell:
        return self.cells[label, self.over_all]


def summarise(
    rows: Sequence[ResultRow],
    methods: Sequence[EvaluatedMethod],
    masks: Sequence[str],
    realism: Realism,
) -> Summary:
    """Aggregate complete rows, one for each image, mask and method."""
    labels = tuple(method.label for method in methods)
    ours = tuple(method.label for method in methods if method.ours)
    baselines = [label for label in labels if label not in ours]
    columns = (*masks, ALL) if len(masks) > 1 else tuple(masks)
    table = _Table(rows, labels, masks)
    best_ours = table.best(ours, columns[-1]) if ours else None
    compared = COMPARED if best_ours and baselines else ()
    pairs = []
    for first in ours:
        second = first.replace("A:", "B:", 1)
        if second != first and second in ours:
            gaps = [
                {mask: table.difference(second, first, mask, name) for mask in columns}
                for name in ("psnr", "ssim")
            ]
            pairs.append(Pair(first, second, *gaps))
    return Summary(
        labels=labels,
        ours=ours,
        masks=columns,
        cells={
            (label, mask): table.cell(label, mask, table.best(labels, mask), realism)
            for mask in columns
            for label in labels
        },
        best_ours=best_ours,
        best_baseline=table.best(baselines, columns[-1]) if baselines else None,
        leads={
            name: {mask: table.lead(str(best_ours), baselines, mask, name) for mask in columns}
            for name in compared
        },
        errors={each: _bins(rows, each, "predicted_error", "observed_error", 2) for each in ours},
        shares={each: _bins(rows, each, "confidence", "correct", 1) for each in ours},
        pairs=tuple(pairs),
    )


class _Table:
    def __init__(
        self, rows: Sequence[ResultRow], labels: Sequence[str], masks: Sequence[str]
    ) -> None:
        self._masks = masks
        self._rows: dict[tuple[str, str], list[ResultRow]] = {}
        for row in rows:
            self._rows.setdefault((row.label, row.mask), []).append(row)
        self._groups = np.array([row.group for row in self._rows[labels[0], masks[0]]])

    def values(self, label: str, mask: str, name: str) -> NDArray[np.float64]:
        """Return a column, [N], NaN for None; under `ALL` its mean over masks."""
        return np.asarray(self._columns(label, mask, name).mean(0))

    def best(self, labels: Sequence[str], mask: str, name: str = "psnr") -> str:
        return max(labels, key=lambda each: COMPARED[name] * self.values(each, mask, name).mean())

    def difference(self, label: str, other: str, mask: str, name: str = "psnr") -> Interval:
        differences = self.values(label, mask, name) - self.values(other, mask, name)
        return mean_interval(differences, self._groups)

    def lead(self, label: str, baselines: Sequence[str], mask: str, name: str) -> Lead:
        baseline = self.best(baselines, mask, name)
        pair = (label, baseline) if COMPARED[name] > 0 else (baseline, label)
        return Lead(**asdict(self.difference(*pair, mask, name)), baseline=baseline)

    def cell(self, label: str, mask: str, best: str, realism: Realism) -> Cell:
        figures = {}
        for name in METRICS:
            values = self.values(label, mask, name)
            known = ~np.isnan(values)
            if known.any():
                figures[name] = mean_interval(values[known], self._groups[known])
        figures["boundary_ratio"] = ratio_interval(
            self.values(label, mask, "boundary"),
            self.values(label, mask, "boundary_original"),
            self._groups,
        )
        seconds, peaks = (
            values[~np.isnan(values)]
            for values in (self._columns(label, mask, name) for name in ("seconds", "peak_mib"))
        )
        places = [(label, each) for each in (self._masks if mask == ALL else [mask])]
        kid = fid = None
        if all(place in realism for place in places):
            kid, fid = np.mean([realism[place] for place in places], axis=0).tolist()
        return Cell(
            label,
            mask,
            figures,
            missing=float(self._columns(label, mask, "missing").mean()),
            seconds=float(seconds.mean()) if len(seconds) else None,
            peak_mib=float(peaks.max()) if len(peaks) else None,
            kid=kid,
            fid=fid,
            behind=None if label == best else self.difference(best, label, mask),
        )

    def _columns(self, label: str, mask: str, name: str) -> NDArray[np.float64]:
        """Return a column of each mask, [masks, N]."""
        masks = self._masks if mask == ALL else (mask,)
        columns = [[getattr(row, name) for row in self._rows[label, each]] for each in masks]
        return np.array(columns, np.float64)


def _bins(
    rows: Sequence[ResultRow], label: str, predicted: str, observed: str, power: int
) -> list[CalibrationBin]:
    own = [row for row in rows if row.label == label and getattr(row, predicted) is not None]
    columns = ([getattr(row, name) for row in own] for name in (predicted, observed))
    return calibration_bins(*columns, power=power) if own else []
