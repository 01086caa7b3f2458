"""The entries of a folder, on this machine or in a store, in one order."""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pixmend.errors import InputError

_VERSION_KEYS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime", "created")


class Entry(NamedTuple):
    """A file: its name relative to the folder that was listed, its bytes, and what changes when its content does.

    The version is only ever compared for equality: it may be a time, and clocks of two machines are not to be compared.
    """

    name: str
    bytes: int
    version: str


# What is in a folder: its path relative to where the listing began, whether it is a folder, and the file.
Child: TypeAlias = tuple[str, bool, Entry | None]


def children_here(root: Path, folder: str) -> list[Child]:
    """Return what is in ``folder``, a path relative to ``root``, by name; nothing if there is none.

    Raises
    ------
    InputError
        It cannot be read.
    """
    start = f"{folder}/" if folder else ""
    try:
        with os.scandir(root / folder) as listed:
            children = (_child(item, start + item.name) for item in listed)
            found = [child for child in children if child is not None]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{root / folder}: cannot be read: {error.strerror}") from error
    return sorted(found, key=lambda child: child[0])


def _child(item: "os.DirEntry[str]", path: str) -> Child | None:
    """Return an item of a folder; None for what is no file and no folder, or is no more: others may be writing and removing there."""
    if item.is_dir(follow_symlinks=False):
        return path, True, None
    try:
        if not item.is_file():
            return None
        status = item.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return path, False, Entry(path, status.st_size, str(status.st_mtime_ns))


def children_there(infos: Iterable[Mapping[str, Any]], there: str, folder: str) -> list[Child]:
    """Return what a store tells of the path ``there``, which is ``folder`` relative to the root, as `children_here` does."""
    found: list[Child] = []
    for info in infos:
        whole = str(info["name"])
        name = whole.rstrip("/").rpartition("/")[2]
        # A folder's own mark is no file in it, nor is the file that was taken for a folder.
        if whole.strip("/") == there.strip("/") or name in ("", ".", ".."):
            continue
        path = f"{folder}/{name}" if folder else name
        if info["type"] == "directory":
            found.append((path, True, None))
        elif not whole.endswith("/"):
            found.append((path, False, entry_of(path, info)))
    return sorted(found, key=lambda child: child[0])


def entry_of(name: str, info: Mapping[str, Any]) -> Entry:
    """Return the file that a store tells of so."""
    # A tag of the content is worth more than the time of a write, which changes when equal content is written again.
    key = next((key for key in _VERSION_KEYS if info.get(key) is not None), "")
    value = info.get(key)
    text = repr(value.timestamp()) if isinstance(value, datetime) else str(value)
    return Entry(name, int(info.get("size") or 0), text.strip('"'))
