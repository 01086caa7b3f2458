"""An evaluation on one page, report.html, which opens offline, alone, in light and dark; and for programs, report.json."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from pixmend.evaluation.diagnosis import Diagnostic
from pixmend.evaluation.gallery import gallery, sample_sheet
from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.ledger import ResultStore, Row
from pixmend.evaluation.probes import Rebuilt, SelfInversion
from pixmend.evaluation.protocol import Protocol
from pixmend.evaluation.realism import Samples
from pixmend.evaluation.rivals import RIVALS, Images
from pixmend.evaluation.summary import Cell, Summary
from pixmend.evaluation.tables import (
    charts,
    figures_table,
    more_table,
    pairs_table,
    realism_table,
)
from pixmend.page import page_style, scrolling
from pixmend.storage import write_text

_MOST_NAMED = 12  # of images left out


@dataclass(frozen=True, eq=False)
class Account:
    """What the report tells.

    Attributes
    ----------
    facts
        Under what the figures were found: names and values.
    absent
        Rivals and figures that there are none of, and why.
    samples
        What G's samples are worth, some of them, and the training images nearest to these.
    originals_read
        Share of the originals that the classifier reads rightly.
    """

    verdict: str
    summary: Summary
    findings: Sequence[Diagnostic]
    held: HeldOut
    protocol: Protocol
    facts: dict[str, str]
    absent: Sequence[str]
    probe: SelfInversion | None
    rebuilt: Rebuilt | None
    samples: tuple[Samples, Images, Images] | None
    originals_read: float | None


def write_report(out: Path, account: Account, rows: Sequence[Row], ledger: ResultStore) -> None:
    """Write ``report.json`` and ``report.html`` into the folder ``out``.

    Raises
    ------
    OutputError
        They cannot be written.
    """
    write_text(out / "report.json", json.dumps(_facts(account), indent=1, allow_nan=False) + "\n")
    page = Template(files("pixmend.evaluation").joinpath("report.html").read_text(encoding="utf-8"))
    summary, held = account.summary, account.held
    content = page.substitute(
        style=page_style(),
        title=escape(Path(account.facts["model"]).name),
        subtitle=escape(_subtitle(account)),
        mood=_mood(summary),
        verdict=escape(account.verdict),
        tiles=_tiles(summary, held),
        findings=_findings(account.findings),
        pairs=pairs_table(summary),
        psnr=scrolling("hole PSNR", figures_table(summary, "psnr", 2)),
        ssim=scrolling("hole SSIM", figures_table(summary, "ssim", 3)),
        realism=realism_table(summary, account.originals_read),
        more=scrolling("over all masks", more_table(summary)),
        charts=charts(summary),
        samples=_samples(account),
        gallery=gallery(account.protocol, held, rows, summary, ledger),
        left_out=_left_out(account),
        methods=_methods(summary),
        settings="".join(
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
            for name, value in account.facts.items()
        ),
    )
    write_text(out / "report.html", content)


def _facts(account: Account) -> dict[str, Any]:
    """Return all of it as JSON values."""
    summary, held = account.summary, account.held
    return {
        "verdict": account.verdict,
        "won": None if summary.lead is None else summary.lead.sure,
        "lead": {mask: asdict(lead) for mask, lead in summary.leads.items()},
        "best": {"ours": summary.best_ours, "rival": summary.best_rival},
        "findings": [asdict(finding) for finding in account.findings],
        "table": [_json_of(cell) for cell in summary.cells.values()],
        "errors": {key: [asdict(each) for each in value] for key, value in summary.errors.items()},
        "shares": {key: [asdict(each) for each in value] for key, value in summary.shares.items()},
        "pairs": [asdict(pair) for pair in summary.pairs],
        "features": summary.features,
        "probe": None if account.probe is None else asdict(account.probe),
        "rebuilt": None if account.rebuilt is None else asdict(account.rebuilt),
        "samples": None if account.samples is None else asdict(account.samples[0]),
        "originals_read": account.originals_read,
        "facts": account.facts,
        "images": {
            "count": len(held.images),
            "families": len(set(held.families)),
            "looked_at": held.looked_at,
            "available": held.available,
            "duplicates": held.duplicates,
            "shared_families": held.shared,
            "failed": [{"image": name, "error": reason} for name, reason in held.failed],
        },
        "absent": list(account.absent),
    }


def _json_of(cell: Cell) -> dict[str, Any]:
    return {
        "method": cell.label,
        "mask": cell.mask,
        **{name: asdict(figure) for name, figure in cell.figures.items()},
        "seconds": cell.seconds,
        "peak_mib": cell.peak,
        "kid": cell.kid,
        "fid": cell.fid,
        "behind": None if cell.behind is None else asdict(cell.behind),
        "as_good_as_the_best": cell.as_good,
    }


def _subtitle(account: Account) -> str:
    held, masks = account.held, account.protocol.masks
    families = len(set(held.families))
    named = "family" if families == 1 else "families"
    left = f", {len(held.duplicates)} copies of training images left out" if held.duplicates else ""
    return (
        f"{len(held.images):,} images of {families:,} {named} under {len(masks)} {'mask' if len(masks) == 1 else 'masks'}, "
        f"{len(account.summary.labels)} methods{left}"
    )


def _mood(summary: Summary) -> str:
    sure = 0 if summary.lead is None else summary.lead.sure
    return {1: "won", -1: "lost", 0: "even"}[sure]


def _tiles(summary: Summary, held: HeldOut) -> str:
    last, tiles = summary.over_all, []
    best = summary.best_ours or summary.best_rival
    if best is not None:
        cell = summary.cells[best, last]
        tiles.append(("hole PSNR", f"{cell.psnr.mean:.2f} dB", best))
        tiles.append(("hole SSIM", f"{cell.figures['ssim'].mean:.3f}", best))
        right = cell.figures["right"].mean
        tiles.append(("right pixels", f"{right:.0%}", "off by less than 26 of 255"))
        if cell.seconds is not None:
            tiles.append(("time an image", _seconds(cell.seconds), best))
    if summary.lead is not None:
        lead = summary.lead
        note = f"{lead.low:+.2f} to {lead.high:+.2f}, over {summary.best_rival}"
        tiles.append(("lead", f"{lead.mean:+.2f} dB", note))
    tiles.append(("images", f"{len(held.images):,}", f"{len(set(held.families)):,} families"))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
        for name, value, note in tiles
    )


def _findings(findings: Sequence[Diagnostic]) -> str:
    if not findings:
        return '<p class="quiet">Nothing stands out.</p>'
    items = "".join(
        f"<li>{escape(each.fact)} <em>{escape(each.advice)}</em></li>" for each in findings
    )
    return f'<ul class="findings">{items}</ul>'


def _samples(account: Account) -> str:
    if account.samples is None:
        return ""
    figures, drawn, nearest = account.samples
    return (
        "<h2>What G draws, told nothing</h2>"
        f'<p class="quiet">And below each sample the training image nearest to it in {escape(figures.features)}. KID to training images '
        f"{figures.kid:.3g}; one half of these to the other {figures.floor:.2g}.</p>{sample_sheet(drawn, nearest)}"
    )


def _left_out(account: Account) -> str:
    held, lines = account.held, []
    if held.duplicates:
        lines.append(f"Copies of training images, left out: {_named(held.duplicates)}.")
    if held.shared:
        lines.append(f"Families that the training data has too: {_named(held.shared)}.")
    lines += [
        f"Could not be read: {name} ({reason})." for name, reason in held.failed[:_MOST_NAMED]
    ]
    lines += [f"Took no part: {reason}." for reason in account.absent]
    return "".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)


def _methods(summary: Summary) -> str:
    parts = [f"{name}: {RIVALS[name]}" for name in summary.labels if name in RIVALS]
    return escape("; ".join(parts) + ".") if parts else ""


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
