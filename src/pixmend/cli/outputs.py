"""Which inputs a command line names."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pixmend.errors import InputError
from pixmend.images import find_images, images_in
from pixmend.storage import StorePath


@dataclass(frozen=True)
class Input:
    """An input file, here or in a store, and its name relative to what the user gave."""

    path: Path | StorePath
    relative: PurePath


def expand_inputs(inputs: Sequence[str], *, but: StorePath | Path) -> list[Input]:
    """Return the files that files, folders, globs and URLs name, each once, in order.

    Of a folder all images under it are taken, with their sub-folders as relative names. Folders and globs leave out what lies under
    ``but``, where the results go: a second run must not take the first one's results as inputs. With several folders their own names
    come first, so that equal names in two of them stay apart.

    Raises
    ------
    InputError
        A path that does not exist, a glob that matches nothing, or a folder without images.
    """
    out = StorePath.of(but)
    roots = [path for text in inputs for path in _matches(text, out)]
    folders = [_is_folder(root) for root in roots]
    found: dict[Path | StorePath, Input] = {}
    for root, is_folder in zip(roots, folders, strict=True):
        if not is_folder:
            found.setdefault(_key(root), Input(root, PurePath(root.name)))
            continue
        files = list(_files_in(root, out))
        if not files:
            raise InputError(
                f"{root}: no images in this folder; known kinds are png, jpg, webp, bmp, gif, tif"
            )
        for path, relative in files:
            name = PurePath(_key(root).name, relative) if sum(folders) > 1 else relative
            found.setdefault(_key(path), Input(path, name))
    return list(found.values())


def _is_folder(path: Path | StorePath) -> bool:
    return path.is_folder() if isinstance(path, StorePath) else path.is_dir()


def _key(path: Path | StorePath) -> Path | StorePath:
    """Return what two names of one file have in common."""
    return path if isinstance(path, StorePath) else real_path(path)


def _files_in(
    root: Path | StorePath, but: StorePath
) -> Iterator[tuple[Path | StorePath, PurePath]]:
    if isinstance(root, StorePath):
        for name in images_in(root):
            if not f"{root / name}".startswith(f"{but}/"):
                yield root / name, PurePath(name)
        return
    for path in find_images(root):
        if not _is_under(path, but):
            yield path, path.relative_to(root)


def _matches(text: str, but: StorePath) -> list[Path] | list[StorePath]:
    place = StorePath.of(text)
    if place.local is None:
        if not place.exists():
            raise InputError(f"{place}: no such file or folder; check the URL (it is no pattern)")
        return [place]
    path = place.local
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


def _is_under(path: Path, folder: StorePath) -> bool:
    if folder.local is None:
        return False
    place, inside = real_path(folder.local), real_path(path)
    return place == inside or place in inside.parents


def real_path(path: Path) -> Path:
    """Return a path without links; unlike `Path.resolve`, that of a link to itself too."""
    return Path(os.path.realpath(path))
