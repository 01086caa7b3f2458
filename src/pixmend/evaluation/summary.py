"""What the rows come to: means with intervals, comparisons in pairs, and whether what was foretold came true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixmend.evaluation.contestants import Contestant
from pixmend.evaluation.intervals import Interval, mean_interval
from pixmend.evaluation.ledger import Row
from pixmend.evaluation.metrics import Group, calibration

__all__ = ["ALL", "METRICS", "Cell", "Summary", "summarise"]

ALL = "all masks"
METRICS = ("psnr", "ssim", "l1", "whole_psnr", "whole_ssim", "whole_l1", "seam", "best_of", "right")


@dataclass(frozen=True)
class Cell:
    """A contestant under one mask, or `ALL`.

    Attributes
    ----------
    figures
        Of each of `METRICS`, over images; under `ALL` each image's mean over the masks.
    seconds
        Mean of an image.
    behind
        The best's hole PSNR less this one's, in pairs; None of the best.
    """

    label: str
    mask: str
    figures: dict[str, Interval]
    seconds: float
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
class Summary:
    """All that the report shows of the figures.

    Attributes
    ----------
    labels, ours
        The contestants in order, and those of them that ask the model.
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

    @property
    def over_all(self) -> str:
        """The name of the last column."""
        return self.masks[-1]


def summarise(
    rows: Sequence[Row], contestants: Sequence[Contestant], masks: Sequence[str]
) -> Summary:
    """Sum up complete rows: of each image, mask and contestant one."""
    labels = tuple(each.label for each in contestants)
    ours = tuple(each.label for each in contestants if each.ours)
    columns = (*masks, ALL) if len(masks) > 1 else tuple(masks)
    table = _Table(rows, labels, masks)
    cells = {}
    for mask in columns:
        best = max(labels, key=lambda label: float(table.of(label, mask, "psnr").mean()))
        for label in labels:
            figures = {name: table.mean(label, mask, name) for name in METRICS}
            behind = None if label == best else table.difference(best, label, mask)
            seconds = float(table.of(label, mask, "seconds").mean())
            cells[label, mask] = Cell(label, mask, figures, seconds, behind)
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

    def of(
        self, label: str, mask: str, name: str
    ) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        """Return a figure of each image, [N]; under `ALL` the mean over masks."""
        masks = self._masks if mask == ALL else (mask,)
        values = [[getattr(row, name) for row in self._rows[label, each]] for each in masks]
        return np.asarray(np.asarray(values, np.float64).mean(0))

    def mean(self, label: str, mask: str, name: str) -> Interval:
        return mean_interval(self.of(label, mask, name).tolist(), self._families)

    def difference(self, label: str, other: str, mask: str) -> Interval:
        gaps = self.of(label, mask, "psnr") - self.of(other, mask, "psnr")
        return mean_interval(gaps.tolist(), self._families)


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
