"""The files of a completion: under which names, none given twice, and what is in them."""

import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath
from typing import Any

import numpy as np

from pixmend.completion.result import Completion
from pixmend.images import encode_png, image_bytes, lossless_suffix
from pixmend.storage import StorePath

_LONGEST = 255  # bytes of a file's name on every file system at hand


@dataclass(frozen=True)
class OutputNames:
    """Where the files of one completion go, relative to the folder of results.

    Attributes
    ----------
    answers
        Best first.
    sheet
        The contact sheet.
    uncertainty
        The picture of it, beside which goes the array of the same stem; None where there is none.
    """

    answers: tuple[PurePath, ...]
    sheet: PurePath
    uncertainty: PurePath | None = None

    def files(self) -> list[PurePath]:
        """Return all of them."""
        doubt = self.uncertainty
        return [
            *self.answers,
            self.sheet,
            *([] if doubt is None else [doubt, doubt.with_suffix(".npy")]),
        ]


class Names:
    """Hands out output names, none twice, whatever the file system thinks of capitals."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def reserve(self, names: Iterable[PurePath]) -> None:
        """Keep names for inputs whose names need not change."""
        self._taken |= {str(name).casefold() for name in names}

    def free(self, wanted: PurePath, instead: PurePath) -> PurePath:
        """Return ``wanted``, or ``instead``, or that with a number: the first not taken, shortened where no file may be called that."""
        name, number = beside(wanted, wanted.suffix), 1
        while str(name).casefold() in self._taken:
            more = "" if number == 1 else f"-{number}"
            name, number = beside(instead, more + instead.suffix), number + 1
        self._taken.add(str(name).casefold())
        return name

    def settle(
        self, target: PurePath, suffix: str, *, candidates: int, uncertainty: bool
    ) -> OutputNames:
        """Return the names of a completion planned as ``target``, whose picture is to be saved under ``suffix``."""
        if suffix != target.suffix:
            target = self.free(target.with_suffix(suffix), target.with_name(target.name + suffix))
        others = [
            self._beside(target, f".candidate-{number}{suffix}")
            for number in range(2, candidates + 1)
        ]
        sheet = self._beside(target, ".sheet.png")
        doubt = self._beside(target, ".uncertainty.png") if uncertainty else None
        return OutputNames((target, *others), sheet, doubt)

    def _beside(self, target: PurePath, ending: str) -> PurePath:
        return self.free(beside(target, ending), beside(target, target.suffix + ending))


def beside(path: PurePath, ending: str) -> PurePath:
    """Return ``path`` with ``ending`` after its stem, of which as much is left out as makes the name 255 bytes at most."""
    stem, room = path.stem, _LONGEST - len(os.fsencode(ending))
    while stem and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def plan_targets(relatives: Sequence[PurePath], names: Names) -> list[PurePath]:
    """Return the output name of each input as if it kept its suffix; those that do keep it come first."""
    wanted = [name.with_suffix(lossless_suffix(name.suffix, "RGB")) for name in relatives]
    kept = [place for place, name in enumerate(relatives) if wanted[place].suffix == name.suffix]
    changed = [place for place, name in enumerate(relatives) if wanted[place].suffix != name.suffix]
    targets: dict[int, PurePath] = {}
    for place in [*kept, *changed]:
        instead = relatives[place].with_name(relatives[place].name + wanted[place].suffix)
        targets[place] = names.free(wanted[place], instead)
    return [targets[place] for place in range(len(relatives))]


def conflicting_outputs(out: StorePath, given: Sequence[StorePath]) -> list[PurePath]:
    """Return the files that a user handed over and that lie in ``out``, relative to it: no result may take their place."""
    # The folder is resolved, not the file: a link's own name is what a result would replace.
    inside = [relative_to(place.parent, out) for place in given]
    return [
        PurePath(folder / place.name)
        for folder, place in zip(inside, given, strict=True)
        if folder is not None and place.is_file()
    ]


def relative_to(place: StorePath, root: StorePath) -> PurePosixPath | None:
    """Return where a folder lies in another one, or None."""
    if place.local is not None and root.local is not None:
        inside, around = place.local.resolve(), root.local.resolve()
        return PurePosixPath(inside.relative_to(around)) if inside.is_relative_to(around) else None
    there, here = PurePosixPath(str(place)), PurePosixPath(str(root))
    return there.relative_to(here) if there.is_relative_to(here) else None


def write_completion(
    result: Completion, out: StorePath, names: OutputNames
) -> tuple[dict[str, Any], dict[str, str]]:
    """Write all there is of a completion, each file whole or not at all.

    Returns
    -------
    facts, files
        What is known of it, as JSON values; and the SHA-256 of each file by its name.

    Raises
    ------
    OutputError
        A file cannot be written.
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
