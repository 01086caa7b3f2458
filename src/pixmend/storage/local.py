"""Atomic writes, locks, hashes and JSON of local files.

At every moment, and after a crash, a reader sees either the old content or the new one. Whatever
writes raises `OutputError` where a path is not writable or the disk is full, and changes nothing.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

from pixmend.errors import OutputError

MAX_BYTES = 512 * 2**20  # of a file that is read whole
TEMPORARY = ".pixmend.tmp"  # ending of temporary files, which no other program gives its own
_LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.05
_NOT_REGULAR = "not a regular file; remove it, or give another path"


def open_file(path: Path, mode: str = "rb", *, limit: int | None = None) -> IO[bytes]:
    """Open a regular file of at most ``limit`` bytes, unbuffered if it is to be written.

    OSError for anything else: a pipe blocks its reader, and a device never ends. No file is created
    or written through a link, which may lead to a file of others.
    """

    def open_regular(name: str, flags: int) -> int:
        links = 0 if mode == "rb" else os.O_NOFOLLOW
        try:
            descriptor = os.open(name, flags | links | os.O_NONBLOCK, 0o666)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a pipe without a reader, or a socket
                error.strerror = _NOT_REGULAR
            raise
        status = os.fstat(descriptor)
        problem = "" if stat.S_ISREG(status.st_mode) else _NOT_REGULAR
        if stat.S_ISDIR(status.st_mode):
            problem = os.strerror(errno.EISDIR)
        elif limit is not None and status.st_size > limit:
            problem = f"{status.st_size:,} bytes is over the limit of {limit:,}"
        if problem:
            os.close(descriptor)
            raise OSError(errno.EINVAL, problem)
        return descriptor

    return open(path, mode, -1 if mode == "rb" else 0, opener=open_regular)


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
            prefix=f".{path.name[:40]}.", suffix=TEMPORARY, dir=path.parent
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
        with opened_folder(path.parent) as folder:
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
    """Append ``line`` and a newline, also while other processes do.

    A crash leaves at most one partial line, which the next call ends.
    """
    content, written = line.encode(errors="backslashreplace") + b"\n", 0
    with locked_file(path) as file:
        length = file.seek(0, os.SEEK_END)
        if length and os.pread(file.fileno(), 1, length - 1) != b"\n":
            content = b"\n" + content
        try:
            while written < len(content):  # a disk that fills up accepts a part first
                written += file.write(content[written:])
        except OSError:
            with contextlib.suppress(OSError):
                file.truncate(length)
            raise


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
    for path in folder.glob(f".*.????????{TEMPORARY}"):
        with contextlib.suppress(OSError):
            path.unlink()


def lock(handle: IO[bytes] | int, kind: int = fcntl.LOCK_EX, *, seconds: float = 0) -> bool:
    """Lock an open file or folder until it is closed; False if the file system has no locks.

    BlockingIOError if others hold it for ``seconds``.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise
            time.sleep(_POLL_SECONDS)
        except OSError:
            return False
        else:
            return True


@contextlib.contextmanager
def locked_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to append to, made if it is missing, and lock it; OutputError if that fails."""
    try:
        while True:
            with open_file(path, "a+b") as file:
                try:
                    lock(file, seconds=_LOCK_SECONDS)
                except BlockingIOError:
                    raise OSError(errno.EBUSY, "another program keeps it locked; wait") from None
                # Whoever held the lock may have put another file in its place.
                if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    yield file
                    return
    except OSError as error:
        raise write_failure(path, error) from error


@contextlib.contextmanager
def shared(folder: Path, parts: Iterable[Path]) -> Iterator[None]:
    """Make ``folder`` and hold a shared lock; its first holder removes leftovers in ``parts``."""
    make_folder(folder)
    with opened_folder(folder) as handle:
        with contextlib.suppress(BlockingIOError):  # other holders exist
            for part in parts if lock(handle) else ():
                remove_leftovers(part)
        try:
            # Waits for another's clean-up: a caller without a lock would lose its files to a third.
            lock(handle, fcntl.LOCK_SH, seconds=_LOCK_SECONDS)
        except BlockingIOError:
            raise OutputError(
                f"{folder}: another program keeps it locked; wait, or choose another folder"
            ) from None
        yield


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()


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
    if error.errno == errno.ELOOP:
        return "a link stands there, which is not followed; remove it, or choose another folder"
    return error.strerror or str(error)


@contextlib.contextmanager
def opened_folder(folder: Path) -> Iterator[int]:
    """Open a folder, to lock or flush it."""
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
