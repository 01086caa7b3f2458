"""Charts as inline SVG, without other files, fonts or scripts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

_WIDTH, _HEIGHT = 560, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 10, 28
_FLOOR = _HEIGHT - _BOTTOM
_MAX_POINTS = 240  # more are averaged in groups, as no screen would show them
_MAX_DOTS = 40  # points of a line with dots


@dataclass(frozen=True)
class Series:
    """A line: its points (x, y) by ascending x; a dashed one is a reference."""

    name: str
    points: Sequence[tuple[float, float]]
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
    ticks, levels = _ticks(min(xs), max(xs), 5), _ticks(min(ys), max(ys), 4)
    # The x axis ends with the data: empty space would suggest missing data.
    scale = _Scale(min(xs), max(xs), levels[0], levels[-1])
    inside = [tick for tick in ticks if scale.first <= tick <= scale.last] or [scale.first]
    axis = "".join(
        _tick(scale.x(tick), _format(tick, inside))
        for tick in inside
        if scale.x(tick) < _WIDTH - _RIGHT - 12 or len(inside) < 3
    )
    paths = "".join(_line(each, number, scale, across) for number, each in enumerate(lines, 1))
    legend = [(each.name, each.dashed) for each in lines]
    return _figure(title, note, legend, lines, _rules(scale, levels) + axis + paths)


def scatter_chart(
    title: str, note: str, points: Sequence[Point], groups: Sequence[str], *, across: str
) -> str:
    """Return a ``<figure>`` of dots over a logarithmic x axis; "" without a finite point, x > 0.

    A dotted line joins the Pareto front: low x, high y.
    """
    dots = [point for point in points if point.x > 0 and math.isfinite(point.x + point.y)]
    if not dots:
        return ""
    exponents = [math.log10(dot.x) for dot in dots]
    first, last = math.floor(min(exponents)), math.ceil(max(exponents))
    levels = _ticks(min(dot.y for dot in dots), max(dot.y for dot in dots), 4)
    scale = _Scale(first, max(last, first + 1), levels[0], levels[-1])
    places = [(scale.x(x), scale.y(dot.y)) for x, dot in zip(exponents, dots, strict=True)]
    axis = "".join(
        _tick(scale.x(exponent), f"{10.0**exponent:g}")
        for exponent in range(int(scale.first), int(scale.last) + 1)
    )
    front, best = [], math.inf  # of the y coordinate, which grows downwards
    for x, y in sorted(places):
        if y < best:
            best = y
            front.append((x, y))
    path = f'<path class="front" d="{_path(front)}"/>' if len(front) > 1 else ""
    drawing = _rules(scale, levels) + axis + path + _dots(dots, places, across)
    return _figure(title, note, [(name, False) for name in groups], dots, drawing)


def _figure(
    title: str,
    note: str,
    legend: Sequence[tuple[str, bool]],
    named: Sequence[Series] | Sequence[Point],
    drawing: str,
) -> str:
    """Return a ``<figure>`` with a legend of (name, dashed), by colour."""
    keys = "".join(
        f'<span class="key s{number}{" dashed" if dashed else ""}">{escape(name)}</span>'
        for number, (name, dashed) in enumerate(legend, 1)
    )
    label = escape(f"{title}: {', '.join(each.name for each in named)}")
    return (
        f"<figure><figcaption><b>{escape(title)}</b><span>{escape(note)}</span></figcaption>"
        f'<div class="legend">{keys}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">'
        f"{drawing}</svg></figure>"
    )


@dataclass(frozen=True)
class _Scale:
    """The values at the edges of the plot."""

    first: float
    last: float
    bottom: float
    top: float

    def x(self, value: float) -> float:
        span = self.last - self.first
        share = (value - self.first) / span if span else 0.5
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.bottom) / (self.top - self.bottom)
        return round(_FLOOR - share * (_FLOOR - _TOP), 1)


def _dots(dots: Sequence[Point], places: Sequence[tuple[float, float]], across: str) -> str:
    """Draw dots with their names; a name moves up until it overlaps nothing."""
    parts = []
    occupied = [(x - 6, x + 6, y + 4) for x, y in places]  # left, right, baseline
    for dot, (x, y) in sorted(zip(dots, places, strict=True), key=lambda pair: pair[0].y):
        width = 6.8 * len(dot.name)
        left = x + 8 if x + 8 + width < _WIDTH else x - 8 - width
        line = y + 4
        while any(
            left < b and a < left + width and abs(line - other) < 12 for a, b, other in occupied
        ):
            line -= 12
        occupied.append((left, left + width, line))
        name = escape(dot.name)
        parts.append(
            f'<circle class="s{dot.group}" cx="{x}" cy="{y}" r="4.5">'
            f"<title>{name}, {across} {dot.x:.3g}: {dot.y:.4g}</title></circle>"
            f'<text x="{left:.1f}" y="{line:.1f}">{name}</text>'
        )
    return "".join(parts)


def _line(series: Series, number: int, scale: _Scale, across: str) -> str:
    places = [(scale.x(x), scale.y(y)) for x, y in series.points]
    dashed = " dashed" if series.dashed else ""
    path = f'<path class="line s{number}{dashed}" d="{_path(places)}"/>'
    if len(places) > _MAX_DOTS or series.dashed:
        return path
    return path + "".join(
        f'<circle class="s{number}" cx="{x}" cy="{y}" r="3"><title>{escape(series.name)}, {across} '
        f"{f'{at:,.0f}' if at == round(at) else f'{at:.4g}'}: {value:.4g}</title></circle>"
        for (x, y), (at, value) in zip(places, series.points, strict=True)
    )


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{x} {y}" for x, y in places)


def _rules(scale: _Scale, levels: Sequence[float]) -> str:
    return "".join(
        f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{_format(level, levels)}</text>'
        for level, y in ((level, scale.y(level)) for level in levels)
    )


def _tick(x: float, label: str) -> str:
    return f'<text x="{x}" y="{_FLOOR + 18}" text-anchor="middle">{label}</text>'


def _thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
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
