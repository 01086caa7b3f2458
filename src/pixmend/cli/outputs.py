"""Which inputs a command line names, and under which names their results are written."""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pixmend.errors import InputError
from pixmend.images import find_images

__all__ = ["Input", "Names", "beside", "expand_inputs", "real_path"]

_LONGEST = 255  # bytes of a file's name on every file system at hand


@dataclass(frozen=True)
class Input:
    """An input file, and its name relative to what the user gave."""

    path: Path
    relative: PurePath


def expand_inputs(inputs: Sequence[str], *, but: Path) -> list[Input]:
    """Return the files that files, folders and globs name, each once, in order.

    Of a folder all images under it are taken, with their sub-folders as relative names. Folders and globs leave out what lies under
    ``but``, where the results go: a second run must not take the first one's results as inputs. With several folders their own names
    come first, so that equal names in two of them stay apart.

    Raises
    ------
    InputError
        A path that does not exist, a glob that matches nothing, or a folder without images.
    """
    roots = [path for text in inputs for path in _matches(text, but)]
    several = sum(root.is_dir() for root in roots) > 1
    found: dict[Path, Input] = {}
    for root in roots:
        if not root.is_dir():
            found.setdefault(real_path(root), Input(root, PurePath(root.name)))
            continue
        files = [path for path in find_images(root) if not _is_under(path, but)]
        if not files:
            raise InputError(
                f"{root}: no images in this folder; known kinds are png, jpg, webp, bmp, gif, tif"
            )
        for path in files:
            relative = path.relative_to(root)
            name = PurePath(real_path(root).name, relative) if several else PurePath(relative)
            found.setdefault(real_path(path), Input(path, name))
    return list(found.values())


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


def beside(path: PurePath, ending: str) -> PurePath:
    """Return ``path`` with ``ending`` after its stem, of which as much is left out as makes the name 255 bytes at most."""
    stem, room = path.stem, _LONGEST - len(os.fsencode(ending))
    while stem and len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def _matches(text: str, but: Path) -> list[Path]:
    path = Path(text)
    if path.exists():
        return [path]
    # Path.glob takes no absolute patterns.
    matched = [Path(name) for name in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
    if not matched:
        raise InputError(f"{text}: no such file or folder, and no match as a glob; check the path")
    kept = [path for path in matched if not _is_under(path, but)]
    if not kept:
        raise InputError(
            f"{text}: all matches lie in {but}, where the results go; choose another --out"
        )
    return kept


def _is_under(path: Path, folder: Path) -> bool:
    place, inside = real_path(folder), real_path(path)
    return place == inside or place in inside.parents


def real_path(path: Path) -> Path:
    """Return a path without links; unlike `Path.resolve`, that of a link to itself too."""
    return Path(os.path.realpath(path))
