"""The files and folders in a folder of this machine or of a store."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pixmend.errors import InputError

# A content tag comes first: a modification time changes when equal content is written again.
_VERSION_KEYS = ("ETag", "etag", "generation", "md5Hash", "LastModified", "mtime", "created")


class FileInfo(NamedTuple):
    """A file: its name relative to the listed folder, its size, and its version.

    Versions are only compared for equality: they may be times of different clocks.
    """

    name: str
    bytes: int
    version: str


# The path relative to the listed folder, and the file; None for a folder.
Child: TypeAlias = tuple[str, FileInfo | None]


def local_children(root: Path, folder: str) -> Iterator[Child]:
    """Yield the children of ``folder``, relative to ``root``; none if it is missing."""
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # just removed
                    if entry.is_dir(follow_symlinks=False):
                        yield path, None
                    elif entry.is_file():
                        status = entry.stat()
                        yield path, FileInfo(path, status.st_size, str(status.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f"{root / folder}: cannot be read: {error.strerror}") from error


def store_children(
    listing: Iterable[Mapping[str, Any]], target: str, folder: str
) -> Iterator[Child]:
    """Yield the children in a store's listing of ``target``, which is ``folder`` below the root."""
    for status in listing:
        full = str(status["name"])
        name = full.rstrip("/").rpartition("/")[2]
        # Skip a folder's marker object, and a file listed as a folder.
        if full.strip("/") == target.strip("/") or name in ("", ".", ".."):
            continue
        path = f"{folder}/{name}" if folder else name
        if status["type"] == "directory":
            yield path, None
        elif not full.endswith("/"):
            yield path, file_info(path, status)


def file_info(name: str, status: Mapping[str, Any]) -> FileInfo:
    """Return the info of a file from its status in fsspec's terms."""
    version = next((status[key] for key in _VERSION_KEYS if status.get(key) is not None), None)
    text = repr(version.timestamp()) if isinstance(version, datetime) else str(version)
    return FileInfo(name, int(status.get("size") or 0), text.strip('"'))
