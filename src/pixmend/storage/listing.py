"""The files and folders in a folder, on this machine or in a store."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pixmend.errors import InputError

# A content tag comes first: a modification time changes when equal content is written again.
_CONTENT_KEYS = ("ETag", "etag", "generation", "md5Hash", "blob_id")
_VERSION_KEYS = (*_CONTENT_KEYS, "LastModified", "mtime", "created")


class FileInfo(NamedTuple):
    """A file in a folder."""

    name: str  # relative to the listed folder
    bytes: int
    version: str  # only compared for equality: it may be a time of any clock; "" of no file


Child: TypeAlias = tuple[str, FileInfo | None]  # a relative path, and None for a folder


def local_children(root: Path, folder: str) -> Iterator[Child]:
    """Yield the children of ``folder``, relative to ``root``; none if it is missing."""
    try:
        with os.scandir(root / folder) as entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                try:
                    if entry.is_dir(follow_symlinks=False):
                        yield path, None
                    elif entry.is_file():
                        status = entry.stat()
                        yield path, FileInfo(path, status.st_size, str(status.st_mtime_ns))
                    elif not entry.is_dir():
                        yield path, FileInfo(path, 0, "")
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTDIR):  # just removed
                        yield path, FileInfo(path, 0, "")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if not folder:
            raise InputError(f"{root}: cannot be read: {error.strerror}") from error
        yield f"{folder}/", FileInfo(f"{folder}/", 0, "")


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
