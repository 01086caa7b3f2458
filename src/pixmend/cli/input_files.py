"""Input files that files, folders, globs and URLs on a command line name."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pixmend.errors import InputError, SettingsError
from pixmend.images import KNOWN_KINDS, images_in
from pixmend.storage import StorePath


@dataclass(frozen=True)
class InputFile:
    """An input file, and its name relative to the argument that named it."""

    path: StorePath
    relative: PurePath


def expand_inputs(inputs: Sequence[str], *, out: StorePath) -> list[InputFile]:
    """Return the input files, each once, in order.

    A folder stands for all images below it. Folders and globs skip files in ``out``, so that a
    second run does not complete the results of the first. With several folders, names start with
    the folder's own name, so that equal names stay distinct. InputError for a path that does not
    exist, a glob without a match, or a folder without images.
    """
    roots = [path for text in inputs for path in _matches(text, out)]
    folders = [root for root in roots if root.is_folder()]
    files: dict[StorePath, InputFile] = {}
    for root in roots:
        if root not in folders:
            files.setdefault(_identity(root), InputFile(root, PurePath(root.name)))
            continue
        images = list(_images_in(root, out))
        if not images:
            reason = f"known kinds are {KNOWN_KINDS}"
            if root == out or _is_under(root, out):
                reason = "those in --out count as results; choose another --out"
            raise InputError(f"{root}: no images in this folder; {reason}")
        for path, relative in images:
            name = PurePath(_identity(root).name, relative) if len(folders) > 1 else relative
            files.setdefault(_identity(path), InputFile(path, name))
    return list(files.values())


def folder_or_files(inputs: Sequence[str], *, out: StorePath) -> StorePath | list[StorePath]:
    """Return the inputs of a cluster: one folder, or the files of `expand_inputs`.

    SettingsError for a folder among several inputs.
    """
    paths = [StorePath.of(text) for text in inputs]
    if len(paths) == 1 and paths[0].is_folder():
        return paths[0]
    if any(path.is_folder() for path in paths):
        raise SettingsError("--cluster: give one folder, or image files, as input")
    return [file.path for file in expand_inputs(inputs, out=out)]


def real_path(path: Path) -> Path:
    """Return ``path`` without links; unlike `Path.resolve`, it accepts a link to itself."""
    return Path(os.path.realpath(path))


def _identity(path: StorePath) -> StorePath:
    """Return the same path for all names of one file."""
    return path if path.local is None else StorePath(real_path(path.local))


def _images_in(folder: StorePath, out: StorePath) -> Iterator[tuple[StorePath, PurePath]]:
    names = map(PurePath, images_in(folder))
    return ((folder / name, name) for name in names if not _is_under(folder / name, out))


def _matches(text: str, out: StorePath) -> list[StorePath]:
    path = StorePath.of(text)
    if path.local is None:
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; check the URL (globs are local)")
        return [path]
    if path.exists():
        return [path]
    names = sorted(glob.glob(str(path), recursive=True))  # noqa: PTH207 - takes absolute patterns
    matches = [StorePath(Path(name)) for name in names]
    if not matches:
        raise InputError(f"{text}: no such file or folder, and no match as a glob; check the path")
    inputs = [match for match in matches if not _is_under(match, out)]
    if not inputs:
        raise InputError(f"{text}: all matches are results in {out}; choose another --out")
    return inputs


def _is_under(path: StorePath, folder: StorePath) -> bool:
    if path.local is None or folder.local is None:
        return f"{path}".startswith(f"{folder}/")
    return real_path(path.local).is_relative_to(real_path(folder.local))
