"""The files of completions: their names, each unique, and their contents."""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from pixmend.completion.result import Completion
from pixmend.images import encode_png, image_bytes, lossless_suffix
from pixmend.storage import StorePath

_LONGEST = 255  # bytes of a file's name on common file systems


@dataclass(frozen=True)
class OutputNames:
    """The files of one completion, relative to the output folder."""

    answers: tuple[PurePath, ...]  # best first
    sheet: PurePath  # the contact sheet
    uncertainty: PurePath | None = None  # its picture, beside an array of the same stem

    def files(self) -> list[PurePath]:
        maps = self.uncertainty
        return [
            *self.answers,
            self.sheet,
            *([] if maps is None else [maps, maps.with_suffix(".npy")]),
        ]


class Names:
    """Hands out unique output names, compared without case."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def reserve(self, names: Iterable[PurePath]) -> None:
        self._taken |= {str(name).casefold() for name in names}

    def free(self, wanted: PurePath, fallback: PurePath) -> PurePath:
        """Return ``wanted``, else ``fallback``, else that with a number: the first free name, cut to 255 bytes."""
        name, number = beside(wanted, wanted.suffix), 1
        while str(name).casefold() in self._taken:
            more = "" if number == 1 else f"-{number}"
            name, number = beside(fallback, more + fallback.suffix), number + 1
        self._taken.add(str(name).casefold())
        return name

    def settle(
        self, target: PurePath, suffix: str, *, candidates: int, uncertainty: bool
    ) -> OutputNames:
        """Return the names of a completion planned as ``target`` and saved with ``suffix``."""
        if suffix != target.suffix:
            target = self.free(target.with_suffix(suffix), target.with_name(target.name + suffix))
        others = [
            self._beside(target, f".candidate-{number}{suffix}")
            for number in range(2, candidates + 1)
        ]
        sheet = self._beside(target, ".sheet.png")
        maps = self._beside(target, ".uncertainty.png") if uncertainty else None
        return OutputNames((target, *others), sheet, maps)

    def _beside(self, target: PurePath, ending: str) -> PurePath:
        return self.free(beside(target, ending), beside(target, target.suffix + ending))


class Completions(list[Completion]):
    """The completions of several images, in their order."""

    def save(self, folder: str | Path) -> None:
        """Write each completion and its contact sheet, named as its image or by its number."""
        out, names = StorePath.of(folder), Names()
        paths = [result.original.path for result in self]
        names.reserve(conflicting_outputs(out, [StorePath.of(path) for path in paths if path]))
        files = [PurePath(path.name if path else f"{n}.png") for n, path in enumerate(paths, 1)]
        for result, target in zip(self, plan_targets(files, names), strict=True):
            suffix = lossless_suffix(target.suffix, result.original.mode)
            count = len(result.candidates)
            write_completion(
                result, out, names.settle(target, suffix, candidates=count, uncertainty=False)
            )


def beside(path: PurePath, ending: str) -> PurePath:
    """Return ``path`` with ``ending`` after its stem, which is cut so that the name has at most 255 bytes."""
    stem, room = path.stem, _LONGEST - len(os.fsencode(ending))
    while stem and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def plan_targets(relatives: Sequence[PurePath], names: Names) -> list[PurePath]:
    """Return the output name of each input; inputs that keep their suffix have precedence."""
    wanted = [name.with_suffix(lossless_suffix(name.suffix, "RGB")) for name in relatives]
    changed = [new.suffix != name.suffix for name, new in zip(relatives, wanted, strict=True)]
    targets: dict[int, PurePath] = {}
    for number in sorted(range(len(relatives)), key=changed.__getitem__):
        name = relatives[number]
        fallback = name.with_name(name.name + wanted[number].suffix)
        targets[number] = names.free(wanted[number], fallback)
    return [targets[number] for number in range(len(relatives))]


def conflicting_outputs(out: StorePath, given: Sequence[StorePath]) -> list[PurePath]:
    """Return the input files that lie in ``out``, relative to it: no result may replace them."""
    # The folder is resolved, not the file: a link's own name is what a result would replace.
    inside = [place.parent.relative_to(out) for place in given]
    return [
        PurePath(folder / place.name)
        for folder, place in zip(inside, given, strict=True)
        if folder is not None and place.is_file()
    ]


def write_completion(
    result: Completion, out: StorePath, names: OutputNames
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write the files of a completion, each atomically; OutputError if one cannot be written.

    Return `Completion.record` with the names, as JSON values, and each file's SHA-256 by name.
    """
    contents = {
        path: image_bytes(candidate.picture, path.suffix)
        for candidate, path in zip(result.candidates, names.answers, strict=False)
    }
    contents[names.sheet] = encode_png(result.sheet_pixels())
    facts = {**result.record(), "output": str(names.answers[0]), "sheet": str(names.sheet)}
    if names.uncertainty is not None:
        contents[names.uncertainty] = encode_png(result.uncertainty_pixels())
        array = io.BytesIO()
        np.save(array, result.uncertainty, allow_pickle=False)
        contents[names.uncertainty.with_suffix(".npy")] = array.getvalue()
        facts["uncertainty_map"] = str(names.uncertainty)
    for path, content in contents.items():
        (out / path).write_bytes(content)
    return facts, {str(path): hashlib.sha256(each).hexdigest() for path, each in contents.items()}
