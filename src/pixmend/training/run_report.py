"""A run on one page: report.html, which opens offline, alone, in light and dark."""

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
from pixmend.training.run_directory import RunDirectory
from pixmend.training.settings import TrainSettings, resolve

_FRAMES = 12  # sample grids on the page
_ROWS = 12  # checkpoints in the table


def write_report(run: RunDirectory, settings: TrainSettings, step: int) -> None:
    """Write ``report.html`` of a run that stands at ``step``, from what lies in its directory.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    log, scores = _lines(run.log), read_scores(run.scores)
    facts, split = _facts(run.facts), _facts(run.split)
    page = Template(files("pixmend.training").joinpath("report.html").read_text(encoding="utf-8"))
    name = run.path.resolve().name
    content = page.substitute(
        style=page_style(),
        title=escape(name),
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
    held_out = len(split.get("held_out", []))
    parts = [f"{facts.get('data_count', 0):,} images of {facts.get('data') or 'memory'}"]
    if held_out:
        families = len(split["families"])
        parts.append(
            f"{held_out} held out, of {families} {'family' if families == 1 else 'families'}"
        )
    parts.append(f"{settings.size} px {settings.channels}")
    return ", ".join(parts)


def _tiles(
    step: int, settings: TrainSettings, log: Sequence[dict[str, Any]], scores: Sequence[Scores]
) -> str:
    of = f"of {settings.steps:,}" if settings.minutes is None else f"in {settings.minutes:g} min"
    tiles = [("step", f"{step:,}", of)]
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
        tiles.append(("diversity", f"{last.diversity:.2f}", "1 = as the images"))
        if last.nearest is not None:
            tiles.append(("novelty", f"{last.nearest:.2f}", "1 = as unseen"))
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
    items = "".join(f"<li>{escape(_sentence(warning))}</li>" for warning in last.warnings)
    return f'<ul class="warnings">{items}</ul>'


def _samples(run: RunDirectory) -> str:
    paths = sorted(run.samples.glob("step-*.png"))
    if len(paths) > _FRAMES:
        last = len(paths) - 1
        paths = [paths[round(number * last / (_FRAMES - 1))] for number in range(_FRAMES)]
    if not paths:
        return ""
    frames = "".join(
        f'<img alt="samples, step {_step_of(path):,}" data-step="{_step_of(path):,}"'
        f'{"" if path is paths[-1] else " hidden"} src="data:image/png;base64,{_base64(path)}">'
        for path in paths
    )
    return (
        '<figure class="samples"><figcaption><b>Samples</b><span>the same latents throughout</span></figcaption>'
        f'<div id="frames">{frames}</div><div class="player"><button id="play" type="button">Play</button>'
        f'<input id="at" type="range" min="0" max="{len(paths) - 1}" value="{len(paths) - 1}" aria-label="step">'
        f'<output id="step" for="at">step {_step_of(paths[-1]):,}</output></div>'
        '<p class="quiet">All of them, in this folder: <a href="film.gif">film.gif</a></p></figure>'
    )


def _charts(log: Sequence[dict[str, Any]], scores: Sequence[Scores]) -> str:
    def of(key: str) -> list[tuple[float, float]]:
        return [(each.step, value) for each in scores if (value := getattr(each, key)) is not None]

    losses = [
        Series(name, [(line["step"], line[key]) for line in log if line.get(key) is not None])
        for name, key in (("D", "loss_d"), ("G", "loss_g"))
    ]
    psnr = [
        Series(mask, [(each.step, each.psnr[mask]) for each in scores if mask in each.psnr])
        for mask in MASKS
    ]
    kid = [Series("training images", of("kid")), Series("held-out images", of("kid_held_out"))]
    accuracy = [
        Series("training images", of("accuracy_training")),
        Series("held-out images", of("accuracy_held_out")),
        Series("samples", of("accuracy_samples")),
    ]
    ratios = [Series("diversity", of("diversity")), Series("novelty", of("nearest"))]
    filled = scores[-1].completion if scores else ""
    by = "by the encoder in one pass" if filled == "encoder" else "by a short search"
    return "".join(
        [
            line_chart("Losses", "means between lines of the log", losses),
            line_chart("Kernel distance (KID)", "of samples; lower is better", kid),
            line_chart("Hole PSNR, dB", f"of held-out images, {by}; higher is better", psnr),
            line_chart("Diversity and novelty", "1 is as it should be", ratios),
            line_chart("What D gets right", "0.5 is a guess", accuracy),
            line_chart(
                "Fréchet distance",
                "of samples; lower is better",
                [Series("training images", of("fid"))],
            ),
        ]
    )


def _table(scores: Sequence[Scores]) -> str:
    if not scores:
        return ""
    heads = ["step", "KID", "Fréchet", *MASKS, "diversity", "novelty", "D real", "D samples", ""]
    rows = []
    for each in scores[::-1][:_ROWS]:
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
        absent = "–" if key == "minutes" else "as G’s"
        shown = absent if value is None else f"{value}"
        parts.append(f"<div{changed}><dt>{escape(key)}</dt><dd>{escape(shown)}</dd></div>")
    return "".join(parts)


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds) // 60, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


def _step_of(path: Path) -> int:
    # Grids are pictures: nothing but their caption hangs on this number.
    digits = path.stem.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _facts(path: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = parse_json(path.read_text())
        if isinstance(found, dict):
            return found
    return {}


def _lines(path: Path) -> list[dict[str, Any]]:
    found = []
    text = path.read_text(errors="replace") if path.exists() else ""
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            found.append(parse_json(line))
    return [line for line in found if isinstance(line, dict) and "step" in line]
