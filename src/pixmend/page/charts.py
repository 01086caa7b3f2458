"""Charts as inline SVG: no file, font or script beside the page that they stand in."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

_WIDTH, _HEIGHT = 560, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 14, 10, 28
_MOST_POINTS = 240  # more are averaged in groups: a line of a screen's width shows no more
_MARKED = 40  # lines of up to so many points show each


@dataclass(frozen=True)
class Series:
    """One line: its name, and its points (step, value) in order of step; dashed ones are what others are held against."""

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Point:
    """One labelled dot: its name, place, and the number of its group's colour, from 1."""

    name: str
    x: float
    y: float
    group: int


def line_chart(title: str, note: str, series: Sequence[Series], *, across: str = "step") -> str:
    """Return a ``<figure>`` with a title, a note, a legend and the lines; "" where there is nothing finite to draw.

    ``across`` says what x is.
    """
    kept = [
        Series(each.name, _thinned(finite), each.dashed)
        for each in series
        if (finite := [point for point in each.points if all(map(math.isfinite, point))])
    ]
    if not kept:
        return ""
    xs = [x for each in kept for x, _ in each.points]
    ys = [y for each in kept for _, y in each.points]
    along, up = _ticks(min(xs), max(xs), 5), _ticks(min(ys), max(ys), 4)
    # The axis across ends with the data: half a chart of nothing would say that something is missing.
    frame = _Frame(min(xs), max(xs), up[0], up[-1])
    lines = "".join(_line(each, number, frame, across) for number, each in enumerate(kept, 1))
    legend = [(each.name, each.dashed) for each in kept]
    label = f"{title}: {', '.join(each.name for each in kept)}"
    return _figure(title, note, legend, label, _axes(frame, along, up) + lines)


def scatter_chart(
    title: str, note: str, points: Sequence[Point], groups: Sequence[str], *, across: str
) -> str:
    """Return a ``<figure>`` with labelled dots over a logarithmic axis of x > 0, and a legend of the groups; "" without a dot.

    A line joins the dots that no other is left of and above at once (Pareto's front).
    """
    kept = [each for each in points if each.x > 0 and math.isfinite(each.x + each.y)]
    if not kept:
        return ""
    places = [math.log10(each.x) for each in kept]
    first, last = math.floor(min(places)), math.ceil(max(places))
    up = _ticks(min(each.y for each in kept), max(each.y for each in kept), 4)
    frame = _Frame(first, max(last, first + 1), up[0], up[-1])
    tens = range(int(frame.first), int(frame.last) + 1)
    floor = _HEIGHT - _BOTTOM
    axis = "".join(
        f'<text x="{frame.x(ten)}" y="{floor + 18}" text-anchor="middle">{10.0**ten:g}</text>'
        for ten in tens
    )
    label = f"{title}: {', '.join(each.name for each in kept)}"
    drawing = f"{_rules(frame, up)}{axis}{_front(kept, frame)}{_dots(kept, frame, across)}"
    return _figure(title, note, [(name, False) for name in groups], label, drawing)


def _figure(
    title: str, note: str, legend: Sequence[tuple[str, bool]], label: str, drawing: str
) -> str:
    """Return a ``<figure>``: caption, legend of (name, dashed) by colour, and the drawing."""
    keys = "".join(
        f'<span class="key s{number}{" dashed" if dashed else ""}">{escape(name)}</span>'
        for number, (name, dashed) in enumerate(legend, 1)
    )
    return (
        f"<figure><figcaption><b>{escape(title)}</b><span>{escape(note)}</span></figcaption>"
        f'<div class="legend">{keys}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{drawing}</svg></figure>"
    )


@dataclass(frozen=True)
class _Frame:
    """What values the drawing's edges stand for."""

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
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def _front(points: Sequence[Point], frame: _Frame) -> str:
    best, places = -math.inf, []
    for each in sorted(points, key=lambda point: (point.x, -point.y)):
        if each.y > best:
            best = each.y
            places.append(f"{frame.x(math.log10(each.x))} {frame.y(each.y)}")
    return f'<path class="front" d="M{" L".join(places)}"/>' if len(places) > 1 else ""


def _dots(points: Sequence[Point], frame: _Frame, across: str) -> str:
    """Draw dots with their names; names that would lie on each other are moved apart."""
    drawn: list[str] = []
    places = [(frame.x(math.log10(each.x)), frame.y(each.y)) for each in points]
    # Left, right and baseline of what a name must not lie on: the dots, and the names before it.
    taken = [(x - 6, x + 6, y + 4) for x, y in places]
    for each, (x, y) in sorted(zip(points, places, strict=True), key=lambda pair: pair[0].y):
        width = 6.8 * len(each.name)
        left = x + 8 if x + 8 + width < _WIDTH else x - 8 - width
        line = y + 4
        while any(
            left < b and a < left + width and abs(line - other) < 12 for a, b, other in taken
        ):
            line -= 12
        taken.append((left, left + width, line))
        drawn.append(
            f'<circle class="s{each.group}" cx="{x}" cy="{y}" r="4.5"><title>{escape(each.name)}, '
            f"{across} {each.x:.3g}: {each.y:.4g}</title></circle>"
            f'<text x="{left:.1f}" y="{line:.1f}">{escape(each.name)}</text>'
        )
    return "".join(drawn)


def _axes(frame: _Frame, across: Sequence[float], up: Sequence[float]) -> str:
    floor = _HEIGHT - _BOTTOM
    within = [tick for tick in across if frame.first <= tick <= frame.last] or [frame.first]
    steps = "".join(
        f'<text x="{frame.x(tick)}" y="{floor + 18}" text-anchor="middle">{_number(tick, within)}</text>'
        for tick in within
        if frame.x(tick) < _WIDTH - _RIGHT - 12 or len(within) < 3
    )
    return _rules(frame, up) + steps


def _rules(frame: _Frame, up: Sequence[float]) -> str:
    return "".join(
        f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{frame.y(tick)}" y2="{frame.y(tick)}"/>'
        f'<text x="{_LEFT - 8}" y="{frame.y(tick) + 4}" text-anchor="end">{_number(tick, up)}</text>'
        for tick in up
    )


def _line(series: Series, number: int, frame: _Frame, across: str) -> str:
    places = [(frame.x(x), frame.y(y)) for x, y in series.points]
    path = "M" + " L".join(f"{x} {y}" for x, y in places)
    dashed = " dashed" if series.dashed else ""
    drawn = f'<path class="line s{number}{dashed}" d="{path}"/>'
    if len(places) > _MARKED or series.dashed:
        return drawn
    dots = "".join(
        f'<circle class="s{number}" cx="{x}" cy="{y}" r="3"><title>'
        f"{escape(series.name)}, {across} {_short(at)}: {value:.4g}</title></circle>"
        for (x, y), (at, value) in zip(places, series.points, strict=True)
    )
    return drawn + dots


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _ticks(low: float, high: float, count: int) -> list[float]:
    """Return round values from at or below ``low`` to at or above ``high``, about ``count`` apart by 1, 2 or 5 times 10^n."""
    span = high - low or abs(high) or 1.0
    unit = 10 ** math.floor(math.log10(span / count))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * number, 12) for number in range(first, max(last, first + 1) + 1)]


def _number(value: float, among: Sequence[float]) -> str:
    if max(map(abs, among)) >= 10_000:
        return f"{value / 1000:,.5g}k"
    gap = min((abs(b - a) for a, b in pairwise(among)), default=1.0)
    digits = min(6, max(0, -math.floor(math.log10(gap)))) if gap else 0
    return f"{value:,.{digits}f}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
