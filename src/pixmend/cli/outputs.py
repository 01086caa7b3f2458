"""Which inputs a command line names."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pixmend.errors import InputError
from pixmend.images import find_images

__all__ = ["Input", "expand_inputs"]


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
            found.setdefault(root.resolve(), Input(root, PurePath(root.name)))
            continue
        files = [path for path in find_images(root) if not _is_under(path, but)]
        if not files:
            raise InputError(
                f"{root}: no images in this folder; known kinds are png, jpg, webp, bmp, gif, tif"
            )
        for path in files:
            relative = path.relative_to(root)
            name = PurePath(root.resolve().name, relative) if several else PurePath(relative)
            found.setdefault(path.resolve(), Input(path, name))
    return list(found.values())


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
    place, inside = folder.resolve(), path.resolve()
    return place == inside or place in inside.parents
