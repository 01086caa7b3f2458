"""What a cluster is to complete: a folder's images, listed and named folder by folder, so that a driver never holds all."""

import json
import os
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath
from typing import TypedDict

from pixmend.completion import Names, OutputNames, plan_targets, relative_to
from pixmend.errors import InputError
from pixmend.images import EXTENSIONS
from pixmend.storage import StorePath, atomic_write

_PART = 64  # inputs of a part: a few batches, and what a worker that dies loses at most
# Names that a result of another input could have.
_LIKE_A_RESULT = re.compile(r"\.(sheet|uncertainty|candidate-\d+)$")
# Bytes of a name that leaves room for the endings of all that is written beside an answer: its stem is never shortened.
_SHORT = 200
_SUFFIXES = (
    ".png",
    ".tif",
)  # that an answer may need instead of its planned one, by the picture's mode


@dataclass(frozen=True)
class Input:
    """An image to complete, and the names of its results by the suffix of the answer."""

    place: StorePath
    names: dict[str, OutputNames]


@dataclass(frozen=True)
class Inputs:
    """A folder, or files; and what decides the names of results besides theirs.

    Attributes
    ----------
    folder
        Whose images are completed, sub-folders included; None where there are files.
    files
        Image files, whose results go by their names alone.
    """

    folder: StorePath | None
    files: Sequence[StorePath]
    candidates: int
    uncertainty: bool

    def lines(self, outside: StorePath, reserved: Sequence[PurePath]) -> Iterator[str]:
        """Yield a line for each input in order; ``outside`` is a folder to stay out of, ``reserved`` names to leave free."""
        if self.folder is None:
            pairs = [(str(number), PurePath(file.name)) for number, file in enumerate(self.files)]
            yield from self._named(pairs, reserved)
            return
        for relatives in _folders(self.folder, outside):
            yield from self._named([(str(each), each) for each in relatives], reserved)

    def inputs(self, lines: bytes) -> list[Input]:
        """Return what lines stand for."""
        return [self._input(line) for line in lines.splitlines()]

    def _named(
        self, pairs: Sequence[tuple[str, PurePath]], reserved: Sequence[PurePath]
    ) -> Iterator[str]:
        relatives = [relative for _, relative in pairs]
        here = {relatives[0].parent} if relatives else set()
        if _all_differ(relatives) and not any(name.parent in here for name in reserved):
            for key, relative in pairs:
                yield json.dumps([key, str(relative)])
            return
        names = Names()
        names.reserve(reserved)
        for (key, relative), planned in zip(pairs, self._plan(relatives, names), strict=True):
            told = {suffix: [str(name) for name in _told(each)] for suffix, each in planned.items()}
            yield json.dumps([key, str(relative), told])

    def _input(self, line: bytes) -> Input:
        key, relative, *told = json.loads(line)
        place = self.files[int(key)] if self.folder is None else self.folder / key
        if told:
            return Input(place, {suffix: self._from(names) for suffix, names in told[0].items()})
        (planned,) = self._plan([PurePath(relative)], Names())
        return Input(place, planned)

    def _plan(self, relatives: Sequence[PurePath], names: Names) -> list[dict[str, OutputNames]]:
        """Return all names of each input by suffix: those that are planned first, as one process gives them out."""
        targets = plan_targets(relatives, names)
        planned = [
            {target.suffix: names.settle(target, target.suffix, **self._kinds)}
            for target in targets
        ]
        for target, each in zip(targets, planned, strict=True):
            for suffix in _SUFFIXES:
                if suffix not in each:
                    each[suffix] = names.settle(target, suffix, **self._kinds)
        return planned

    @property
    def _kinds(self) -> "_Kinds":
        return {"candidates": self.candidates, "uncertainty": self.uncertainty}

    def _from(self, told: Sequence[str]) -> OutputNames:
        paths = [PurePath(name) for name in told]
        doubt = paths.pop() if self.uncertainty else None
        return OutputNames(tuple(paths[:-1]), paths[-1], doubt)


@dataclass(frozen=True)
class Listing:
    """The lines of all inputs in a file, and where each part begins.

    Attributes
    ----------
    count
        Inputs.
    starts
        [parts + 1] bytes.
    """

    path: Path
    count: int
    starts: Sequence[int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def parts(self) -> Iterator[bytes]:
        """Yield the lines of each part."""
        with self.path.open("rb") as file:
            for start, stop in zip(self.starts, self.starts[1:], strict=False):
                file.seek(start)
                yield file.read(stop - start)


def write_listing(
    inputs: Inputs,
    path: Path,
    *,
    outside: StorePath,
    reserved: Sequence[PurePath],
    look: Callable[[], None] = lambda: None,
) -> Listing:
    """Write the lines of ``inputs`` to ``path``, cut into parts that hang on nothing but the inputs.

    ``look`` is called at each input, and may raise to stop.

    Raises
    ------
    InputError
        There are none.
    """
    starts: array[int] = array("Q", [0])
    count = size = 0
    with atomic_write(path) as file:
        for line in inputs.lines(outside, reserved):
            look()
            if count and count % _PART == 0:
                starts.append(size)
            size += file.write(line.encode() + b"\n")
            count += 1
    starts.append(size)
    if not count:
        kinds = ", ".join(sorted(suffix[1:] for suffix in EXTENSIONS))
        raise InputError(f"{inputs.folder}: no images in this folder; known kinds are {kinds}")
    return Listing(path, count, starts)


class _Kinds(TypedDict):
    candidates: int
    uncertainty: bool


def _told(names: OutputNames) -> list[PurePath]:
    return [
        *names.answers,
        names.sheet,
        *([] if names.uncertainty is None else [names.uncertainty]),
    ]


def _all_differ(relatives: Sequence[PurePath]) -> bool:
    """Whether the results of these files of one folder cannot meet in a name, so that each can be named by itself."""
    stems = {name.stem.casefold() for name in relatives}
    short = all(len(os.fsencode(name.name)) <= _SHORT for name in relatives)
    return short and len(stems) == len(relatives) and not any(map(_LIKE_A_RESULT.search, stems))


def _folders(root: StorePath, outside: StorePath) -> Iterator[list[PurePath]]:
    """Yield the images of each folder in order of name, relative to ``root``: of a folder when those in it are done.

    Hidden entries are left out. No more is held than the names of a folder and of those that it is in.
    """
    left_out = relative_to(outside, root)
    open_: list[tuple[PurePosixPath, list[PurePath]]] = []  # each in the one before
    for entry in root.files():
        path = PurePosixPath(entry.name)
        hidden = any(part.startswith(".") for part in path.parts)
        if hidden or path.suffix.lower() not in EXTENSIONS or left_out in path.parents:
            continue
        while open_ and open_[-1][0] not in path.parents:
            yield open_.pop()[1]
        if not open_ or open_[-1][0] != path.parent:
            open_.append((path.parent, []))
        open_[-1][1].append(PurePath(path))
    while open_:
        yield open_.pop()[1]
