"""URLs, and the fsspec file systems behind them."""

import contextlib
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pixmend.errors import InputError, OutputError
from pixmend.storage.retry import reading

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


BUCKETS = ("s3", "s3a", "gs", "gcs")  # protocols in which the host is a bucket


def open_store(url: str, shown: str) -> "AbstractFileSystem":
    """Return the file system of ``url``; messages name it as ``shown``.

    Raises
    ------
    InputError
        A protocol that is not known here, or whose package is not installed.
    StoreError
        The store cannot be opened.
    """
    protocol, _, rest = url.partition("://")
    host = "" if protocol in (*BUCKETS, "memory") else rest.partition("/")[0]
    try:
        return file_system(protocol, host, os.getpid())
    except ImportError:
        raise InputError(
            f"{shown}: {protocol}:// needs a package that is not installed; pip install 'pixmend[cluster]'"
        ) from None
    except ValueError:
        raise InputError(
            f"{shown}: {protocol}:// is not known; give a path, or s3://, gs:// ..."
        ) from None
    except Exception as error:
        raise reading(shown, error) from None


@lru_cache(maxsize=64)
def file_system(protocol: str, host: str, process: int) -> "AbstractFileSystem":
    """Return the process's file system of a store: thread-safe, and expensive to make."""
    del process  # a forked child must not use its parent's connections
    from fsspec.core import url_to_fs

    # No listings cache: other processes write there, and 10^8 names would stay in memory.
    store, _ = url_to_fs(f"{protocol}://{host}/", use_listings_cache=False)
    return cast("AbstractFileSystem", store)


@contextlib.contextmanager
def renamed(store: "AbstractFileSystem", path: str) -> Iterator[str]:
    """Yield the name to write ``path`` under: a temporary one where the store can rename."""
    from fsspec import AbstractFileSystem

    # fsspec's default move is a copy; object stores write atomically in place anyway.
    if type(store).mv is AbstractFileSystem.mv:
        yield path
        return
    store.makedirs(store._parent(path), exist_ok=True)
    # Named as by `atomic_write`, so that clean-up after a killed process recognises it.
    folder, slash, name = path.rpartition("/")
    beside = f"{folder}{slash}.{name}.{secrets.token_hex(4)}.tmp"
    try:
        yield beside
        store.mv(beside, path)
    except Exception:
        with contextlib.suppress(Exception):
            store.rm_file(beside)
        raise


@contextlib.contextmanager
def temporary_file() -> Iterator[Path]:
    """Yield a temporary file, removed after the block.

    Raises
    ------
    OutputError
        It cannot be made.
    """
    try:
        descriptor, name = tempfile.mkstemp(prefix="pixmend-", suffix=".tmp")
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()}: cannot be written: {error.strerror}; set TMPDIR to another folder"
        ) from error
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)


def parse(text: str) -> Path | tuple[str, str]:
    """Return a local path (``file://`` included), or a URL and its query, which may be a secret.

    Raises
    ------
    InputError
        A URL of several, or one with credentials where the store takes them from elsewhere.
    """
    found = _URL.fullmatch(text)
    if "::" in text.partition("://")[0] and "://" in text:
        raise InputError(f"{text.partition('::')[0]}::...: a URL of a URL; give a plain one")
    if found is None:
        return Path(text)
    scheme, host, rest = found[1].lower(), found[2], found[3]
    if scheme in ("file", "local"):
        return Path(host + rest)
    path, mark, query = rest.partition("?")
    if "@" in host and scheme in BUCKETS:
        raise InputError(
            f"{shown(f'{scheme}://{host}{path}')}: credentials do not go into a URL, where they are logged; set them as the "
            "store's own tools want them"
        )
    if scheme in BUCKETS and "=" not in query:  # a key there may hold a question mark
        path, mark, query = rest, "", ""
    return f"{scheme}://{host}{path}".rstrip("/"), mark + query


def shown(url: str) -> str:
    """Return a URL without its user and password."""
    found = _URL.fullmatch(url)
    return f"{found[1]}://{found[2].rpartition('@')[2]}{found[3]}" if found else url
