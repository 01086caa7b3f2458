"""The results folder: results.csv with a row per image, mask and method, and the answers as PNGs.

A row is written after its answer, so every row has one. A killed process loses at most a batch.
"""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pydantic import TypeAdapter

from pixmend.errors import InputError, RunError
from pixmend.evaluation.baselines import Images
from pixmend.images import encode_png, open_image
from pixmend.storage import (
    StorePath,
    append_line,
    make_folder,
    remove_leftovers,
    write_bytes,
    write_text,
)

# How a text begins that a spreadsheet would compute, or that looks escaped against that.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")

Key: TypeAlias = tuple[int, str, str, str, str]  # number, digest, mask, method, answer


@dataclass(frozen=True)
class ResultRow:
    """One method's answer to one image with one mask; only the last two columns vary by run."""

    number: int  # the image's position in the random draw
    image: str  # its name
    group: str
    digest: str  # of its pixels, then of an external method's answers
    mask: str  # SPEC
    missing: float  # share of pixels
    method: str
    answer: str  # sharp or average, "" without the model
    psnr: float  # of the hole, dB
    ssim: float
    l1: float  # grey levels
    whole_psnr: float  # of the whole image
    whole_ssim: float
    whole_l1: float
    boundary: float  # metrics.boundary_step of the answer
    boundary_original: float
    predicted_error: float | None  # RMSE of the hole, from the uncertainty, grey levels
    observed_error: float
    confidence: float | None  # predicted share of correct pixels
    correct: float  # observed share
    best_of: float  # hole PSNR of the best candidate
    diversity: float  # of the candidates, grey levels
    covered: float  # 1 if the original may be one of the candidates
    class_correct: float | None  # 1 if the classifier predicts the image's class
    warnings: str  # separated by "; "
    peak_mib: float | None  # peak memory during the batch, None if unknown
    seconds: float | None  # share of the batch's wall time

    @property
    def key(self) -> Key:
        return self.number, self.digest, self.mask, self.method, self.answer

    @property
    def label(self) -> str:
        return f"{self.method}, {self.answer}" if self.answer else self.method

    def cells(self) -> list[str]:
        """Return the row as text: floats with six digits, None as "", no text that is a formula."""
        return [
            "" if value is None
            else f"{value:.6g}" if isinstance(value, float)
            else f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA)
            else f"{value}"
            for value in asdict(self).values()
        ]  # fmt: skip

    @classmethod
    def from_cells(cls, cells: Sequence[str]) -> "ResultRow":
        """Parse the text of `cells`; ValueError if the row is incomplete."""
        values = {
            name: None if text == "" and name in _OPTIONAL else text.removeprefix("'")
            for name, text in zip(COLUMNS, cells, strict=True)
        }
        return _ADAPTER.validate_python(values)


COLUMNS = [field.name for field in fields(ResultRow)]
_OPTIONAL = [field.name for field in fields(ResultRow) if field.type == float | None]
_ADAPTER = TypeAdapter(ResultRow)


@dataclass(frozen=True, eq=False)
class BatchResult:
    """The rows of a batch, its answers uint8 [B, S, S, C], and their uncertainty [B, S, S, 1]."""

    rows: list[ResultRow]
    answers: Images
    uncertainty: Images | None


class ResultStore:
    """The folder of an evaluation; opening it reads the results of earlier calls.

    ``plan`` has the JSON values on which all rows depend, among them ``batch``, the images per
    batch. RunError if the folder holds an evaluation with another plan.
    """

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder, self._batch = folder, plan["batch"]
        self._results = folder / "results.csv"
        path = StorePath(folder / "plan.json")
        earlier = _read_object(path) if path.exists() else plan
        differing = sorted(key for key in plan if earlier.get(key) != plan[key])
        if differing:
            raise RunError(
                f"{folder}: holds an evaluation with another {', '.join(differing)}; "
                "give another --out, or remove that folder"
            )
        make_folder(folder)
        for part in (folder, *folder.glob("answers/*/*")):
            remove_leftovers(part)
        self._cache = _read_object(StorePath(folder / "cache.json"))
        results = StorePath(self._results)
        text = results.read_text() if results.exists() else ""
        self.rows: dict[Key, ResultRow] = {}
        for cells in csv.reader(io.StringIO(text[: text.rfind("\n") + 1])):  # no truncated line
            with contextlib.suppress(ValueError):  # a row of another version
                row = ResultRow.from_cells(cells)
                self.rows[row.key] = row
        write_text(folder / "plan.json", json.dumps(plan, indent=1) + "\n")
        self.write(self.rows.values())

    def write(self, rows: Iterable[ResultRow]) -> None:
        write_text(self._results, _csv([COLUMNS, *(row.cells() for row in rows)]))

    def add(self, batch: BatchResult) -> None:
        """Write a batch: the answers as one PNG, the uncertainty as another, then the rows."""
        for images, kind in ((batch.answers, ""), (batch.uncertainty, ".uncertainty")):
            if images is not None:
                column = images.reshape(-1, *images.shape[2:])
                write_bytes(self._path(batch.rows[0].key, kind), encode_png(column, quick=True))
        # Through text, so that rows are the same whether or not they were read from the file.
        rows = [ResultRow.from_cells(row.cells()) for row in batch.rows]
        append_line(self._results, _csv(row.cells() for row in rows).rstrip("\n"))
        self.rows |= {row.key: row for row in rows}

    def has(self, keys: Sequence[Key]) -> bool:
        return all(key in self.rows for key in keys) and StorePath(self._path(keys[0])).is_file()

    def read_answer(self, key: Key, kind: str = "") -> Images | None:
        """Return a row's answer, uint8 [S, S, C], or twice its uncertainty; None if the file is damaged."""
        try:
            column = open_image(self._path(key, kind)).pixels
        except InputError:
            return None
        size, position = column.shape[1], key[0] % self._batch
        answer = column[position * size : (position + 1) * size].astype(np.uint8)
        return answer if len(answer) == size else None

    def cached(self, name: str, compute: Callable[[], Any]) -> Any:  # noqa: ANN401 - JSON
        """Return a JSON value from cache.json, or compute and store it."""
        if name not in self._cache:
            self._cache[name] = compute()
            write_text(self.folder / "cache.json", json.dumps(self._cache) + "\n")
        return self._cache[name]

    def _path(self, key: Key, kind: str = "") -> Path:
        """Return the file of the batch that has this row."""
        number, _, mask, method, answer = key
        start = number - number % self._batch
        method = f"{method}-{answer}" if answer else method
        place = f"{mask}/{method}/{start:06}{kind}.png".replace(":", "-")
        return self.folder / "answers" / place


def _read_object(path: StorePath) -> dict[str, Any]:
    """Return a JSON object; {} from a damaged or missing file."""
    try:
        return dict(path.read_json())
    except (InputError, ValueError, TypeError):
        return {}


def _csv(rows: Iterable[Sequence[str]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
