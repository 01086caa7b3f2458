"""The folder that records are packed into: who may write there, and what it was begun with."""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pixmend.errors import InputError, OutputError, SettingsError
from pixmend.records.manifest import INPUTS_NAME, MANIFEST_NAME, ORIGIN_NAME, Manifest
from pixmend.records.settings import PackSettings
from pixmend.storage import make_folder, write_text

__all__ = ["Origin", "clean", "locked", "previous_run"]

_OURS = re.compile(r"images-\d{5,}-of-\d{5,}\.(tfrecord|index)")
_TEMPORARY = re.compile(
    rf"\.({_OURS.pattern}|{MANIFEST_NAME}|{INPUTS_NAME}|{ORIGIN_NAME})\..*\.tmp"
)
_FIX = "choose another folder, or delete this one"


class Origin(BaseModel):
    """What a folder of records was begun with: settings, source, and the digest of its list of inputs."""

    model_config = ConfigDict(frozen=True)

    settings: PackSettings
    source: str
    listing: str

    def write(self, folder: Path) -> None:
        """Write it into ``folder``, where it stays beside the records."""
        write_text(folder / ORIGIN_NAME, self.model_dump_json(indent=1) + "\n")


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make ``out`` and hold it for this process alone; freed when the process ends, however it ends.

    Raises
    ------
    OutputError
        It cannot be made, holds something else than records, or another process is packing into it.
    """
    make_folder(out)
    try:
        names = {path.name for path in out.iterdir()}
        handle = os.open(out, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{out}: cannot be opened: {error.strerror}; {_FIX}") from error
    try:
        visible = any(not name.startswith(".") for name in names)
        if visible and not names & {MANIFEST_NAME, ORIGIN_NAME}:
            raise OutputError(
                f"{out}: the folder holds other files and no records; choose a new or an empty one"
            )
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"{out}: another `pixmend pack` is writing there; wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)


def previous_run(out: Path, current: Origin) -> Manifest | None:
    """Return the manifest of ``out`` if it holds just what ``current`` would make, else None to pack on.

    Raises
    ------
    OutputError
        It holds, or was begun with, other settings or another source.
    """
    origin = _read_origin(out)
    if not (out / MANIFEST_NAME).exists():
        if origin is not None:
            _check_same(out, origin, current)
        return None
    try:
        manifest = Manifest.read(out)
    except InputError as error:
        raise OutputError(f"{out}: holds records that cannot be read; {_FIX}") from error
    if origin is None:
        raise OutputError(f"{out}: holds records of unknown origin; {_FIX}")
    _check_same(out, origin, current)
    whole = all(
        path.is_file() and path.stat().st_size == shard.bytes
        for shard in manifest.shards
        for path in (out / shard.name,)
    )
    return manifest if whole and origin.listing == current.listing else None


def clean(out: Path, keep: frozenset[str]) -> None:
    """Remove temporary files of runs that were killed, and shards not among the names to ``keep``."""
    for path in out.iterdir():
        stale = _OURS.fullmatch(path.name) and path.with_suffix(".tfrecord").name not in keep
        if stale or _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _read_origin(out: Path) -> Origin | None:
    try:
        return Origin.model_validate(json.loads((out / ORIGIN_NAME).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError, SettingsError) as error:
        raise OutputError(f"{out / ORIGIN_NAME}: cannot be read; {_FIX}") from error


def _check_same(out: Path, before: Origin, now: Origin) -> None:
    then, here = before.settings.model_dump(), now.settings.model_dump()
    other = [
        f"{key} is {then[key]} there and {here[key]} here" for key in then if then[key] != here[key]
    ]
    if other:
        raise OutputError(f"{out}: holds records of other settings: {', '.join(other)}; {_FIX}")
    if before.source != now.source and before.listing != now.listing:
        raise OutputError(f"{out}: holds records of another source, {before.source}; {_FIX}")
