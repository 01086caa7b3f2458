"""The results of an evaluation as they are found: results.csv, a row for each image, mask and method, and the answers as pictures.

A row is written after its picture, so that a row without a picture does not happen; a process that is killed loses the batch at hand.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np

from pixmend.errors import InputError, RunError
from pixmend.evaluation.rivals import Images
from pixmend.images import encode_png, open_image
from pixmend.storage import append_line, parse_json, remove_leftovers, write_bytes, write_text

Key: TypeAlias = tuple[int, str, str, str, str]  # number, digest, mask, method, answer


@dataclass(frozen=True)
class Row:
    """One method's answer to one image with one mask.

    Attributes
    ----------
    number
        The place of the image in the draw.
    image, family, digest
        Its name, its family, and a hash of its pixels.
    mask, missing
        The SPEC, and the share of pixels missing.
    method, answer
        Who answered; ``answer`` is ``sharp`` or ``average``, "" of a rival.
    psnr, ssim, l1
        Over the hole: dB, 0 to 1, grey levels.
    whole_psnr, whole_ssim, whole_l1
        Over the whole image.
    border, border_true
        See `pixmend.evaluation.metrics.border_step`: of the answer and of the original.
    expected, observed
        Root mean square error of the hole in grey levels, as the uncertainty foretold it and as it was.
    confidence, right
        Share of right pixels, as foretold and as it was.
    best_of, diversity, covered
        Of all the candidates: hole PSNR of the best, their mean difference in grey levels, and whether the original may be one of them.
    read
        Whether the classifier reads the image's class off the answer; None where there is no class or no classifier.
    warnings
        Of the completion, with ``; `` between.
    peak
        The most memory that the process held during the batch, in MiB, where the system tells.
    seconds
        The image's share of its batch's wall time. This and ``peak`` are the only figures that differ from run to run.
    """

    number: int
    image: str
    family: str
    digest: str
    mask: str
    missing: float
    method: str
    answer: str
    psnr: float
    ssim: float
    l1: float
    whole_psnr: float
    whole_ssim: float
    whole_l1: float
    border: float
    border_true: float
    expected: float | None
    observed: float
    confidence: float | None
    right: float
    best_of: float
    diversity: float
    covered: float
    read: float | None
    warnings: str
    peak: float | None
    seconds: float | None

    @property
    def key(self) -> Key:
        """What a row is the row of."""
        return self.number, self.digest, self.mask, self.method, self.answer

    @property
    def label(self) -> str:
        """The contestant, as people read it."""
        return f"{self.method}, {self.answer}" if self.answer else self.method

    def cells(self) -> list[str]:
        """Return the row as text: floats in six digits, "" for None."""
        return [_text(getattr(self, name)) for name in COLUMNS]

    @classmethod
    def from_cells(cls, cells: Sequence[str]) -> Self:
        """Read what `cells` wrote.

        Raises
        ------
        ValueError
            It is no whole row.
        """
        values: dict[str, Any] = {}
        for name, text in zip(COLUMNS, cells, strict=True):
            if name in _TEXTS:
                values[name] = text
            elif name in _OPTIONAL and not text:
                values[name] = None
            else:
                values[name] = int(text) if name == "number" else float(text)
        return cls(**values)


COLUMNS = [field.name for field in fields(Row)]
_TEXTS = ("image", "family", "digest", "mask", "method", "answer", "warnings")
_DOUBTS = ".uncertainty"
_OPTIONAL = ("expected", "confidence", "read", "peak", "seconds")


class ResultStore:
    """The folder of an evaluation; opening it reads what an earlier call did there.

    Parameters
    ----------
    folder
        Made if it does not exist.
    plan
        What the rows hang on beside image, mask and method, JSON values.

    Raises
    ------
    RunError
        The folder holds another evaluation.
    OutputError
        It cannot be written.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder = folder
        self._file, self._plan = folder / "results.csv", folder / "plan.json"
        self._check(plan)
        for part in (folder, *folder.glob("answers/*/*")):
            remove_leftovers(part)
        self.rows = {row.key: row for row in self._read()}
        write_text(self._plan, json.dumps(plan, indent=1) + "\n")
        self.write(self.rows.values())

    def write(self, rows: Iterable[Row]) -> None:
        """Write the whole file anew."""
        write_text(self._file, _lines([COLUMNS, *(row.cells() for row in rows)]))

    def add(self, rows: Sequence[Row], pictures: Images, reasons: Images | None = None) -> None:
        """Keep a batch: its answers, uint8 [B, S, S, C], as one picture, its uncertainty [B, S, S, 1] as another, then its rows."""
        first = rows[0]
        for stack, kind in ((pictures, ""), (reasons, _DOUBTS)):
            if stack is not None:
                column = stack.reshape(-1, *stack.shape[2:])
                path = self._picture(first, first.number, kind)
                write_bytes(path, encode_png(column, quick=True))
        # Rows go through text even when they were not read, so that a restart changes no figure.
        kept = [Row.from_cells(row.cells()) for row in rows]
        append_line(self._file, _lines(row.cells() for row in kept).rstrip("\n"))
        self.rows |= {row.key: row for row in kept}

    def picture(self, row: Row, batch: int) -> Images | None:
        """Return the answer that a row tells of, uint8 [S, S, C]; None where its file is gone.

        ``batch`` is the number of images in a batch.
        """
        return self._part(row, batch, "")

    def doubt(self, row: Row, batch: int) -> Images | None:
        """Return the uncertainty of an answer in twice its grey levels, uint8 [S, S, 1]; None where there is none."""
        return self._part(row, batch, _DOUBTS)

    def _part(self, row: Row, batch: int, kind: str) -> Images | None:
        place = row.number % batch
        try:
            column = open_image(self._picture(row, row.number - place, kind)).pixels
        except InputError:
            return None
        size = column.shape[1]
        found = column[place * size : (place + 1) * size].astype(np.uint8)
        return found if found.shape[0] == size else None

    def has_picture(self, row: Row) -> bool:
        """Whether the answers of the batch that begins with this row are there."""
        return self._picture(row, row.number).is_file()

    def follow(self, digests: dict[str, str]) -> None:
        """Drop the rows of methods whose answers, by digest, are not those that were measured."""
        path = self.folder / "completions.json"
        try:
            kept = dict(parse_json(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            kept = {}
        changed = {name for name, digest in digests.items() if kept.get(name) != digest}
        if not changed:
            return
        self.rows = {key: row for key, row in self.rows.items() if row.method not in changed}
        self.write(self.rows.values())
        write_text(path, json.dumps(kept | digests) + "\n")

    def _picture(self, row: Row, start: int, kind: str = "") -> Path:
        who = f"{row.method}-{row.answer}" if row.answer else row.method
        return self.folder / "answers" / _plain(row.mask) / _plain(who) / f"{start:06}{kind}.png"

    def _check(self, plan: dict[str, Any]) -> None:
        if not self._plan.exists():
            return
        try:
            begun = parse_json(self._plan.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            begun = {}
        differing = sorted(key for key in plan if begun.get(key) != plan[key])
        if differing:
            raise RunError(
                f"{self.folder}: holds an evaluation with another {', '.join(differing)}; "
                "give another --out, or remove that folder"
            )

    def _read(self) -> list[Row]:
        """Return the rows in the file; a last line that was cut off, and lines of an older layout, are left out."""
        if not self._file.exists():
            return []
        text = self._file.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]
        found = []
        for cells in csv.reader(io.StringIO(whole)):
            try:
                found.append(Row.from_cells(cells))
            except ValueError:
                continue
        return found


def _lines(rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else f"{value}"


def _plain(text: str) -> str:
    return text.replace(":", "-")
