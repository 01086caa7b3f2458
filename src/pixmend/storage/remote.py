"""`StorePath`, a path or URL with whole and ranged reads, atomic writes and listings.

Local paths use `pixmend.storage.local`; URLs (``s3://``, ``gs://``, ``memory://`` ...) use fsspec. Credentials come from the store's own
configuration, or from the URL, and are never shown.
"""

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

from pixmend.errors import InputError, MissingError, OutputError, StoreError
from pixmend.storage.entries import Child, Entry, children_here, children_there, entry_of
from pixmend.storage.filesystems import BUCKETS, open_store, parse, renamed, shown, temporary_file
from pixmend.storage.local import atomic_write, reason_of, write_bytes
from pixmend.storage.ranged import open_ranged
from pixmend.storage.retry import attempt, reading, writing

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


T = TypeVar("T")
_PART_BYTES = 8 * 2**20  # read at once of a file that is fetched whole
_THREADS = 16  # files removed


@dataclass(frozen=True, slots=True, repr=False)
class StorePath:
    """A file or folder, on this machine or in a store; `StorePath.of` makes one. It can be handed to other processes.

    All methods raise one line for what a user can mend: `MissingError` for what is not target, `InputError` for what cannot be read,
    `StoreError` where a store is at fault and the file may be good, `OutputError` for what cannot be written.

    Attributes
    ----------
    local
        The path if it is on this machine, else None.
    """

    local: Path | None
    _url: str = ""  # without a slash at its end
    _query: str = ""  # with its question mark: of signed addresses it is a secret

    @classmethod
    def of(cls, path: "StorePath | Path | str") -> "StorePath":
        """Return the StorePath of a path or URL; ``file://`` is local.

        Raises
        ------
        InputError
            A URL of several, or one with credentials where the store takes them from elsewhere.
        """
        if isinstance(path, StorePath):
            return path
        if isinstance(path, Path):
            return cls(path)
        found = parse(path)
        return cls(found) if isinstance(found, Path) else cls(None, *found)

    def __str__(self) -> str:
        return shown(self._url) if self.local is None else str(self.local)

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __truediv__(self, name: str | PurePath) -> "StorePath":
        if self.local is not None:
            return StorePath(self.local / name)
        return StorePath(None, f"{self._url}/{PurePath(name).as_posix()}", self._query)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.local.name if self.local is not None else self._url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "StorePath":
        """The folder that it is in."""
        if self.local is not None:
            return StorePath(self.local.parent)
        return StorePath(None, self._url.rpartition("/")[0], self._query)

    def with_name(self, name: str) -> "StorePath":
        """Return the path of that name in the same folder."""
        return self.parent / name

    @property
    def shared(self) -> bool:
        """Whether other processes see the same files there; ``memory://`` is of one process."""
        return not self._url.startswith("memory:")

    def on_this_machine(self, what: str) -> Path:
        """Return the path.

        Raises
        ------
        OutputError
            It is in a store, where ``what`` cannot be.
        """
        if self.local is None:
            raise OutputError(f"{self}: {what} is kept on this machine; give a folder")
        return self.local

    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Return the content, or the bytes [start, stop) of it; fewer if it ends earlier."""
        first = start or 0
        if stop is not None and stop <= first:
            return b""
        if self.local is not None:
            path = self.local

            def read() -> bytes:
                with path.open("rb") as file:
                    file.seek(first)
                    return file.read() if stop is None else file.read(stop - first)

            return self._reading(read)
        store, target = self._store()
        try:
            return self._reading(lambda: bytes(store.cat_file(target, start=start, end=stop)))
        except StoreError:
            if start is not None and start >= self.size():  # some stores refuse empty ranges
                return b""
            raise

    def read_text(self) -> str:
        """Return the content, which is UTF-8."""
        return self.read_bytes().decode()

    def open(self) -> IO[bytes]:
        """Open a seekable file for reading; a store's file is fetched 1 MiB at a time."""
        if self.local is not None:
            path = self.local
            return self._reading(lambda: path.open("rb"))
        return open_ranged(self)

    def write_bytes(self, content: bytes) -> None:
        """Write ``content`` atomically."""
        with self.writing() as file:
            file.write(content)

    def create(self, content: bytes) -> bool:
        """Write ``content`` unless the file exists; return whether it was written. Atomic where the store supports it."""
        if self.local is not None:
            beside = self.local.with_name(f".{secrets.token_hex(8)}.tmp")
            write_bytes(beside, content)
            try:
                os.link(beside, self.local)
            except FileExistsError:
                return False
            except OSError as error:
                raise _unwritable(self, error) from error
            finally:
                beside.unlink(missing_ok=True)
            return True
        store, path = self._store()
        try:
            attempt(lambda: store.pipe_file(path, content, mode="create"))
        except FileExistsError:
            # An earlier attempt may have succeeded without its response.
            return self.read_bytes() == content
        except Exception as error:
            raise writing(str(self), error) from None
        return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Open a file that replaces this one when the block succeeds, and is discarded otherwise.

        For a store it is first written to a temporary file of this machine.
        """
        if self.local is not None:
            with atomic_write(self.local) as file:
                yield file
            return
        with temporary_file() as path:
            try:
                with path.open("wb") as file:
                    yield file
            except OSError as error:
                raise OutputError(f"{path}: cannot be written: {reason_of(error)}") from error
            self.upload(path)

    def upload(self, path: Path) -> None:
        """Write the content of a local file."""
        if self.local is not None:
            with atomic_write(self.local) as file, path.open("rb") as content:
                shutil.copyfileobj(content, file)
            return
        store, target = self._store()
        size = path.stat().st_size

        def put() -> None:
            with renamed(store, target) as name:
                store.put_file(str(path), name)
            arrived = int(store.info(target)["size"])
            if arrived != size:
                raise OSError(errno.EIO, f"{arrived} of {size} bytes arrived")

        self._writing(put)

    def download(self, path: Path) -> None:
        """Write the content to a local file, in constant memory.

        Raises
        ------
        InputError
            It changed while it was read.
        """
        with atomic_write(path) as file:
            self.copy_to(file)

    def copy_to(self, file: IO[bytes]) -> None:
        """Append the content to an open file, in constant memory; see `download`."""
        if self.local is not None:
            with self.open() as content:
                shutil.copyfileobj(content, file)
            return
        before = self.entry()
        for start in range(0, before.bytes, _PART_BYTES):
            part = self.read_bytes(start, min(start + _PART_BYTES, before.bytes))
            file.write(part)
        if self.entry() != before:
            raise InputError(f"{self}: changed while it was read; run the same command again")

    def sha256(self) -> str:
        """Return the SHA-256 of the content, in hexadecimal."""
        digest = hashlib.sha256()
        with self.open() as file:
            while part := file.read(_PART_BYTES):
                digest.update(part)
        return digest.hexdigest()

    def exists(self) -> bool:
        """Whether a file or folder is target."""
        try:
            self._info()
        except MissingError:
            return False
        return True

    def is_file(self) -> bool:
        """Whether a file is target."""
        try:
            return bool(self._info()["type"] == "file")
        except MissingError:
            return False

    def is_folder(self) -> bool:
        """Whether a folder is target."""
        try:
            return bool(self._info()["type"] == "directory")
        except MissingError:
            return False

    def size(self) -> int:
        """Return the bytes of the file."""
        return self.entry().bytes

    def entry(self) -> Entry:
        """Return the file's name, bytes and version."""
        return entry_of(self.name, self._info())

    def files(self) -> Iterator[tuple[str, int]]:
        """Yield (relative name, bytes) of every file below the folder; see `entries`."""
        for entry in self.entries():
            yield entry.name, entry.bytes

    def entries(self) -> Iterator[Entry]:
        """Yield every file below the folder, sorted by name within each folder; nothing if it is missing.

        Memory holds the names of one folder and its parents. Links to folders are not followed.
        """
        pending: list[Child] = [("", True, None)]
        while pending:
            path, is_folder, found = pending.pop()
            if found is not None:
                yield found
            elif is_folder:
                pending.extend(reversed(self._children(path)))

    def beginning(self, start: str) -> list[str]:
        """Return the sorted names of this folder's files that begin with ``start``; stores that can filter do so."""
        if self.local is not None:
            return sorted(
                path.name
                for path in self.local.iterdir()
                if path.name.startswith(start) and path.is_file()
            )
        store, target = self._store()
        # Never both options, which older s3fs refuses. Matches in sub-folders are dropped below.
        options = {"prefix": start} if self._protocol in BUCKETS else {"maxdepth": 1}
        found = self._reading(lambda: store.find(target, **options))
        names = (str(path).removeprefix(f"{target.rstrip('/')}/") for path in found)
        return sorted(name for name in names if name.startswith(start) and "/" not in name)

    def remove(self, *, missing_ok: bool = False) -> None:
        """Remove the file.

        Raises
        ------
        MissingError
            There is none, unless ``missing_ok``. Some stores do not report it.
        """
        if self.local is not None:
            try:
                self.local.unlink(missing_ok=missing_ok)
            except FileNotFoundError:
                raise MissingError(f"{self}: no such file") from None
            except OSError as error:
                raise _unwritable(self, error) from error
            return
        store, target = self._store()
        try:
            attempt(lambda: store.rm_file(target))
        except FileNotFoundError:
            if not missing_ok:
                raise MissingError(f"{self}: no such file") from None
        except Exception as error:
            raise writing(str(self), error) from None

    def remove_folder(self) -> None:
        """Remove the folder and its content, if it exists."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=True)
            return
        # One by one, because fsspec's recursive removal treats ? and * as patterns.
        with ThreadPoolExecutor(_THREADS) as threads:
            found = [self / name for name, _ in self.files()]
            for done in [threads.submit(place.remove, missing_ok=True) for place in found]:
                done.result()

    def _children(self, folder: str) -> list[Child]:
        """Return (relative path, whether it is a folder, the file) of what is in a sub-folder, by name."""
        if self.local is not None:
            return children_here(self.local, folder)
        place = self / folder if folder else self
        store, target = place._store()
        try:
            infos = place._reading(lambda: store.ls(target, detail=True))
        except MissingError:
            return []
        return children_there(infos, target, folder)

    def _info(self) -> dict[str, Any]:
        if self.local is not None:
            path = self.local
            status = self._reading(path.stat)
            kind = "directory" if path.is_dir() else "file" if path.is_file() else "other"
            return {"type": kind, "size": status.st_size, "mtime": status.st_mtime_ns}
        store, target = self._store()
        return cast("dict[str, Any]", self._reading(lambda: store.info(target)))

    def _reading(self, action: Callable[[], T]) -> T:
        try:
            return action() if self.local is not None else attempt(action)
        except NotADirectoryError:
            raise MissingError(f"{self}: no such file or folder; check the path") from None
        except OSError as error:
            if self.local is None or isinstance(error, FileNotFoundError):
                raise reading(str(self), error) from None
            raise InputError(f"{self}: cannot be read: {error.strerror or error}") from error
        except Exception as error:
            raise reading(str(self), error) from None

    def _writing(self, action: Callable[[], T]) -> T:
        try:
            return attempt(action)
        except Exception as error:
            raise writing(str(self), error) from None

    @property
    def _protocol(self) -> str:
        return self._url.partition("://")[0]

    def _store(self) -> "tuple[AbstractFileSystem, str]":
        store = open_store(self._url, str(self))
        return store, str(store._strip_protocol(self._url + self._query))


def _unwritable(place: StorePath, error: OSError) -> OutputError:
    return OutputError(f"{place}: cannot be written: {reason_of(error)}")
