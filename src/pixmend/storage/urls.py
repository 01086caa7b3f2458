"""URLs of stores, and the fsspec file systems behind them."""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pixmend.errors import InputError, install_hint
from pixmend.storage.local import TEMPORARY
from pixmend.storage.retry import read_error

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

BUCKETS = ("s3", "s3a", "gs", "gcs")  # protocols in which the host is a bucket
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)


def parse_url(text: str) -> Path | tuple[str, str]:
    """Return a local path (``file://`` included), or a URL and its query, which may be a secret.

    InputError if it is empty, URLs are chained, or credentials are in one.
    """
    if not text:
        raise InputError("an empty path; give a file, a folder or a URL (. is the current folder)")
    match = _URL.fullmatch(text)
    if "::" in text.partition("://")[0] and "://" in text:
        raise InputError(f"{text.partition('::')[0]}::...: a chained URL; give a plain one")
    if match is None:
        # A shell leaves ~ as it is in --out=~/results.
        home = text == "~" or text.startswith("~/")
        return Path(os.path.expanduser(text) if home else text)  # noqa: PTH111 - without a home too
    scheme, host, rest = match[1].lower(), match[2], match[3]
    if scheme in ("file", "local"):
        return Path(host + rest)
    path, mark, query = rest.partition("?")
    if "@" in host and scheme in BUCKETS:
        raise InputError(
            f"{redact(f'{scheme}://{host}{path}')}: credentials do not go into a URL, where they "
            "are logged; set them as the store's own tools want them"
        )
    if scheme in BUCKETS and "=" not in query:  # a key may contain a question mark
        path, mark, query = rest, "", ""
    return f"{scheme}://{host}{path}".rstrip("/"), mark + query


def redact(url: str) -> str:
    """Return a URL without user and password."""
    match = _URL.fullmatch(url)
    return f"{match[1]}://{match[2].rpartition('@')[2]}{match[3]}" if match else url


def open_store(url: str, name: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of ``url`` and the path there; messages call it ``name``.

    InputError if the protocol is unknown or lacks its package; StoreError if it cannot be opened.
    """
    from fsspec.core import strip_protocol

    protocol, _, rest = url.partition("://")
    host = "" if protocol in (*BUCKETS, "memory") else re.split("[/?]", rest, maxsplit=1)[0]
    try:
        return file_system(protocol, host, os.getpid()), str(strip_protocol(url))
    except ImportError:
        raise InputError(
            f"{name}: {protocol}:// needs a package that is not installed; "
            f"{install_hint('hub' if protocol == 'hf' else 'cluster')}"
        ) from None
    except ValueError:
        raise InputError(
            f"{name}: {protocol}:// is not known; give a path, or s3://, gs:// ..."
        ) from None
    except Exception as error:
        raise read_error(name, error) from None


@lru_cache(maxsize=64)
def file_system(protocol: str, host: str, process: int) -> "AbstractFileSystem":
    """Return the process's file system of a store: thread-safe, and expensive to make."""
    del process  # a forked child must not use its parent's connections
    from fsspec.core import url_to_fs

    # No listings cache: other processes write there, and 10^8 names would stay in memory.
    store, _ = url_to_fs(f"{protocol}://{host}/", use_listings_cache=False)
    return cast("AbstractFileSystem", store)


@contextlib.contextmanager
def staged(store: "AbstractFileSystem", path: str) -> Iterator[str]:
    """Yield the name to write ``path`` under: a temporary one where the store can rename."""
    from fsspec import AbstractFileSystem

    # fsspec's default move is a copy; object stores write atomically in place anyway.
    if type(store).mv is AbstractFileSystem.mv:
        yield path
        return
    folder, slash, name = path.rpartition("/")
    store.makedirs(folder or slash, exist_ok=True)
    # Named as by `atomic_write`, so that clean-up after a killed process recognises it.
    temporary = f"{folder}{slash}.{name}.{secrets.token_hex(4)}{TEMPORARY}"
    try:
        yield temporary
        store.mv(temporary, path)
    except Exception:
        with contextlib.suppress(Exception):
            store.rm_file(temporary)
        raise
