"""The figures of an evaluation as tables and charts of its page."""

from collections.abc import Iterable, Sequence
from html import escape

from pixmend.evaluation.intervals import Interval
from pixmend.evaluation.metrics import Group
from pixmend.evaluation.summary import ALL, Summary
from pixmend.page import Point, Series, line_chart, scatter_chart, scrolling

_LINES = 6  # of one chart


def figures_table(summary: Summary, name: str, digits: int) -> str:
    """Return methods by masks: the mean over its interval; the best in bold, with a sign what cannot be told from it."""
    lines = []
    for label in summary.labels:
        cells = []
        for mask in summary.masks:
            cell = summary.cells[label, mask]
            figure = cell.figures[name]
            best = figure.mean == max(
                summary.cells[other, mask].figures[name].mean for other in summary.labels
            )
            mean = f"{figure.mean:.{digits}f}"
            tied = name == "psnr" and not best and cell.as_good
            shown = f"<b>{mean}</b>" if best else f"{mean}{' ≈' if tied else ''}"
            cells.append(
                f"<td>{shown}<small>{figure.low:.{digits}f} to {figure.high:.{digits}f}</small></td>"
            )
        lines.append(_line(summary, label, cells))
    return _table(summary.masks, lines)


def realism_table(summary: Summary, originals: float | None) -> str:
    """Return KID, and read rates where there are any, of methods by masks; "" where there is neither."""
    with_kid = all(cell.kid is not None for cell in summary.cells.values())
    parts = []
    if with_kid:
        lines = []
        for label in summary.labels:
            cells = []
            for mask in summary.masks:
                cell = summary.cells[label, mask]
                least = min(summary.cells[each, mask].kid or 0.0 for each in summary.labels)
                shown = f"{1000 * (cell.kid or 0.0):,.1f}"
                shown = f"<b>{shown}</b>" if cell.kid == least else shown
                cells.append(f"<td>{shown}<small>FD {cell.fid:,.0f}</small></td>")
            lines.append(_line(summary, label, cells))
        parts.append(
            f"<h2>Realism: KID x 1000</h2>{scrolling('realism', _table(summary.masks, lines))}"
            f'<p class="quiet">Lower is better; 0 for the originals themselves. Features of {escape(summary.features)}: '
            "not to be compared with figures of other nets. "
            "Below: Fréchet distance.</p>"
        )
    if summary.has("read") and originals is not None:
        parts.append(
            f"<h2>Read rightly</h2>{scrolling('read rightly', figures_table(summary, 'read', 3))}"
            f'<p class="quiet">Share of answers whose class a small classifier of whole '
            f"training images reads; of the originals it reads {originals:.3f}.</p>"
        )
    return "".join(parts)


def more_table(summary: Summary) -> str:
    """Return the other figures of each method over all masks."""
    names = "hole L1|seam|right pixels|best of K|diversity|covered|whole PSNR|whole SSIM|whole L1|s an image|peak MiB"
    rows = []
    for label in summary.labels:
        cell = summary.cells[label, summary.over_all]
        of = {name: figure.mean for name, figure in cell.figures.items()}
        rows.append(
            [
                label,
                f"{of['l1']:.1f}",
                f"{of['seam']:.2f}",
                f"{of['right']:.1%}",
                f"{of['best_of']:.2f}",
                f"{of['diversity']:.1f}",
                f"{of['covered']:.0%}",
                f"{of['whole_psnr']:.2f}",
                f"{of['whole_ssim']:.3f}",
                f"{of['whole_l1']:.1f}",
                _seconds(cell.seconds),
                "-" if cell.peak is None else f"{cell.peak:,.0f}",
            ]
        )
    heads = ("", *names.split("|"))
    body = "".join(_row("td", row) for row in rows)
    return f'<table class="figures"><thead>{_row("th", heads)}</thead><tbody>{body}</tbody></table>'


