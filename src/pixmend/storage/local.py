"""Atomic writes, locks, hashes and JSON of local files.

At every moment, and after a crash, a reader sees either the old content or the new one. Whatever
writes raises `OutputError` where a path is not writable or the disk is full, and changes nothing.
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

    The content goes to a temporary file in the same folder and is flushed to the disk. ``verify``
    may raise to reject it. Then the file is renamed to ``path`` and the folder is flushed too.
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
        with _opened_folder(path.parent) as folder:
            os.fsync(folder)
    except OSError as error:
        raise write_failure(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` atomically."""
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """Write ``content`` to ``path`` atomically, as UTF-8; lone surrogates are escaped."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def append_line(path: Path, line: str) -> None:
    """Append ``line`` and a newline; a crash leaves at most one partial last line."""
    content, written = line.encode(errors="backslashreplace") + b"\n", 0
    try:
        with path.open("ab", buffering=0) as file:
            length = file.tell()
            try:
                while written < len(content):  # a disk that fills up accepts a part first
                    written += file.write(content[written:])
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(length)
                raise
    except OSError as error:
        raise write_failure(path, error) from error


def make_folder(path: Path) -> None:
    """Make ``path`` and its parents; OutputError if files cannot be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "")
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be made: {reason_of(error)}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed processes; the caller must hold the folder's lock."""
    for path in folder.glob(".*.????????.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def shared(folder: Path, parts: Iterable[Path]) -> Iterator[None]:
    """Make ``folder`` and hold a shared lock; its first holder removes leftovers in ``parts``."""
    make_folder(folder)
    with _opened_folder(folder) as handle:
        with contextlib.suppress(OSError):  # other holders exist, or the file system has no locks
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for part in parts:
                remove_leftovers(part)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


@contextlib.contextmanager
def temporary_file() -> Iterator[Path]:
    """Yield an empty temporary file; it is removed after the block."""
    try:
        descriptor, name = tempfile.mkstemp(prefix="pixmend-", suffix=".tmp")
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: cannot be written: {error.strerror}; "
            "set TMPDIR to another folder"
        ) from error
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON, or raise a ValueError whatever the damage."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def write_failure(path: object, error: OSError) -> OutputError:
    """Return the error to raise where ``path`` cannot be written."""
    return OutputError(f"{path}: cannot be written: {reason_of(error)}")


def reason_of(error: OSError) -> str:
    """Describe a write error and its remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there; choose another folder"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return "a file stands where a folder is needed; choose another folder"
    return error.strerror or str(error)


@contextlib.contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
