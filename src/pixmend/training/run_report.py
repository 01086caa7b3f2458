"""The report of a run: one HTML page that opens offline."""

import base64
import contextlib
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pixmend.page import Series, line_chart, page_style, scrolling
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
    facts, split = _read_json(run.facts), _read_json(run.split)
    template = files("pixmend.training").joinpath("run_report.html").read_text(encoding="utf-8")
    content = Template(template).substitute(
        style=page_style(),
        title=escape(run.path.resolve().name),
        subtitle=escape(_subtitle(facts, split, settings)),
        tiles=_tiles(step, settings, log, scores),
        warnings=_warnings(scores),
        samples=_samples(run),
        charts=_charts(log, scores),
        scores=scrolling("scores", _table(scores)),
        settings=_settings(settings),
        features=escape(scores[-1].features if scores else "none"),
    )
    write_text(run.report, content)


def _subtitle(facts: dict[str, Any], split: dict[str, Any], settings: TrainSettings) -> str:
    parts = [f"{facts.get('data_count', 0):,} images of {facts.get('data') or 'memory'}"]
    held_out = len(split.get("held_out", []))
    if held_out:
        count = len(split["groups"])
        parts.append(f"{held_out} held out, of {count} {'group' if count == 1 else 'groups'}")
    parts.append(f"{settings.size} px {settings.channels}")
    return ", ".join(parts)


def _tiles(
    step: int, settings: TrainSettings, log: Sequence[dict[str, Any]], scores: Sequence[Scores]
) -> str:
    total = f"of {settings.steps:,}"
    if settings.minutes is not None:
        total = f"in {settings.minutes:g} min"
    tiles = [("step", f"{step:,}", total)]
    if log:
        rate = log[-1].get("images_per_second", 0.0)
        tiles.append(("training", _duration(log[-1].get("seconds", 0.0)), f"{rate:,.0f} images/s"))
    if scores:
        last = scores[-1]
        best = next((each for each in reversed(scores) if each.best), last)
        tiles.append(("KID", f"{last.kid:.4f}", f"best {best.kid:.4f}, step {best.step:,}"))
        if last.mean_psnr is not None:
            mean = sum(last.psnr_of_mean.values()) / len(MASKS)
            tiles.append(("hole PSNR", f"{last.mean_psnr:.1f} dB", f"mean image {mean:.1f} dB"))
        tiles.append(("diversity", f"{last.diversity:.2f}", "1 = as training images"))
        if last.nearest is not None:
            tiles.append(("novelty", f"{last.nearest:.2f}", "1 = as held-out images"))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for name, value, note in tiles
    )


def _warnings(scores: Sequence[Scores]) -> str:
    if not scores:
        return '<p class="quiet">No checkpoint was scored.</p>'
    last = scores[-1]
    if not last.warnings:
        return f'<p class="quiet">No warning at step {last.step:,}.</p>'
    sentences = (f"{warning[0].upper()}{warning[1:]}." for warning in last.warnings)
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="warnings">{items}</ul>'


def _samples(run: RunDirectory) -> str:
    paths = sorted(run.samples.glob("step-*.png"))
    if not paths:
        return ""
    last = len(paths) - 1
    if len(paths) > _MAX_FRAMES:
        places = (round(number * last / (_MAX_FRAMES - 1)) for number in range(_MAX_FRAMES))
        paths = [paths[place] for place in places]
    frames = []
    for path in paths:
        step = _step_of(path)
        png = base64.b64encode(path.read_bytes()).decode("ascii")
        frames.append(
            f'<img alt="samples, step {step}" data-step="{step}"'
            f'{"" if path is paths[-1] else " hidden"} src="data:image/png;base64,{png}">'
        )
    last = len(paths) - 1
    return (
        '<figure class="samples"><figcaption><b>Samples</b>'
        "<span>at the same latents throughout</span></figcaption>"
        f'<div id="frames">{"".join(frames)}</div>'
        '<div class="player"><button id="play" type="button">Play</button>'
        f'<input id="at" type="range" min="0" max="{last}" value="{last}" aria-label="step">'
        f'<output id="step" for="at">step {_step_of(paths[-1])}</output></div>'
        '<p class="quiet">All of them: <a href="film.gif">film.gif</a></p></figure>'
    )


def _charts(log: Sequence[dict[str, Any]], scores: Sequence[Scores]) -> str:
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
    accuracy = [
        series("training images", "accuracy_training"),
        series("held-out images", "accuracy_held_out"),
        series("samples", "accuracy_samples"),
    ]
    kid = [series("training images", "kid"), series("held-out images", "kid_held_out")]
    ratios = [series("diversity", "diversity"), series("novelty", "nearest")]
    by_inpainter = bool(scores) and scores[-1].completion == "inpainter"
    method = "by the inpainter in one pass" if by_inpainter else "by a short search"
    fid = [series("training images", "fid")]
    charts = [
        ("Losses", "means between lines of the log", losses),
        ("Kernel distance (KID)", "of samples; lower is better", kid),
        ("Hole PSNR, dB", f"of held-out images, {method}; higher is better", psnr),
        ("Diversity and novelty", "1 is ideal", ratios),
        ("Accuracy of D", "0.5 is chance", accuracy),
        ("Fréchet distance", "of samples; lower is better", fid),
    ]
    return "".join(line_chart(*chart) for chart in charts)


def _table(scores: Sequence[Scores]) -> str:
    if not scores:
        return ""
    heads = ["step", "KID", "Fréchet", *MASKS, "diversity", "novelty", "D real", "D samples", ""]
    rows = []
    for each in scores[::-1][:_MAX_ROWS]:
        psnr = [f"{each.psnr[mask]:.2f}" if mask in each.psnr else "–" for mask in MASKS]
        novelty = "–" if each.nearest is None else f"{each.nearest:.2f}"
        cells = [f"{each.step:,}", f"{each.kid:.4f}", f"{each.fid:.2f}", *psnr]
        cells += [f"{each.diversity:.2f}", novelty, f"{each.accuracy_training:.2f}"]
        cells += [f"{each.accuracy_samples:.2f}", "best so far" if each.best else ""]
        rows.append(_row("td", cells))
    return f"<table><thead>{_row('th', heads)}</thead><tbody>{''.join(rows)}</tbody></table>"


def _settings(settings: TrainSettings) -> str:
    defaults = resolve().model_dump()
    parts = []
    for key, value in settings.model_dump().items():
        changed = ' class="changed"' if value != defaults[key] else ""
        if value is None:
            value = "–" if key == "minutes" else "as G’s"  # noqa: PLW2901
        parts.append(f"<div{changed}><dt>{escape(key)}</dt><dd>{escape(f'{value}')}</dd></div>")
    return "".join(parts)


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _step_of(path: Path) -> str:
    # From the file name, as it is a caption only.
    digits = path.stem.rpartition("-")[2]
    return f"{int(digits) if digits.isdigit() else 0:,}"


def _read_json(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        facts = parse_json(path.read_text())
        if isinstance(facts, dict):
            return facts
    return {}
