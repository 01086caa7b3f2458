"""The report: report.html, one page that works offline, and report.json for programs."""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixmend.completion import Completion
from pixmend.evaluation.aggregation import ALL, Cell, Summary
from pixmend.evaluation.baselines import BASELINES, Images
from pixmend.evaluation.diagnostics import Diagnostic, Facts
from pixmend.evaluation.held_out import HeldOut
from pixmend.evaluation.metrics import CalibrationBin
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.images import encode_png, open_image, thumbnail
from pixmend.page import Point, Series, line_chart, render, scatter_chart
from pixmend.storage import write_text

YEH_MASKS = ("center", "strokes:0.25", "random:0.8", "half")  # Yeh 2017; its pattern is fixed
_MAX_LINES = 6  # of a chart
_CELL = 96  # pixels, the largest side of a picture
_SMALL = 64  # pixels, up to which two cases of a kind are shown


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
    facts: Facts  # about the model and the classifier, under their names in report.json
    report: Path  # report.html; report.json is beside it
    results: Path  # results.csv


def write_report(evaluation: Evaluation, store: ResultStore) -> None:
    """Write ``report.json`` and ``report.html``."""
    facts = json.dumps(_as_json(evaluation), default=asdict, indent=1, allow_nan=False)
    write_text(store.folder / "report.json", facts + "\n")
    summary, held_out = evaluation.summary, evaluation.held_out
    best = str(summary.best_ours or summary.best_baseline)
    page = render(
        "evaluation/report.html",
        evaluation=evaluation,
        summary=summary,
        held_out=held_out,
        title=Path(evaluation.settings["model"]).name,
        groups=len(set(held_out.groups)),
        best=summary.total(best),
        charts=_charts(summary),
        encode=_encode,
        gallery=_gallery(evaluation, best, store),
        baselines={name: BASELINES[name] for name in summary.labels if name in BASELINES},
    )
    write_text(evaluation.report, page)


def yeh_table(summary: Summary) -> str:
    """Return table 1 of Yeh 2017 as markdown, with PSNR of the whole image, as there, and of the hole."""
    return render("evaluation/yeh2017.md", summary=summary, masks=YEH_MASKS).rstrip()


def _as_json(evaluation: Evaluation) -> dict[str, Any]:
    summary, held_out = evaluation.summary, evaluation.held_out
    table = []
    for cell in summary.cells.values():
        values = asdict(cell)
        names = {"method": values.pop("label"), "mask": values.pop("mask")}
        good = {"as_good_as_the_best": cell.as_good}
        table.append(names | values.pop("figures") | values | good)
    return {
        "verdict": evaluation.verdict,
        "won": None if summary.lead is None else summary.lead.sign,
        "lead": summary.leads.get("psnr", {}),
        "leads": summary.leads,
        "best": {"ours": summary.best_ours, "baseline": summary.best_baseline},
        "diagnostics": evaluation.diagnostics,
        "table": table,
        "errors": summary.errors,
        "shares": summary.shares,
        "pairs": summary.pairs,
        "features": evaluation.settings["features"],
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
        **evaluation.facts,
    }


def _charts(summary: Summary) -> list[str]:
    """Return charts of quality against time and missing share, and of calibration."""
    totals = [summary.total(label) for label in summary.labels]
    points = [
        Point(cell.label, max(cell.seconds, 1e-6), cell.psnr.mean, 2 - (cell.label in summary.ours))
        for cell in totals
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
        _missing_chart(summary, sorted(totals, key=lambda cell: -cell.psnr.mean)[:_MAX_LINES]),
        _calibration_chart(
            "Predicted against observed error", "root mean square, grey levels", summary.errors
        ),
        _calibration_chart("Confidence against correct pixels", "shares", summary.shares),
    ]


def _missing_chart(summary: Summary, totals: Sequence[Cell]) -> str:
    """Draw hole PSNR over the missing share, of masks of one shape if there are three."""
    masks = [mask for mask in summary.masks if mask != ALL]
    if len(masks) < 2:
        return ""
    shapes = [mask.partition(":")[0] for mask in masks]
    alike = [mask for mask, shape in zip(masks, shapes, strict=True) if shapes.count(shape) > 2]
    note = "masks of one shape" if alike else "masks of several shapes, not equally hard"
    series = []
    for total in totals:
        cells = [summary.cells[total.label, mask] for mask in alike or masks]
        series.append(Series(total.label, sorted((cell.missing, cell.psnr.mean) for cell in cells)))
    return line_chart("Hole PSNR, dB, against the missing share", note, series, across="missing")


def _calibration_chart(title: str, note: str, bins: dict[str, list[CalibrationBin]]) -> str:
    series = [
        Series(label, [(each.predicted, each.observed) for each in of_label])
        for label, of_label in bins.items()
        if of_label
    ][-2:]
    xs = sorted(x for each in series for x, _ in each.points)
    diagonal = Series("as predicted", [(x, x) for x in xs[:1] + xs[-1:]], dashed=True)
    note += "; the dashed line is perfect calibration"
    return line_chart(title, note, [*series, diagonal], across="predicted")


def _gallery(
    evaluation: Evaluation, best: str, store: ResultStore
) -> dict[str, list[dict[str, Any]]]:
    """Return for each mask the best, median and worst cases by the hole PSNR of method ``best``."""
    held_out, spec = evaluation.held_out, evaluation.spec
    table = {(row.number, row.mask, row.label): row for row in evaluation.rows}
    count, size = held_out.images.shape[:2]
    gallery: dict[str, list[dict[str, Any]]] = {}
    for shape in spec.masks:
        ranking = sorted(
            range(count), key=lambda number: (-table[number, shape, best].psnr, number)
        )
        gallery[shape] = []
        for number, case in _cases(ranking, 2 if size <= _SMALL else 1).items():
            image, name = held_out.images[number], held_out.names[number]
            (mask,) = draw_masks(shape, [number], size, spec.seed)
            nothing = np.zeros(mask.known.shape, np.float32)
            own = [table[number, shape, label] for label in evaluation.summary.labels]
            ours = table[number, shape, best]
            masked = Completion(name, open_image(image), mask, (), nothing).masked
            answers = [(row, store.read_answer(row.key)) for row in own]
            facts = {"case": case, "name": name, "image": image, "masked": masked}
            facts |= {"answers": answers, "highest": max(row.psnr for row in own), "ours": ours}
            facts["uncertainty"] = store.read_answer(ours.key, ".uncertainty")
            gallery[shape].append(facts)
    return gallery


def _cases(ranking: Sequence[int], each: int) -> dict[int, str]:
    """Return best, median and worst images, each once."""
    middle = max(0, (len(ranking) - each) // 2)
    cases: dict[int, str] = {}
    for case, start in (("best", 0), ("median", middle), ("worst", max(0, len(ranking) - each))):
        for number in ranking[start : start + each]:
            cases.setdefault(number, case)
    return cases


def _encode(pixels: Images) -> str:
    """Return a PNG in base64; the page enlarges small ones with crisp pixels."""
    if max(pixels.shape[:2]) > _CELL or pixels.shape[-1] == 4:
        pixels = thumbnail(pixels, _CELL)
    return base64.b64encode(encode_png(pixels)).decode("ascii")
