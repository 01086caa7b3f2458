"""The report of a run: one HTML page that opens offline."""

import base64
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixmend.page import Series, line_chart, render
from pixmend.storage import parse_json, write_text
from pixmend.training.monitor import MASKS, Scores, read_scores
from pixmend.training.run_directory import RunDirectory, read_lines
from pixmend.training.settings import TrainSettings, resolve

_MAX_FRAMES = 12  # sample grids on the page
_MAX_ROWS = 12  # checkpoints in the table


def write_report(run: RunDirectory, settings: TrainSettings, step: int) -> None:
    """Write ``report.html`` of a run at ``step``, from the files in its directory."""
    log = [line for line in read_lines(run.log) if "step" in line]
    scores = read_scores(run.scores)
    page = render(
        "training/run_report.html",
        title=run.path.resolve().name,
        facts=_read_json(run.facts),
        split=_read_json(run.split),
        step=step,
        log=log,
        duration=_duration,
        scores=scores,
        frames=_frames(run),
        charts=_charts(log, scores),
        rows=scores[::-1][:_MAX_ROWS],
        masks=MASKS,
        settings=settings.model_dump(),
        defaults=resolve().model_dump(),
    )
    write_text(run.report, page)


def _frames(run: RunDirectory) -> list[tuple[str, str]]:
    """Return the step and the PNG, in base64, of sample grids over the run."""
    paths = sorted(run.samples.glob("step-*.png"))
    last = len(paths) - 1
    if last >= _MAX_FRAMES:
        places = (round(number * last / (_MAX_FRAMES - 1)) for number in range(_MAX_FRAMES))
        paths = [paths[place] for place in places]
    steps = (path.stem.rpartition("-")[2] for path in paths)  # a caption only
    captions = [f"{int(step) if step.isdigit() else 0:,}" for step in steps]
    images = (base64.b64encode(path.read_bytes()).decode() for path in paths)
    return list(zip(captions, images, strict=True))


def _charts(log: Sequence[dict[str, Any]], scores: Sequence[Scores]) -> list[str]:
    def series(name: str, key: str) -> Series:
        values = ((each.step, getattr(each, key)) for each in scores)
        return Series(name, [(step, value) for step, value in values if value is not None])

    losses = [
        Series(name, [(line["step"], line[key]) for line in log if line.get(key) is not None])
        for name, key in (("D", "loss_d"), ("G", "loss_g"))
    ]
    psnr = [
        Series(mask, [(each.step, each.psnr[mask]) for each in scores if mask in each.psnr])
        for mask in MASKS
    ]
    kid = [series("training images", "kid"), series("held-out images", "kid_held_out")]
    ratios = [series("diversity", "diversity"), series("novelty", "nearest")]
    fid = [series("training images", "fid")]
    charts = [
        ("Losses", "means between lines of the log", losses),
        ("Kernel distance (KID)", "of samples; lower is better", kid),
        ("Hole PSNR, dB", "of held-out images, by the inpainter; higher is better", psnr),
        ("Diversity and novelty", "1 is ideal", ratios),
        ("Fréchet distance", "of samples; lower is better", fid),
    ]
    return [line_chart(*chart) for chart in charts]


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        facts = parse_json(path.read_text())
        if isinstance(facts, dict):
            return facts
    return {}
