"""Charts as inline SVG, without other files, fonts or scripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from pixmend.page.templates import render

_MAX_POINTS = 240  # more are averaged in groups, as no screen would show them

Places = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A line: its points (x, y) by ascending x; a dashed one is a reference."""

    name: str
    points: Places
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """A labelled dot, in the colour of ``group``, counted from 1."""

    name: str
    x: float
    y: float
    group: int


def line_chart(title: str, note: str, series: Sequence[Series], *, across: str = "step") -> str:
    """Return a ``<figure>`` with a legend; "" without a finite point. ``across`` names x."""
    lines = [
        Series(each.name, _thin(finite), each.dashed)
        for each in series
        if (finite := [point for point in each.points if all(map(math.isfinite, point))])
    ]
    if not lines:
        return ""
    xs, ys = zip(*(point for each in lines for point in each.points), strict=True)
    # The x axis ends with the data: empty space would suggest missing data.
    frame = _Frame(min(xs), max(xs), _ticks(min(ys), max(ys), 4))
    ticks = [tick for tick in _ticks(min(xs), max(xs), 5) if min(xs) <= tick <= max(xs)]
    ticks = ticks or [min(xs)]
    labels = [(frame.x(tick), _format(tick, ticks)) for tick in ticks]
    return render(
        "page/line_chart.html",
        title=title,
        note=note,
        names=[each.name for each in lines],
        legend=[(each.name, each.dashed) for each in lines],
        frame=frame,
        ticks=[each for each in labels if each[0] < frame.right - 12 or len(ticks) < 3],
        lines=lines,
        across=across,
    )


def scatter_chart(
    title: str, note: str, points: Sequence[Point], groups: Sequence[str], *, across: str
) -> str:
    """Return a ``<figure>`` of dots over a logarithmic x axis; "" without a finite point, x > 0.

    A dotted line joins the Pareto front: low x, high y.
    """
    points = [point for point in points if point.x > 0 and math.isfinite(point.x + point.y)]
    if not points:
        return ""
    exponents, ys = [math.log10(point.x) for point in points], [point.y for point in points]
    first, last = math.floor(min(exponents)), math.ceil(max(exponents))
    frame = _Frame(first, max(last, first + 1), _ticks(min(ys), max(ys), 4))
    places = [(frame.x(x), frame.y(y)) for x, y in zip(exponents, ys, strict=True)]
    front: list[tuple[float, float]] = []
    for x, y in sorted(places):
        if not front or y < front[-1][1]:  # y grows downwards
            front.append((x, y))
    return render(
        "page/scatter_chart.html",
        title=title,
        note=note,
        names=[point.name for point in points],
        legend=[(name, False) for name in groups],
        frame=frame,
        ticks=[(frame.x(ten), f"{10.0**ten:g}") for ten in range(first, int(frame.last) + 1)],
        front=front,
        points=_place_labels(points, places, frame),
        across=across,
    )


@dataclass(frozen=True)
class _Frame:
    """The plot's edges in pixels, and their values; ``levels`` are the ticks of y."""

    first: float
    last: float
    levels: Sequence[float]
    width, height = 560, 230
    left, right, top, bottom = 60, 546, 10, 202

    def x(self, value: float) -> float:
        span = self.last - self.first
        share = (value - self.first) / span if span else 0.5
        return round(self.left + share * (self.right - self.left), 1)

    def y(self, value: float) -> float:
        share = (value - self.levels[0]) / (self.levels[-1] - self.levels[0])
        return round(self.bottom - share * (self.bottom - self.top), 1)

    def rules(self) -> list[tuple[float, str]]:
        return [(self.y(level), _format(level, self.levels)) for level in self.levels]


def _place_labels(
    points: Sequence[Point], places: Places, frame: _Frame
) -> list[tuple[Point, float, float, float, float]]:
    """Return each point, its place and its label's; a label moves up until it overlaps nothing."""
    labelled = []
    occupied = [(x - 6, x + 6, y + 4) for x, y in places]  # left, right, baseline
    for point, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: pair[0].y):
        width = 6.8 * len(point.name)
        left = x + 8 if x + 8 + width < frame.width else x - 8 - width
        line = y + 4
        while any(
            left < b and a < left + width and abs(line - other) < 12 for a, b, other in occupied
        ):
            line -= 12
        occupied.append((left, left + width, line))
        labelled.append((point, x, y, left, line))
    return labelled


def _thin(points: Places) -> Places:
    size = -(-len(points) // _MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return about ``count`` values that enclose the range, in steps of 1, 2 or 5 times 10^n."""
    span = high - low or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / count))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * number, 12) for number in range(first, max(last, first + 1) + 1)]


def _format(value: float, ticks: Sequence[float]) -> str:
    if max(map(abs, ticks)) >= 10_000:
        return f"{value / 1000:,.5g}k"
    gap = min((abs(b - a) for a, b in pairwise(ticks)), default=1.0)
    digits = min(6, max(0, -math.floor(math.log10(gap)))) if gap else 0
    return f"{value:,.{digits}f}"
