"""Pictures of the report: best, median and worst cases beside every method's answer."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pixmend.completion import Completion
from pixmend.evaluation.aggregation import Summary
from pixmend.evaluation.baselines import Images
from pixmend.evaluation.held_out import HeldOut
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.images import encode_png, open_image, thumbnail

_CELL = 96  # pixels, the largest side of a picture
_SMALL = 64  # pixels, up to which two cases of a kind are shown


class Picture(NamedTuple):
    """A picture in a table: its PNG in base64, its texts, and whether it is the best answer."""

    png: str  # "" if missing
    alt: str
    caption: str
    best: bool


def gallery(
    spec: EvaluationSpec,
    held_out: HeldOut,
    rows: Sequence[ResultRow],
    summary: Summary,
    store: ResultStore,
) -> dict[str, list[tuple[str, str, list[Picture]]]]:
    """Return for each mask the cases: kind, image name, and pictures.

    Images are ranked by the hole PSNR of our best method, else of the best baseline.
    """
    best = str(summary.best_ours or summary.best_baseline)
    table = {(row.number, row.mask, row.label): row for row in rows}
    count, size = held_out.images.shape[:2]
    lines: dict[str, list[tuple[str, str, list[Picture]]]] = {}
    for shape in spec.masks:
        scores = {number: table[number, shape, best].psnr for number in range(count)}
        ranking = sorted(scores, key=lambda number: (-scores[number], number))
        lines[shape] = []
        for number, case in _cases(ranking, 2 if size <= _SMALL else 1).items():
            image, name = held_out.images[number], held_out.names[number]
            (mask,) = draw_masks(shape, [number], size, spec.seed)
            nothing = np.zeros(mask.known.shape, np.float32)
            masked = Completion(name, open_image(image), mask, (), nothing).masked
            own = [table[number, shape, label] for label in summary.labels]
            cells = [picture(image, f"original of {name}"), picture(masked, "masked")]
            cells += _answers(own, store)
            if best in summary.ours:
                cells.append(_uncertainty(table[number, shape, best], store))
            lines[shape].append((case, name, cells))
    return lines


def picture(pixels: Images | None, alt: str, caption: str = "", best: bool = False) -> Picture:
    """Return a picture; the page enlarges small ones with crisp pixels."""
    if pixels is None:
        return Picture("", alt, "", False)
    if max(pixels.shape[:2]) > _CELL or pixels.shape[-1] == 4:
        pixels = thumbnail(pixels, _CELL)
    return Picture(base64.b64encode(encode_png(pixels)).decode("ascii"), alt, caption, best)


def _cases(ranking: Sequence[int], each: int) -> dict[int, str]:
    """Return best, median and worst images, each once."""
    middle = max(0, (len(ranking) - each) // 2)
    cases: dict[int, str] = {}
    for case, start in (("best", 0), ("median", middle), ("worst", max(0, len(ranking) - each))):
        for number in ranking[start : start + each]:
            cases.setdefault(number, case)
    return cases


def _answers(rows: Sequence[ResultRow], store: ResultStore) -> list[Picture]:
    highest = max(row.psnr for row in rows)
    return [
        picture(
            store.read_answer(row.key),
            f"{row.image} by {row.label}",
            f"{row.psnr:.1f}",
            row.psnr == highest,
        )
        for row in rows
    ]


def _uncertainty(row: ResultRow, store: ResultStore) -> Picture:
    caption = f"{row.predicted_error or 0:.0f}, was {row.observed_error:.0f}"
    pixels = store.read_answer(row.key, ".uncertainty")
    return picture(pixels, f"uncertainty of {row.image}", caption)
