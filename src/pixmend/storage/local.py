"""Atomic writes, locks, hashes and JSON of local files.

A reader sees the old content or the new one, at every moment and after a crash.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from pixmend.errors import OutputError


@contextlib.contextmanager
def atomic_write(
    path: Path, *, verify: Callable[[Path], object] | None = None
) -> Iterator[IO[bytes]]:
    """Open a file that replaces ``path`` when the block succeeds, and is discarded otherwise.

    The content goes to a temporary file in the same folder, is flushed to the disk, checked by ``verify`` if
    given (which raises when the file is not good), renamed over ``path``, and the folder is flushed too.

    Raises
    ------
    OutputError
        The folder cannot be written or the disk is full; ``path`` is as it was before.
    """
    temporary: Path | None = None
    try:
        make_folder(path.parent)
        # 40 characters are at most 160 bytes, which fits the limit of 255 bytes a name.
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent
        )
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            # mkstemp makes private files; a result should be as readable as any other file.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            yield file
            file.flush()
            os.fsync(file.fileno())
        if verify is not None:
            verify(temporary)
        temporary.replace(path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {reason_of(error)}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8; surrogates of undecodable file names are escaped."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def append_line(path: Path, line: str) -> None:
    """Append ``line`` and a newline to ``path`` in one write, so that a crash leaves at most one partial last line.

    Raises
    ------
    OutputError
        The disk is full or not writable; ``path`` is as long as it was before.
    """
    content, done = line.encode(errors="backslashreplace") + b"\n", 0
    try:
        with path.open("ab", buffering=0) as file:
            before = file.tell()
            try:
                while done < len(content):  # a disk that fills up accepts a part first
                    done += file.write(content[done:])
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(before)
                raise
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {reason_of(error)}") from error


def make_folder(path: Path) -> None:
    """Make ``path`` and its parents.

    Raises
    ------
    OutputError
        It cannot be made, or a file stands in the way.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made: {reason_of(error)}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `atomic_write` that a killed process left; needs the folder's lock."""
    for path in folder.glob(".*.????????.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def shared(folder: Path, parts: Iterable[Path]) -> Iterator[None]:
    """Hold a shared lock of ``folder``; its first holder removes leftovers of killed processes in ``parts``.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    make_folder(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # other holders exist, or the file system has no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in parts:
                remove_leftovers(part)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason_of(error: OSError) -> str:
    """Describe a write error and its remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; choose another folder"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where a folder is needed; choose another folder"
    return error.strerror or str(error)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON that may be damaged.

    Raises
    ------
    ValueError
        It is not JSON, not UTF-8, or nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
