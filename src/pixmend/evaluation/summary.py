"""What the rows come to: means with intervals, comparisons in pairs, and whether what was foretold came true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixmend.evaluation.intervals import Interval, mean_interval, ratio_interval
from pixmend.evaluation.ledger import Row
from pixmend.evaluation.methods_under_test import EvaluatedMethod
from pixmend.evaluation.metrics import Group, calibration
from pixmend.evaluation.realism import Realism

ALL = "all masks"
METRICS = (
    "psnr",
    "ssim",
    "l1",
    "whole_psnr",
    "whole_ssim",
    "whole_l1",
    "best_of",
    "diversity",
    "covered",
    "right",
    "read",
)


@dataclass(frozen=True)
class Cell:
    """A contestant under one mask, or `ALL`.

    Attributes
    ----------
    figures
        Of each of `METRICS` that all its rows have, over images; under `ALL` each image's mean over the masks. And "seam", the step across
        the hole's border over that of the originals.
    seconds, peak
        Mean of an image, and the most MiB; None where nobody told.
    kid, fid
        None of too few images; under `ALL` the mean over the masks.
    behind
        The best's hole PSNR less this one's, in pairs; None of the best.
    """

    label: str
    mask: str
    figures: dict[str, Interval]
    seconds: float | None
    peak: float | None
    kid: float | None = None
    fid: float | None = None
    behind: Interval | None = None

    @property
    def psnr(self) -> Interval:
        """Hole PSNR."""
        return self.figures["psnr"]

    @property
    def best(self) -> bool:
        """Whether its mean hole PSNR is the highest under the mask."""
        return self.behind is None

    @property
    def as_good(self) -> bool:
        """Whether it is the best or cannot be told from it."""
        return self.behind is None or self.behind.sure <= 0


@dataclass(frozen=True)
class Pair:
    """Two models' answers by one method: by mask, the second's hole PSNR and SSIM less the first's, in pairs."""

    first: str
    second: str
    psnr: dict[str, Interval]
    ssim: dict[str, Interval]


@dataclass(frozen=True)
class Summary:
    """All that the report shows of the figures.

    Attributes
    ----------
    labels, ours
        The methods in order, and those of them that ask the model.
    masks
        In order, then `ALL` if there are several.
    cells
        By (label, mask).
    best_ours, best_rival
        By mean hole PSNR over all masks; None where there is none.
    lead
        The first's hole PSNR less the second's over all masks, in pairs of one image; None where there are not both.
    errors, shares
        By label of ours: expected against observed error, and confidence against the share of right pixels.
    missing
        By label: of each mask its name, the share of pixels missing and the mean hole PSNR, the least missing first.
    features
        In which KID and Fréchet distance were measured.
    pairs
        Of two models, the methods that both have.
    """

    labels: tuple[str, ...]
    ours: tuple[str, ...]
    masks: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    best_ours: str | None
    best_rival: str | None
    lead: Interval | None
    leads: dict[str, Interval]
    errors: dict[str, list[Group]]
    shares: dict[str, list[Group]]
    missing: dict[str, list[tuple[str, float, float]]]
    features: str = ""
    pairs: tuple[Pair, ...] = ()

    @property
    def over_all(self) -> str:
        """The name of the last column."""
        return self.masks[-1]

    def has(self, name: str) -> bool:
        """Whether all methods have a figure."""
        return all(name in cell.figures for cell in self.cells.values())


def summarise(
    rows: Sequence[Row],
    methods_under_test: Sequence[EvaluatedMethod],
    masks: Sequence[str],
    *,
    features: str = "",
    realism: Sequence[Realism] = (),
) -> Summary:
    """Sum up complete rows: of each image, mask and contestant one."""
    labels = tuple(each.label for each in methods_under_test)
    ours = tuple(each.label for each in methods_under_test if each.ours)
    columns = (*masks, ALL) if len(masks) > 1 else tuple(masks)
    table = _Table(rows, labels, masks)
    real = {(each.label, each.mask): each for each in realism}
    cells = {}
    for mask in columns:
        best = max(labels, key=lambda label: float(table.of(label, mask, "psnr").mean()))
        for label in labels:
            behind = None if label == best else table.difference(best, label, mask)
            kid, fid = _realism(real, label, masks if mask == ALL else (mask,))
            figures, told = table.figures(label, mask), table.told(label, mask)
            cells[label, mask] = Cell(label, mask, figures, *told, kid, fid, behind)
    last = columns[-1]
    best_ours = _best(cells, ours, last)
    best_rival = _best(cells, [label for label in labels if label not in ours], last)
    leads = {}
    if best_ours and best_rival:
        leads = {mask: table.difference(best_ours, best_rival, mask) for mask in columns}
    return Summary(
        labels,
        ours,
        columns,
        cells,
        best_ours,
        best_rival,
        leads.get(last),
        leads,
        {label: _foretold(rows, label, "expected", "observed", squared=True) for label in ours},
        {label: _foretold(rows, label, "confidence", "right", squared=False) for label in ours},
        {label: _missing(table, cells, label, masks) for label in labels},
        features,
        _pairs(table, ours, columns),
    )


