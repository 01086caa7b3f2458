"""A path or a URL: where files are read from, whole or by ranges, and written to, whole or not at all.

A path of this machine is read and written as ever (`pixmend.storage.local`). Everything else goes through fsspec: ``s3://bucket/folder``,
``gs://``, ``memory://`` and whatever else it knows. Credentials come from where the store's own tools take them; a place carries
none but what its URL says, and never shows that.
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
_AT_ONCE = 16  # files removed


@dataclass(frozen=True, slots=True, repr=False)
class StorePath:
    """A file or folder, on this machine or in a store; `StorePath.of` makes one. It can be handed to other processes.

    All methods raise one line for what a user can mend: `MissingError` for what is not there, `InputError` for what cannot be read,
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
        """Return the place of a path or URL; ``file://`` is this machine.

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
        """Return the place of that name in the same folder."""
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
        """Return the content, or of it the bytes from ``start`` to before ``stop``, counted from 0; fewer where it ends earlier."""
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
        store, there = self._store()
        try:
            return self._reading(lambda: bytes(store.cat_file(there, start=start, end=stop)))
        except StoreError:
            if start is not None and start >= self.size():  # some refuse a range of nothing
                return b""
            raise

    def read_text(self) -> str:
        """Return the content, which is UTF-8."""
        return self.read_bytes().decode()

    def open(self) -> IO[bytes]:
        """Open for reading, from any byte on; of a store's file only what is asked for is fetched, 1 MiB at a time."""
        if self.local is not None:
            path = self.local
            return self._reading(lambda: path.open("rb"))
        return open_ranged(self)

    def write_bytes(self, content: bytes) -> None:
        """Write ``content``: after a crash the old file is there, or the whole new one."""
        with self.writing() as file:
            file.write(content)

    def create(self, content: bytes) -> bool:
        """Write ``content`` unless something is there; return whether it was. Of two who try, one succeeds if the store can tell."""
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
            # Ours, if an attempt was written whose answer got lost.
            return self.read_bytes() == content
        except Exception as error:
            raise writing(str(self), error) from None
        return True

    @contextlib.contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """Open a file that takes this place when the block ends well, and leaves no trace when not.

        For a store it is gathered on this machine first, in the folder for temporary files.
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
        """Write the content of a file of this machine."""
        if self.local is not None:
            with atomic_write(self.local) as file, path.open("rb") as content:
                shutil.copyfileobj(content, file)
            return
        store, there = self._store()
        size = path.stat().st_size

        def put() -> None:
            with renamed(store, there) as name:
                store.put_file(str(path), name)
            arrived = int(store.info(there)["size"])
            if arrived != size:
                raise OSError(errno.EIO, f"{arrived} of {size} bytes arrived")

        self._writing(put)

    def download(self, path: Path) -> None:
        """Write the content to a file of this machine, in constant memory.

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
        """Whether a file or folder is there."""
        try:
            self._info()
        except MissingError:
            return False
        return True

    def is_file(self) -> bool:
        """Whether a file is there."""
        try:
            return bool(self._info()["type"] == "file")
        except MissingError:
            return False

    def is_folder(self) -> bool:
        """Whether a folder is there."""
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
        """Yield (relative name, bytes) of every file in the folder and those in it; see `entries`."""
        for entry in self.entries():
            yield entry.name, entry.bytes

    def entries(self) -> Iterator[Entry]:
        """Yield every file in the folder and those in it, each folder's entries in order of name, none if there is no folder.

        One folder's names are held at a time, and those of the folders that it is in. Links to folders are not followed.
        """
        pending: list[Child] = [("", True, None)]
        while pending:
            path, is_folder, found = pending.pop()
            if found is not None:
                yield found
            elif is_folder:
                pending.extend(reversed(self._children(path)))

    def beginning(self, start: str) -> list[str]:
        """Return the names of the files in this folder that begin so, in order; a store that can is asked for these alone."""
        if self.local is not None:
            return sorted(
                path.name
                for path in self.local.iterdir()
                if path.name.startswith(start) and path.is_file()
            )
        store, there = self._store()
        # Never both at once: older s3fs refuses that. What begins so in folders below is few, and dropped.
        options = {"prefix": start} if self._protocol in BUCKETS else {"maxdepth": 1}
        found = self._reading(lambda: store.find(there, **options))
        names = (str(path).removeprefix(f"{there.rstrip('/')}/") for path in found)
        return sorted(name for name in names if name.startswith(start) and "/" not in name)

    def remove(self, *, missing_ok: bool = False) -> None:
        """Remove the file.

        Raises
        ------
        MissingError
            There is none, unless ``missing_ok``. Some stores do not tell.
        """
        if self.local is not None:
            try:
                self.local.unlink(missing_ok=missing_ok)
            except FileNotFoundError:
                raise MissingError(f"{self}: no such file") from None
            except OSError as error:
                raise _unwritable(self, error) from error
            return
        store, there = self._store()
        try:
            attempt(lambda: store.rm_file(there))
        except FileNotFoundError:
            if not missing_ok:
                raise MissingError(f"{self}: no such file") from None
        except Exception as error:
            raise writing(str(self), error) from None

    def remove_folder(self) -> None:
        """Remove the folder and all that is in it, if it is there."""
        if self.local is not None:
            shutil.rmtree(self.local, ignore_errors=True)
            return
        # One by one: fsspec takes ? and * in a path that it removes as a whole for patterns.
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            found = [self / name for name, _ in self.files()]
            for done in [threads.submit(place.remove, missing_ok=True) for place in found]:
                done.result()

    def _children(self, folder: str) -> list[Child]:
        """Return (relative path, whether it is a folder, the file) of what is in a sub-folder, by name."""
        if self.local is not None:
            return children_here(self.local, folder)
        place = self / folder if folder else self
        store, there = place._store()
        try:
            infos = place._reading(lambda: store.ls(there, detail=True))
        except MissingError:
            return []
        return children_there(infos, there, folder)

    def _info(self) -> dict[str, Any]:
        if self.local is not None:
            path = self.local
            status = self._reading(path.stat)
            kind = "directory" if path.is_dir() else "file" if path.is_file() else "other"
            return {"type": kind, "size": status.st_size, "mtime": status.st_mtime_ns}
        store, there = self._store()
        return cast("dict[str, Any]", self._reading(lambda: store.info(there)))

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
