"""Local copies of remote files, in the user's cache folder.

A copy's name is its SHA-256. Beside it, a note for each URL has the digest of its file, and the
version that the store gave.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from pixmend.errors import InputError, MissingError, OutputError, StoreError
from pixmend.storage.local import (
    MAX_BYTES,
    atomic_write,
    parse_json,
    sha256_of,
    shared,
    write_text,
)
from pixmend.storage.remote import StorePath
from pixmend.storage.retry import read_error, retry
from pixmend.storage.web import SCHEMES, fetch

_PIN = "#sha256:"


def split_pin(text: str) -> tuple[str, str]:
    """Return a path or URL, and the SHA-256 that ``#sha256:HEX`` pins it to, or nothing."""
    url, mark, pin = text.rpartition(_PIN)
    if not mark:
        return text, ""
    if not re.fullmatch("[0-9a-fA-F]{64}", pin):
        raise InputError(
            f"{StorePath.of(url)}: {_PIN} needs the 64 hexadecimal digits of a SHA-256"
        )
    return url, pin.lower()


def local_copy(
    url: StorePath,
    pin: str,
    *,
    locate: Callable[[StorePath], StorePath],
    check: Callable[[Path], object],
) -> Path:
    """Return a local copy of a URL's file, of at most 512 MiB; a local file as it is.

    ``locate`` returns the file of a folder, and ``check`` may raise to reject a new file. A copy
    that has the pinned digest needs no request. Otherwise the store is asked whether the file has
    changed; where it cannot be asked, the earlier copy stands.
    """
    if url.local is not None:
        local = locate(url).on_this_machine("a model")
        _check_pin(url, pin, sha256_of(local) if pin else "")
        return local
    folder = _cache_folder()
    note = folder / f"{hashlib.sha256(url.address.encode()).hexdigest()}.json"
    with shared(folder, [folder]):
        latest, version = _read_note(note)
        copy = folder / f"{pin or latest}.safetensors"
        intact = copy.is_file() and sha256_of(copy) == (pin or latest)
        if pin and intact:
            return copy
        try:
            content, version = _fetch(url, locate, version if intact else "", pinned=bool(pin))
        except StoreError:
            if not intact:
                raise
            return copy
        if content is None:
            return copy
        digest = hashlib.sha256(content).hexdigest()
        _check_pin(url, pin, digest)
        copy = folder / f"{digest}.safetensors"
        with atomic_write(copy, verify=check) as file:
            file.write(content)
        write_text(note, json.dumps({"sha256": digest, "version": version}) + "\n")
        return copy


def _check_pin(url: StorePath, pin: str, digest: str) -> None:
    if pin and pin != digest:
        raise InputError(
            f"{url}: its SHA-256 is {digest}, not the pinned {pin}: another file, or a changed one; "
            "get the right digest from whoever made it"
        )


def _fetch(
    url: StorePath, locate: Callable[[StorePath], StorePath], known: str, *, pinned: bool
) -> tuple[bytes | None, str]:
    """Return a file's content and version, or no content if its version is ``known``."""
    if url.address.startswith(SCHEMES):
        name = str(url)
        try:
            return retry(
                lambda: fetch(url.address, name, known=known, limit=MAX_BYTES, pinned=pinned)
            )
        except Exception as error:
            raise read_error(name, error) from None
    file = locate(url)
    info = file.info()
    unknown = info.version == "None"
    version = "" if unknown else f"{info.name} {info.bytes} {info.version}"
    if known and known == version:
        return None, version
    content = file.read_bytes()
    if len(content) != info.bytes:
        raise StoreError(f"{file}: {len(content):,} of {info.bytes:,} bytes arrived; try again")
    return content, version


def _read_note(path: Path) -> tuple[str, str]:
    """Return a URL's digest and version, or nothing where the note is missing or damaged."""
    try:
        facts = parse_json(StorePath(path).read_bytes(limit=2**16))
        return str(facts["sha256"]), str(facts["version"])
    except (MissingError, InputError, ValueError, KeyError, TypeError):
        return "", ""


def _cache_folder() -> Path:
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    try:
        return (caches / "pixmend" / "models").expanduser()
    except RuntimeError:  # the user has no home folder, as in some containers
        raise OutputError("no home folder to keep a model in; set XDG_CACHE_HOME") from None
