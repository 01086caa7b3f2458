"""Best, median and worst cases side by side: original, masked, and every method's answer, as pictures within the page."""

import base64
from collections.abc import Sequence
from html import escape

import numpy as np

from pixmend.completion import Completion
from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.ledger import ResultStore, Row
from pixmend.evaluation.protocol import Protocol, masks_for
from pixmend.evaluation.rivals import Images
from pixmend.evaluation.summary import Summary
from pixmend.images import encode_png, open_image, thumbnail
from pixmend.masks import Mask
from pixmend.page import scrolling

_CELL = 96  # pixels; larger images are reduced to it
_SMALL = 64  # pixels of images of which more than one case of a kind is shown


def gallery(
    protocol: Protocol, held: HeldOut, rows: Sequence[Row], summary: Summary, ledger: ResultStore
) -> str:
    """Return a table of pictures for each mask, cases by the hole PSNR of the best method with the model (or of all)."""
    by = summary.best_ours or summary.best_rival
    of = {(row.number, row.mask, row.label): row for row in rows}
    parts = []
    for spec in protocol.masks:
        ranked = sorted(
            range(len(held.images)), key=lambda number: (-of[number, spec, str(by)].psnr, number)
        )
        lines = []
        doubted = [f"uncertainty of {by}"] if by in summary.ours else []
        for case, number in _cases(ranked, 2 if held.images.shape[1] <= _SMALL else 1):
            (mask,) = masks_for(protocol, spec, [number], held.images.shape[1])
            answers = [of[number, spec, label] for label in summary.labels]
            unsure = of[number, spec, str(by)] if doubted else None
            lines.append(_line(case, held, number, mask, answers, ledger, protocol.batch, unsure))
        heads = "".join(
            f"<th>{escape(each)}</th>" for each in ("original", "masked", *summary.labels, *doubted)
        )
        parts.append(
            f"<h3>{escape(spec)}</h3>"
            + scrolling(
                f"cases, {spec}",
                f'<table class="gallery"><thead><tr><th></th>{heads}</tr></thead><tbody>{"".join(lines)}</tbody></table>',
            )
        )
    return "".join(parts)


def sample_sheet(samples: Images, nearest: Images) -> str:
    """Return samples above the training images nearest to them, as a table of pictures."""
    lines = []
    for title, images in (("samples", samples), ("nearest training images", nearest)):
        cells = "".join(
            _cell(image, f"{title} {number}", "") for number, image in enumerate(images, 1)
        )
        lines.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
    return scrolling("samples", f'<table class="gallery">{"".join(lines)}</table>')


def _cases(ranked: Sequence[int], each: int) -> list[tuple[str, int]]:
    """Return the best, the middle and the worst, none twice."""
    middle = max(0, (len(ranked) - each) // 2)
    wanted = [
        *(("best", number) for number in ranked[:each]),
        *(("median", number) for number in ranked[middle : middle + each]),
        *(("worst", number) for number in ranked[-each:]),
    ]
    return [
        case for place, case in enumerate(wanted) if case[1] not in {n for _, n in wanted[:place]}
    ]


def _line(
    case: str,
    held: HeldOut,
    number: int,
    mask: Mask,
    rows: Sequence[Row],
    ledger: ResultStore,
    batch: int,
    unsure: Row | None,
) -> str:
    image, name = held.images[number], held.names[number]
    best = max(row.psnr for row in rows)
    nothing = np.zeros(mask.known.shape, np.float32)
    cells = [
        _cell(image, f"original of {name}", ""),
        _cell(Completion(name, open_image(image), mask, (), nothing).masked, "masked", ""),
    ]
    for row in rows:
        answer = ledger.picture(row, batch)
        shown = f"<b>{row.psnr:.1f}</b>" if row.psnr == best else f"{row.psnr:.1f}"
        cells.append(
            "<td></td>" if answer is None else _cell(answer, f"{name} by {row.label}", shown)
        )
    doubt = None if unsure is None else ledger.doubt(unsure, batch)
    if doubt is not None and unsure is not None:
        said = (
            "" if unsure.expected is None else f"{unsure.expected:.0f}, was {unsure.observed:.0f}"
        )
        cells.append(_cell(doubt, f"uncertainty of {name}", said))
    short = name.rpartition("/")[2]
    return f'<tr><th scope="row">{case}<small title="{escape(name, quote=True)}">{escape(short)}</small></th>{"".join(cells)}</tr>'


def _cell(pixels: Images, alt: str, caption: str) -> str:
    # Small images stay small in the file; the page enlarges them with crisp pixels.
    small = (
        pixels
        if max(pixels.shape[:2]) <= _CELL and pixels.shape[-1] != 4
        else thumbnail(pixels, _CELL)
    )
    data = base64.b64encode(encode_png(small)).decode("ascii")
    return (
        f'<td><img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{data}">'
        f"<small>{caption}</small></td>"
    )
