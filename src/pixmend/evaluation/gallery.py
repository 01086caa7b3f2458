"""Pictures of the report: best, median and worst cases beside every method's answer."""

import base64
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pixmend.completion import Completion
from pixmend.evaluation.aggregation import Summary
from pixmend.evaluation.baselines import Images
from pixmend.evaluation.held_out import HeldOut
from pixmend.evaluation.results import Key, ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.images import encode_png, open_image, thumbnail

_CELL = 96  # pixels, the largest side of a picture
_SMALL = 64  # pixels, up to which two cases of a kind are shown


class PictureCell(NamedTuple):
    """A picture in a table: its PNG in base64 ("" if missing), texts, and whether it is best."""

    png: str
    alt: str
    caption: str = ""
    best: bool = False


def gallery(
    spec: EvaluationSpec,
    held_out: HeldOut,
    rows: Sequence[ResultRow],
    summary: Summary,
    store: ResultStore,
) -> dict[str, list[tuple[str, str, list[PictureCell]]]]:
    """Return for each mask the cases: kind, image name, and pictures.

    Images are ranked by the hole PSNR of our best method, else of the best baseline.
    """
    best = str(summary.best_ours or summary.best_baseline)
    table = {(row.number, row.mask, row.label): row for row in rows}
    count, size = held_out.images.shape[:2]
    lines: dict[str, list[tuple[str, str, list[PictureCell]]]] = {}
    for mask in spec.masks:
        scores = {number: table[number, mask, best].psnr for number in range(count)}
        ranking = sorted(scores, key=lambda number: (-scores[number], number))
        lines[mask] = []
        for number, case in _cases(ranking, 2 if size <= _SMALL else 1).items():
            own = [table[number, mask, label] for label in summary.labels]
            cells = _originals(spec, held_out, mask, number) + _answers(own, store)
            if best in summary.ours:
                cells.append(_uncertainty(table[number, mask, best], store))
            lines[mask].append((case, held_out.names[number], cells))
    return lines


def picture(pixels: Images, alt: str, caption: str = "", *, best: bool = False) -> PictureCell:
    """Return a cell; the page enlarges small images with crisp pixels."""
    if max(pixels.shape[:2]) > _CELL or pixels.shape[-1] == 4:
        pixels = thumbnail(pixels, _CELL)
    return PictureCell(base64.b64encode(encode_png(pixels)).decode("ascii"), alt, caption, best)


def _cases(ranking: Sequence[int], each: int) -> dict[int, str]:
    """Return best, median and worst images, each once."""
    middle = max(0, (len(ranking) - each) // 2)
    cases: dict[int, str] = {}
    for case, start in (("best", 0), ("median", middle), ("worst", max(0, len(ranking) - each))):
        for number in ranking[start : start + each]:
            cases.setdefault(number, case)
    return cases


def _originals(
    spec: EvaluationSpec, held_out: HeldOut, mask: str, number: int
) -> list[PictureCell]:
    image, name = held_out.images[number], held_out.names[number]
    (drawn,) = draw_masks(mask, [number], len(image), spec.seed)
    uncertainty = np.zeros(drawn.known.shape, np.float32)
    masked = Completion(name, open_image(image), drawn, (), uncertainty).masked
    return [picture(image, f"original of {name}"), picture(masked, "masked")]


def _answers(rows: Sequence[ResultRow], store: ResultStore) -> list[PictureCell]:
    highest = max(row.psnr for row in rows)
    cells = []
    for row in rows:
        answer, alt = store.read_answer(row.key), f"{row.image} by {row.label}"
        psnr = f"{row.psnr:.1f}"
        cells.append(
            PictureCell("", alt)
            if answer is None
            else picture(answer, alt, psnr, best=row.psnr == highest)
        )
    return cells


def _uncertainty(row: ResultRow, store: ResultStore) -> PictureCell:
    pixels = store.read_answer(Key(*row.key), ".uncertainty")
    alt = f"uncertainty of {row.image}"
    if pixels is None or row.predicted_error is None:
        return PictureCell("", alt)
    return picture(pixels, alt, f"{row.predicted_error:.0f}, was {row.observed_error:.0f}")
