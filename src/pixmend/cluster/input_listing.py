"""The inputs of a completion, listed and named folder by folder, so that memory never holds all."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from pixmend.completion import Names, OutputNames, plan_targets
from pixmend.errors import InputError
from pixmend.images import KNOWN_KINDS, images_in
from pixmend.storage import StorePath, atomic_write

_PART = 64  # inputs of a part: a few batches, and the most that a dying worker loses
_RESULT_STEM = re.compile(r"\.(sheet|uncertainty|candidate-\d+)$")
_SHORT = 200  # bytes of a name that leave room for the endings of all results
_SUFFIXES = (".png", ".tif", ".npy")  # that an answer may need instead of its planned one


@dataclass(frozen=True)
class CompletionInput:
    """An image to complete, and the names of its results by the suffix of the answer."""

    path: StorePath
    relative: PurePath  # to the folder
    names: dict[str, OutputNames]


@dataclass(frozen=True)
class InputPlan:
    """The images of a folder, or files, and what decides the names of their results."""

    folder: StorePath | None  # with sub-folders; None if there are files
    files: Sequence[StorePath]  # their results are named after their names alone
    candidates: int
    uncertainty: bool

    def lines(self, outside: StorePath, reserved: Sequence[PurePath]) -> Iterator[str]:
        """Yield a line an input, none in ``outside``; no result takes a reserved name."""
        if self.folder is not None:
            for relatives in _folders(self.folder, outside):
                yield from self._lines(list(map(str, relatives)), relatives, reserved)
        else:
            names = [PurePath(file.name) for file in self.files]
            yield from self._lines(range(len(names)), names, reserved)

    def inputs(self, lines: bytes) -> list[CompletionInput]:
        return [self._input(*json.loads(line)) for line in lines.splitlines()]

    def _lines(
        self, keys: Sequence[int | str], relatives: Sequence[PurePath], reserved: Sequence[PurePath]
    ) -> Iterator[str]:
        folders = {name.parent for name in relatives[:1]}
        if _are_distinct(relatives) and not any(name.parent in folders for name in reserved):
            # A worker can name the results of each input by itself.
            yield from (json.dumps([key]) for key in keys)
            return
        names = Names()
        names.reserve(reserved)
        for key, plan in zip(keys, self._plan(relatives, names), strict=True):
            yield json.dumps([key, {suffix: _to_json(each) for suffix, each in plan.items()}])

    def _input(self, key: int | str, values: dict[str, Any] | None = None) -> CompletionInput:
        path = self.files[int(key)] if self.folder is None else self.folder / str(key)
        relative = PurePath(path.name if self.folder is None else str(key))
        if values is not None:
            plan = {suffix: _from_json(*value) for suffix, value in values.items()}
        else:
            (plan,) = self._plan([relative], Names())
        return CompletionInput(path, relative, plan)

    def _plan(self, relatives: Sequence[PurePath], names: Names) -> list[dict[str, OutputNames]]:
        """Return the names of each input by suffix; planned suffixes first, as in one process."""
        settle = partial(names.settle, candidates=self.candidates, uncertainty=self.uncertainty)
        targets = plan_targets(relatives, names)
        plans = [{target.suffix: settle(target, target.suffix)} for target in targets]
        for target, plan in zip(targets, plans, strict=True):
            for suffix in _SUFFIXES:
                if suffix not in plan:
                    plan[suffix] = settle(target, suffix)
        return plans


def write_inputs(
    plan: InputPlan,
    path: Path,
    *,
    outside: StorePath,
    reserved: Sequence[PurePath],
    on_tick: Callable[[], None] = lambda: None,
) -> int:
    """Write a line an input, and return their number; none is an InputError. ``on_tick`` may raise."""
    count = 0
    with atomic_write(path) as file:
        for line in plan.lines(outside, reserved):
            on_tick()
            file.write(line.encode() + b"\n")
            count += 1
    if not count:
        raise InputError(f"{plan.folder}: no images in this folder; known kinds are {KNOWN_KINDS}")
    return count


def read_parts(path: Path) -> Iterator[bytes]:
    """Yield the lines of each part, cut by the inputs alone."""
    with path.open("rb") as file:
        while lines := b"".join(islice(file, _PART)):
            yield lines


def part_count(inputs: int) -> int:
    """Return the number of parts of so many inputs."""
    return math.ceil(inputs / _PART)


def _to_json(names: OutputNames) -> list[Any]:
    uncertainty = None if names.uncertainty is None else str(names.uncertainty)
    return [list(map(str, names.answers)), str(names.sheet), uncertainty]


def _from_json(answers: list[str], sheet: str, uncertainty: str | None) -> OutputNames:
    other = None if uncertainty is None else PurePath(uncertainty)
    return OutputNames(tuple(map(PurePath, answers)), PurePath(sheet), other)


def _are_distinct(relatives: Sequence[PurePath]) -> bool:
    """Whether no results of these files of one folder can share a name."""
    stems = {name.stem.casefold() for name in relatives}
    short = all(len(os.fsencode(name.name)) <= _SHORT for name in relatives)
    return short and len(stems) == len(relatives) and not any(map(_RESULT_STEM.search, stems))


def _folders(root: StorePath, outside: StorePath) -> Iterator[list[PurePath]]:
    """Yield the images of each folder relative to ``root``, sub-folders first, but hidden ones."""
    excluded = outside.relative_to(root)
    stack: list[tuple[PurePosixPath, list[PurePath]]] = []  # each folder lies in the one before
    for name in images_in(root):
        path = PurePosixPath(name)
        if excluded in path.parents:
            continue
        while stack and stack[-1][0] not in path.parents:
            yield stack.pop()[1]
        if not stack or stack[-1][0] != path.parent:
            stack.append((path.parent, []))
        stack[-1][1].append(PurePath(path))
    while stack:
        yield stack.pop()[1]
