"""The report: report.html, one page that works offline, and report.json for programs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixmend.evaluation.aggregation import ALL, Cell, Summary
from pixmend.evaluation.baselines import BASELINES, Images
from pixmend.evaluation.diagnostics import Diagnostic, Reconstruction, SelfInversion
from pixmend.evaluation.gallery import gallery, picture
from pixmend.evaluation.held_out import HeldOut
from pixmend.evaluation.metrics import CalibrationBin
from pixmend.evaluation.realism import SampleQuality
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec
from pixmend.page import Point, Series, line_chart, render, scatter_chart
from pixmend.storage import write_text

YEH_MASKS = ("center", "strokes:0.25", "random:0.8", "half")  # Yeh 2017; its pattern is fixed
_MAX_LINES = 6  # of a chart


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of an evaluation, also written to its folder."""

    verdict: str  # one or two sentences
    summary: Summary
    rows: list[ResultRow]
    diagnostics: list[Diagnostic]
    held_out: HeldOut
    spec: EvaluationSpec
    settings: dict[str, str]  # what the results depend on, for display
    unavailable: list[str]  # why baselines and metrics are missing
    inversion: SelfInversion | None
    reconstruction: Reconstruction | None
    samples: tuple[SampleQuality, Images, Images] | None  # some, and their nearest training images
    originals_class_correct: float | None  # the classifier's accuracy on the originals
    report: Path  # report.html; report.json is beside it
    results: Path  # results.csv


def write_report(evaluation: Evaluation, store: ResultStore) -> None:
    """Write ``report.json`` and ``report.html``."""
    facts = json.dumps(_as_json(evaluation), default=asdict, indent=1, allow_nan=False)
    write_text(store.folder / "report.json", facts + "\n")
    summary, held_out = evaluation.summary, evaluation.held_out
    best = summary.best_ours or summary.best_baseline
    sign = 0 if summary.lead is None else summary.lead.sign
    page = render(
        "evaluation/report.html",
        evaluation=evaluation,
        summary=summary,
        held_out=held_out,
        title=Path(evaluation.settings["model"]).name,
        groups=len(set(held_out.groups)),
        mood={1: "won", -1: "lost", 0: "even"}[sign],
        best=summary.total(best) if best else None,
        lowest_kid=_lowest_kid(summary),
        charts=_charts(summary),
        samples=_samples(evaluation),
        gallery=gallery(evaluation.spec, held_out, evaluation.rows, summary, store),
        baselines={name: BASELINES[name] for name in summary.labels if name in BASELINES},
    )
    write_text(evaluation.report, page)


def yeh_table(summary: Summary) -> str:
    """Return table 1 of Yeh 2017 with a row for each method, as markdown.

    Our rows have the PSNR of the whole image, as in the paper, and of the hole.
    """
    return render("evaluation/yeh2017.md", summary=summary, masks=YEH_MASKS).rstrip()


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    summary, held_out = evaluation.summary, evaluation.held_out
    return {
        "verdict": evaluation.verdict,
        "won": None if summary.lead is None else summary.lead.sign,
        "lead": summary.leads,
        "best": {"ours": summary.best_ours, "baseline": summary.best_baseline},
        "diagnostics": evaluation.diagnostics,
        "table": [_cell_as_json(cell) for cell in summary.cells.values()],
        "errors": summary.errors,
        "shares": summary.shares,
        "pairs": summary.pairs,
        "features": summary.features,
        "self_inversion": evaluation.inversion,
        "reconstruction": evaluation.reconstruction,
        "samples": evaluation.samples and evaluation.samples[0],
        "originals_class_correct": evaluation.originals_class_correct,
        "settings": evaluation.settings,
        "images": {
            "count": len(held_out.images),
            "groups": len(set(held_out.groups)),
            "examined": held_out.examined,
            "available": held_out.available,
            "duplicates": held_out.duplicates,
            "shared_groups": held_out.shared,
            "failed": [{"image": name, "error": reason} for name, reason in held_out.failed],
        },
        "unavailable": evaluation.unavailable,
    }


def _cell_as_json(cell: Cell) -> dict[str, Any]:
    values = asdict(cell)
    return {
        "method": values.pop("label"),
        "mask": values.pop("mask"),
        **values.pop("figures"),
        **values,
        "as_good_as_the_best": cell.as_good,
    }


def _lowest_kid(summary: Summary) -> dict[str, float]:
    """Return the lowest KID of each mask; {} if a method has none."""
    kids = {place: cell.kid for place, cell in summary.cells.items() if cell.kid is not None}
    if len(kids) < len(summary.cells):
        return {}
    return {mask: min(kids[label, mask] for label in summary.labels) for mask in summary.masks}


def _charts(summary: Summary) -> list[str]:
    """Return charts of quality against time and missing share, and of calibration."""
    points = [
        Point(label, max(cell.seconds, 1e-6), cell.psnr.mean, 1 if label in summary.ours else 2)
        for label, cell in ((label, summary.total(label)) for label in summary.labels)
        if cell.seconds is not None
    ]
    return [
        scatter_chart(
            "Hole PSNR, dB, against seconds per image",
            "up and to the left is better; the dotted line is the Pareto front",
            points,
            ("with the model", "without"),
            across="seconds",
        ),
        _missing_chart(summary),
        _calibration_chart(
            "Predicted against observed error",
            "root mean square, grey levels; the dashed line is perfect calibration",
            summary.errors,
        ),
        _calibration_chart(
            "Confidence against correct pixels",
            "shares; the dashed line is perfect calibration",
            summary.shares,
        ),
    ]


def _missing_chart(summary: Summary) -> str:
    """Draw hole PSNR over the missing share, of masks of one shape if there are three."""
    masks = [mask for mask in summary.masks if mask != ALL]
    shapes = [mask.partition(":")[0] for mask in masks]
    alike = [mask for mask, shape in zip(masks, shapes, strict=True) if shapes.count(shape) > 2]
    if len(masks) < 2:
        return ""
    note = "masks of one shape" if alike else "masks of several shapes, not equally hard"
    ranking = sorted(summary.labels, key=lambda label: -summary.total(label).psnr.mean)
    series = []
    for label in ranking[:_MAX_LINES]:
        cells = [summary.cells[label, mask] for mask in alike or masks]
        points = [(cell.missing, cell.psnr.mean) for cell in cells]
        series.append(Series(label, sorted(points, key=lambda point: point[0])))
    return line_chart("Hole PSNR, dB, against the missing share", note, series, across="missing")


def _calibration_chart(title: str, note: str, bins: dict[str, list[CalibrationBin]]) -> str:
    series = [
        Series(label, [(each.predicted, each.observed) for each in of_label])
        for label, of_label in bins.items()
        if of_label
    ][-2:]
    if not series:
        return ""
    xs = [x for each in series for x, _ in each.points]
    diagonal = Series("as predicted", [(x, x) for x in (min(xs), max(xs))], dashed=True)
    return line_chart(title, note, [*series, diagonal], across="predicted")


def _samples(evaluation: Evaluation) -> dict[str, Any] | None:
    if evaluation.samples is None:
        return None
    quality, samples, nearest = evaluation.samples
    return {
        "quality": quality,
        "lines": {
            title: [picture(image, f"{title} {n}") for n, image in enumerate(images, 1)]
            for title, images in (("samples", samples), ("nearest training images", nearest))
        },
    }
