"""The entries of a folder, on this machine or in a store, in one order."""

import os
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pixmend.errors import InputError

_VERSION_KEYS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime", "created")


class Entry(NamedTuple):
    """A file: its name relative to the listed folder, its bytes, and its version.

    Versions are only compared for equality: they may be times of different clocks.
    """

    name: str
    bytes: int
    version: str


# (path relative to the listed folder, whether it is a folder, the file)
Child: TypeAlias = tuple[str, bool, Entry | None]


def children_here(root: Path, folder: str) -> list[Child]:
    """Return the children of ``folder``, relative to ``root``, sorted by name; none if it is missing.

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
    """Return a child, or None if it is neither file nor folder, or was removed meanwhile."""
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
    """Return the children in a store's listing of ``there``, which is ``folder`` relative to the root."""
    found: list[Child] = []
    for info in infos:
        whole = str(info["name"])
        name = whole.rstrip("/").rpartition("/")[2]
        # Skip a folder's marker object, and a file listed as a folder.
        if whole.strip("/") == there.strip("/") or name in ("", ".", ".."):
            continue
        path = f"{folder}/{name}" if folder else name
        if info["type"] == "directory":
            found.append((path, True, None))
        elif not whole.endswith("/"):
            found.append((path, False, entry_of(path, info)))
    return sorted(found, key=lambda child: child[0])


def entry_of(name: str, info: Mapping[str, Any]) -> Entry:
    """Return the entry of a store's file information."""
    # A content tag comes first: a modification time changes when equal content is written again.
    key = next((key for key in _VERSION_KEYS if info.get(key) is not None), "")
    value = info.get(key)
    text = repr(value.timestamp()) if isinstance(value, datetime) else str(value)
    return Entry(name, int(info.get("size") or 0), text.strip('"'))