class _Table:
    """Rows as arrays over images."""

    def __init__(self, rows: Sequence[Row], labels: Sequence[str], masks: Sequence[str]) -> None:
        self._masks = masks
        self._rows: dict[tuple[str, str], list[Row]] = {
            (label, mask): [] for label in labels for mask in masks
        }
        for row in rows:
            self._rows[row.label, row.mask].append(row)
        self._families = [row.family for row in self._rows[labels[0], masks[0]]]

    def of(self, label: str, mask: str, name: str) -> NDArray[np.float64]:
        """Return a figure of each image, [N]; under `ALL` the mean over masks."""
        return np.asarray(np.asarray(self._values(label, mask, name), np.float64).mean(0))

    def figures(self, label: str, mask: str) -> dict[str, Interval]:
        """Return the means of what all images have."""
        found = {}
        for name in METRICS:
            values = self._values(label, mask, name)
            has = [all(one is not None for one in column) for column in zip(*values, strict=True)]
            if any(has):
                kept = np.asarray(values, np.float64).mean(0)[has]
                families = [each for each, there in zip(self._families, has, strict=True) if there]
                found[name] = mean_interval(kept.tolist(), families)
        found["seam"] = ratio_interval(
            self.of(label, mask, "border").tolist(),
            self.of(label, mask, "border_true").tolist(),
            self._families,
        )
        return found

    def told(self, label: str, mask: str) -> tuple[float | None, float | None]:
        """Return mean seconds and the peak, where they are known."""
        seconds = [each for part in self._values(label, mask, "seconds") for each in part]
        peaks = [each for part in self._values(label, mask, "peak") for each in part]
        known = [each for each in seconds if each is not None]
        most = [each for each in peaks if each is not None]
        return float(np.mean(known)) if known else None, max(most, default=None)

    def difference(self, label: str, other: str, mask: str, name: str = "psnr") -> Interval:
        gaps = self.of(label, mask, name) - self.of(other, mask, name)
        return mean_interval(gaps.tolist(), self._families)

    def missing(self, label: str, mask: str) -> float:
        return float(np.mean([row.missing for row in self._rows[label, mask]]))

    def _values(self, label: str, mask: str, name: str) -> list[list[float | None]]:
        masks = self._masks if mask == ALL else (mask,)
        return [[getattr(row, name) for row in self._rows[label, each]] for each in masks]


def _realism(
    real: dict[tuple[str, str], Realism], label: str, masks: Sequence[str]
) -> tuple[float | None, float | None]:
    found = [real[label, mask] for mask in masks if (label, mask) in real]
    if len(found) < len(masks):
        return None, None
    return float(np.mean([each.kid for each in found])), float(
        np.mean([each.fid for each in found])
    )


def _missing(
    table: _Table, cells: dict[tuple[str, str], Cell], label: str, masks: Sequence[str]
) -> list[tuple[str, float, float]]:
    points = [(mask, table.missing(label, mask), cells[label, mask].psnr.mean) for mask in masks]
    return sorted(points, key=lambda point: point[1])


def _pairs(table: _Table, ours: Sequence[str], columns: Sequence[str]) -> tuple[Pair, ...]:
    found = []
    for first in ours:
        model, mark, method = first.partition(":")
        second = f"B:{method}"
        if (model, mark) == ("A", ":") and second in ours:
            differences = [
                {mask: table.difference(second, first, mask, name) for mask in columns}
                for name in ("psnr", "ssim")
            ]
            found.append(Pair(first, second, *differences))
    return tuple(found)


def _best(cells: dict[tuple[str, str], Cell], labels: Sequence[str], mask: str) -> str | None:
    return max(labels, key=lambda label: cells[label, mask].psnr.mean, default=None)


def _foretold(
    rows: Sequence[Row], label: str, said: str, came: str, *, squared: bool
) -> list[Group]:
    pairs = [
        (getattr(row, said), getattr(row, came))
        for row in rows
        if row.label == label and getattr(row, said) is not None
    ]
    if not pairs:
        return []
    return calibration([pair[0] for pair in pairs], [pair[1] for pair in pairs], squared=squared)
