"""`StorePath`: a local path or URL with ranged reads, atomic writes and listings.

Local paths use `pixmend.storage.local`; URLs (``s3://``, ``gs://``, ``memory://`` ...) use fsspec.
Credentials come from the store's own configuration, or from the URL, and are never shown.
"""

import contextlib
import errno
import hashlib
import io
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from pixmend.errors import InputError, MissingError, OutputError, StoreError
from pixmend.storage.listing import Child, FileInfo, file_info, local_children, store_children
from pixmend.storage.local import (
    MAX_BYTES,
    atomic_write,
    open_file,
    parse_json,
    write_failure,
)
from pixmend.storage.retry import read_error, retry, write_error
from pixmend.storage.urls import BUCKETS, open_store, parse_url, redact, staged

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
_CHUNK_BYTES = 8 * 2**20  # of one read, where a whole file is fetched
_BUFFER_BYTES = 2**20  # of one read, in an open file of a store
_THREADS = 16
_MAX_JSON = 64 * 2**20
_MAX_LINE = 2**20
# Of paths that cannot exist.
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


@dataclass(frozen=True, slots=True, repr=False)
class StorePath:
    """A local path or URL of a file or folder; `StorePath.of` makes one. Picklable.

    All methods raise one-line errors: `MissingError` and `InputError` if a file cannot be read, `OutputError` if it cannot be
    written. `StoreError` is a fault of the store; the file may be good.
    """

    local: Path | None  # None for a URL
    _url: str = ""  # without a trailing slash
    _query: str = ""  # with its question mark; of signed addresses it is a secret

    @classmethod
    def of(cls, path: "StorePath | Path | str") -> "StorePath":
        """Return the StorePath of a path or URL; ``file://`` is local, and ``~/`` the user's home.

        InputError if it is empty: a variable that is not set would stand for the current folder.
        """
        if isinstance(path, StorePath):
            return path
        if "\0" in str(path):
            raise InputError(f"{str(path)!r}: a path holds no NUL character; check the name")
        parsed = path if isinstance(path, Path) else parse_url(path)
        return cls(parsed) if isinstance(parsed, Path) else cls(None, *parsed)

    def __str__(self) -> str:
        return redact(self._url) if self.local is None else str(self.local)

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __truediv__(self, name: str | PurePath) -> "StorePath":
        if self.local is not None:
            return StorePath(self.local / name)
        return StorePath(None, f"{self._url}/{PurePath(name).as_posix()}", self._query)

    @property
    def address(self) -> str:
        """The URL with its query and credentials, for requests and never for messages."""
        return self._url + self._query

    @property
    def name(self) -> str:
        return self.local.name if self.local is not None else self._url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "StorePath":
        if self.local is not None:
            return StorePath(self.local.parent)
        return StorePath(None, self._url.rpartition("/")[0], self._query)

    def with_name(self, name: str) -> "StorePath":
        return self.parent / name

    def relative_to(self, folder: "StorePath") -> PurePosixPath | None:
        """Return the path relative to ``folder``, or None if it lies elsewhere."""
        local = self.local is not None and folder.local is not None
        inside, root = (
            PurePosixPath(os.path.realpath(f"{each}") if local else f"{each}")
            for each in (self, folder)
        )
        return inside.relative_to(root) if inside.is_relative_to(root) else None

    @property
    def shared(self) -> bool:
        """Whether other processes see the same files; ``memory://`` belongs to one process."""
        return not self._url.startswith("memory:")

    def on_this_machine(self, what: str) -> Path:
        """Return the local path; an OutputError names ``what`` where it is a URL."""
        if self.local is None:
            raise OutputError(f"{self}: {what} is kept on this machine; give a folder")
        return self.local

    def read_bytes(
        self, start: int | None = None, stop: int | None = None, *, limit: int = MAX_BYTES
    ) -> bytes:
        """Return the content, or its bytes [start, stop); fewer if the file ends earlier.

        Without ``stop``, more than ``limit`` bytes are an InputError.
        """
        first = start or 0
        if stop is None and (rest := self.size() - first) > limit:
            raise InputError(
                f"{self}: {rest / 2**20:,.0f} MiB is over the limit of {limit >> 20} MiB"
            )
        if stop is not None and stop <= first:
            return b""
        if self.local is not None:
            with self.open() as file:
                file.seek(first)
                return self._read(lambda: file.read(limit if stop is None else stop - first))
        store, target = self._store()
        try:
            return self._read(lambda: bytes(store.cat_file(target, start=start, end=stop)))
        except StoreError:
            if start is not None and start >= self.size():  # some stores reject empty ranges
                return b""
            raise

    def read_text(self) -> str:
        """Return the content as UTF-8, with what is not valid replaced."""
        return self.read_bytes().decode(errors="replace")

    def read_json(self) -> Any:  # noqa: ANN401 - any JSON value
        """Parse the content, at most 64 MiB; ValueError if it is not JSON."""
        return parse_json(self.read_bytes(limit=_MAX_JSON))

    def lines(self) -> Iterator[bytes]:
        """Yield the lines, of at most 1 MiB each."""
        with self.open() as file:
            while line := self._read(lambda: file.readline(_MAX_LINE)):
                if len(line) == _MAX_LINE:
                    raise InputError(f"{self}: a line of over 1 MiB; get the file again")
                yield line

    def open(self) -> IO[bytes]:
        """Open a seekable file for reading; a store's file is fetched 1 MiB at a time."""
        if self.local is not None:
            path = self.local
            return self._read(lambda: open_file(path))
        return cast("IO[bytes]", io.BufferedReader(_StoreFile(self), _BUFFER_BYTES))

    def write_bytes(self, content: bytes) -> None:
        """Write ``content`` atomically."""
        with self.writing() as file:
            file.write(content)

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Open a file that replaces this one when the block succeeds, and is discarded otherwise.

        For a store it is a temporary local file until then.
        """
        if self.local is not None:
            with atomic_write(self.local) as file:
                yield file
            return
        try:
            with tempfile.NamedTemporaryFile(prefix="pixmend-") as file:
                yield file
                file.flush()
                self.upload(Path(file.name))
        except OSError as error:
            raise write_failure("the temporary folder (TMPDIR)", error) from error

    def upload(self, path: Path) -> None:
        """Copy a local file to this URL atomically."""
        store, target = self._store()
        size = path.stat().st_size

        def put() -> None:
            with staged(store, target) as name:
                store.put_file(str(path), name)
            arrived = int(store.info(target)["size"])
            if arrived != size:
                raise OSError(errno.EIO, f"{arrived} of {size} bytes arrived")

        try:
            retry(put)
        except Exception as error:
            raise write_error(str(self), error) from None

    def create(self, content: bytes) -> bool:
        """Write ``content`` to this URL unless it exists; return whether it was written.

        Exclusive where the store supports it.
        """
        store, target = self._store()
        try:
            retry(lambda: store.pipe_file(target, content, mode="create"))
        except FileExistsError:
            # An earlier attempt may have succeeded without its response.
            with contextlib.suppress(MissingError):  # just removed
                return self.read_bytes() == content
            return False
        except Exception as error:
            raise write_error(str(self), error) from None
        return True

    def copy_to(self, file: IO[bytes]) -> None:
        """Append the content to an open file, in constant memory; InputError if it changes."""
        before = self.info()
        with self.open() as content:
            shutil.copyfileobj(content, file, _CHUNK_BYTES)
        if self.info() != before:
            raise InputError(f"{self}: changed while it was read; run the same command again")

    def sha256(self) -> str:
        with self.open() as file:
            return hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()

    def exists(self) -> bool:
        return self._kind() != ""

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_folder(self) -> bool:
        return self._kind() == "directory"

    def size(self) -> int:
        return self.info().bytes

    def info(self) -> FileInfo:
        return file_info(self.name, self._stat())

    def files(self, *, hidden: bool = True) -> Iterator[FileInfo]:
        """Yield every file below the folder, sorted by name within each folder.

        A missing folder has none. Memory holds the names of one folder and its parents. Links to
        folders are not followed: they could lead out of the folder, or in circles. The version is
        empty if it is no regular file, or a local subfolder that cannot be read: then the name ends
        in a slash.
        """
        pending: list[Child] = [("", None)]
        while pending:
            path, file = pending.pop()
            if file is not None:
                yield file
            else:
                children = sorted(
                    child
                    for child in self._children(path)
                    if hidden or not child[0].rpartition("/")[2].startswith(".")
                )
                pending.extend(reversed(children))

    def beginning(self, start: str) -> list[str]:
        """Return the sorted names of a store's files in this folder that begin with ``start``."""
        store, target = self._store()
        # Never both options, which older s3fs rejects. Files of subfolders are dropped below.
        buckets = self._url.partition("://")[0] in BUCKETS
        options = {"prefix": start} if buckets else {"maxdepth": 1}
        paths = self._read(lambda: store.find(target, **options))
        names = (str(path).removeprefix(f"{target.rstrip('/')}/") for path in paths)
        return sorted(name for name in names if name.startswith(start) and "/" not in name)

    def remove(self, *, missing_ok: bool = False) -> None:
        """Remove the file; MissingError if there is none, which some stores do not report."""
        try:
            if self.local is not None:
                self.local.unlink()
            else:
                store, target = self._store()
                retry(lambda: store.rm_file(target))
        except FileNotFoundError:
            if not missing_ok:
                raise MissingError(f"{self}: no such file") from None
        except Exception as error:
            if self.local is not None and isinstance(error, OSError):
                raise write_failure(self, error) from error
            raise write_error(str(self), error) from None

    def remove_folder(self) -> None:
        """Remove the folder and its content, if it exists."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=True)
            return
        # One by one, because fsspec's recursive removal treats ? and * as patterns.
        with ThreadPoolExecutor(_THREADS) as threads:
            paths = [self / file.name for file in self.files()]
            list(threads.map(lambda path: path.remove(missing_ok=True), paths))

    def _children(self, folder: str) -> Iterable[Child]:
        """Return the files and folders of a subfolder, in any order."""
        if self.local is not None:
            return local_children(self.local, folder)
        path = self / folder if folder else self
        store, target = path._store()
        try:
            listing = path._read(lambda: store.ls(target, detail=True))
        except MissingError:
            return []
        return store_children(listing, target, folder)

    def _kind(self) -> str:
        """Return ``file``, ``directory``, ``other``, or nothing where nothing can be."""
        try:
            return str(self._stat()["type"])
        except MissingError:
            return ""

    def _stat(self) -> Mapping[str, Any]:
        """Return type, size and version keys, as fsspec does."""
        if self.local is not None:
            status = self._read(self.local.stat)
            kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}
            kind = kinds.get(stat.S_IFMT(status.st_mode), "other")
            return {"type": kind, "size": status.st_size, "mtime": status.st_mtime_ns}
        store, target = self._store()
        return cast("Mapping[str, Any]", self._read(lambda: store.info(target)))

    def _read(self, action: Callable[[], T]) -> T:
        """Call ``action``, in a store with retries, and raise one-line errors."""
        try:
            return action() if self.local is not None else retry(action)
        except Exception as error:
            if self.local is None or not isinstance(error, OSError):
                raise read_error(str(self), error) from None
            if error.errno in _NOWHERE:
                why = f" ({error.strerror})" if error.errno != errno.ENOENT else ""
                raise MissingError(f"{self}: no such file or folder{why}; check the path") from None
            shut = (folder for folder in self.local.parents[::-1] if not os.access(folder, os.X_OK))
            place = next(shut, self) if error.errno == errno.EACCES else self
            raise InputError(f"{place}: cannot be read: {error.strerror or error}") from error

    def _store(self) -> "tuple[AbstractFileSystem, str]":
        return open_store(self.address, str(self))


class _StoreFile(io.RawIOBase):
    """A store's file as a seekable stream of ranged reads."""

    def __init__(self, path: StorePath) -> None:
        self._path, self._size, self._position = path, path.size(), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        stop = min(self._position + len(buffer), self._size)
        content = self._path.read_bytes(self._position, stop)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)