def pairs_table(summary: Summary) -> str:
    """Return what the second model's answers have more than the first's, in pairs of one image; "" of one model."""
    if not summary.pairs:
        return ""
    lines = []
    for pair in summary.pairs:
        method = pair.first.partition(":")[2]
        for name, gaps, digits in (("dB", pair.psnr, 2), ("SSIM", pair.ssim, 3)):
            cells = [f"<td>{_gap(gaps[mask], digits)}</td>" for mask in summary.masks]
            head = f'<th scope="row">{escape(method)}, {name}</th>'
            lines.append(f"<tr>{head}{''.join(cells)}</tr>")
    return (
        f"<h2>B less A</h2>{scrolling('B less A', _table(summary.masks, lines))}"
        '<p class="quiet">Differences in pairs of one image and one mask, with 95 % intervals; '
        "in bold where the whole interval is on one side of 0.</p>"
    )


def charts(summary: Summary) -> str:
    """Return quality against time and masked share, and what was foretold against what came."""
    last = summary.over_all
    points = [
        Point(label, max(seconds, 1e-6), summary.cells[label, last].psnr.mean, group)
        for label in summary.labels
        if (seconds := summary.cells[label, last].seconds) is not None
        for group in (1 if label in summary.ours else 2,)
    ]
    return "".join(
        [
            scatter_chart(
                "Hole PSNR, dB, against seconds an image",
                "up and to the left is better; the dotted line joins what nothing beats in both",
                points,
                ("with the model", "without"),
                across="seconds",
            ),
            _masked_share(summary),
            _calibration(
                "Expected against observed error",
                "grey levels, root mean square; on the dashed line the uncertainty tells the truth",
                summary.errors,
            ),
            _calibration(
                "Confidence against right pixels",
                "shares; on the dashed line the confidence tells the truth",
                summary.shares,
            ),
        ]
    )


def _masked_share(summary: Summary) -> str:
    """Draw hole PSNR over the share missing: of the masks of one kind where three are, else of all."""
    masks = [mask for mask in summary.masks if mask != ALL]
    kinds = [mask.partition(":")[0] for mask in masks]
    alike = {mask for mask, kind in zip(masks, kinds, strict=True) if kinds.count(kind) > 2}
    if len(masks) < 2:
        return ""
    kept = alike or set(masks)
    note = (
        "masks of one kind"
        if alike
        else "each mask another shape: 80 % at random is easier than a half"
    )
    ranked = sorted(
        summary.labels, key=lambda each: -summary.cells[each, summary.over_all].psnr.mean
    )
    series = [
        Series(
            label, [(share, psnr) for mask, share, psnr in summary.missing[label] if mask in kept]
        )
        for label in ranked[:_LINES]
    ]
    return line_chart("Hole PSNR, dB, against the share missing", note, series, across="missing")


def _calibration(title: str, note: str, groups: dict[str, list[Group]]) -> str:
    series = [
        Series(label, [(each.foretold, each.true) for each in found])
        for label, found in groups.items()
        if found
    ][-2:]
    if not series:
        return ""
    ends = [x for each in series for x, _ in each.points]
    truth = Series("as foretold", [(low, low) for low in (min(ends), max(ends))], dashed=True)
    return line_chart(title, note, [*series, truth], across="foretold")


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3g}"


def _gap(gap: Interval, digits: int) -> str:
    mean = f"{gap.mean:+.{digits}f}"
    shown = f"<b>{mean}</b>" if gap.sure else mean
    return f"{shown}<small>{gap.low:+.{digits}f} to {gap.high:+.{digits}f}</small>"


def _table(masks: Sequence[str], lines: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(mask)}</th>" for mask in masks)
    return (
        f'<table class="figures"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


def _line(summary: Summary, label: str, cells: Sequence[str]) -> str:
    kind = "ours" if label in summary.ours else "rival"
    return f'<tr class="{kind}"><th scope="row">{escape(label)}</th>{"".join(cells)}</tr>'


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
