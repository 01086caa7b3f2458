"""The folder that records are packed into: who may write there, and what it was begun with."""

import contextlib
import fcntl
import itertools
import os
import re
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from pixmend.errors import InputError, MissingError, OutputError, SettingsError
from pixmend.records.manifest import (
    INPUTS_NAME,
    MANIFEST_NAME,
    ORIGIN_NAME,
    SHARD_FILE,
    Manifest,
)
from pixmend.records.settings import PackSettings
from pixmend.storage import StorePath, make_folder, parse_json

_TEMPORARY = re.compile(
    rf"\.({SHARD_FILE.pattern}|{MANIFEST_NAME}|{INPUTS_NAME}|{ORIGIN_NAME})\..*\.tmp"
)
_FIX = "choose another folder, or delete this one"


class Origin(BaseModel):
    """What a folder of records was begun with: settings, source, and the digest of its list of inputs."""

    model_config = ConfigDict(frozen=True)

    settings: PackSettings
    source: str
    listing: str

    def write(self, folder: StorePath) -> None:
        """Write it into ``folder``, where it stays beside the records."""
        (folder / ORIGIN_NAME).write_bytes(self._content())

    def claim(self, folder: StorePath) -> None:
        """Write it into ``folder`` unless another run has begun there meanwhile: a store has no locks.

        Raises
        ------
        OutputError
            Another run was faster, with other settings or another source.
        """
        if folder.local is not None:  # its lock is held
            self.write(folder)
        elif not (folder / ORIGIN_NAME).create(self._content()):
            before = _read_origin(folder)
            if before is not None:
                _check_same(folder, before, self)
            self.write(folder)

    def _content(self) -> bytes:
        return f"{self.model_dump_json(indent=1)}\n".encode()


@contextlib.contextmanager
def locked(out: StorePath) -> Iterator[None]:
    """Make ``out`` and hold it for this process alone; freed when the process ends, however it ends.

    In a store nothing can be held: there two runs of the same command write the same bytes, and `Origin.claim` keeps others away.

    Raises
    ------
    OutputError
        It cannot be made, holds something else than records, or another process is packing into it.
    """
    if out.local is None:
        # One look, not a list of all: where one file of ours is, the others are ours too.
        begun = any((out / name).is_file() for name in (MANIFEST_NAME, ORIGIN_NAME))
        _check_names(out, {file.name for file in itertools.islice(out.files(), 0 if begun else 1)})
        yield
        return
    make_folder(out.local)
    try:
        names = {path.name for path in out.local.iterdir()}
        handle = os.open(out.local, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{out}: cannot be opened: {error.strerror}; {_FIX}") from error
    try:
        _check_names(out, names)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(
                f"{out}: another `pixmend pack` is writing there; wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(handle)


def _check_names(out: StorePath, names: set[str]) -> None:
    visible = any(not name.startswith(".") for name in names)
    if visible and not names & {MANIFEST_NAME, ORIGIN_NAME}:
        raise OutputError(
            f"{out}: the folder holds other files and no records; choose a new or an empty one"
        )


def previous_run(out: StorePath, current: Origin) -> Manifest | None:
    """Return the manifest of ``out`` if it holds just what ``current`` would make, else None to pack on.

    Raises
    ------
    OutputError
        It holds, or was begun with, other settings or another source.
    """
    origin = _read_origin(out)
    if not (out / MANIFEST_NAME).is_file():
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
    sizes = {file.name: file.bytes for file in out.files()}
    whole = all(sizes.get(shard.name) == shard.bytes for shard in manifest.shards)
    return manifest if whole and origin.listing == current.listing else None


def clean(out: StorePath, keep: frozenset[str]) -> None:
    """Remove temporary files of runs that were killed, and shards not among the names to ``keep``."""
    for name, *_ in list(out.files()):
        stale = SHARD_FILE.fullmatch(name) and f"{name.rpartition('.')[0]}.tfrecord" not in keep
        if stale or _TEMPORARY.fullmatch(name):
            (out / name).remove(missing_ok=True)


def _read_origin(out: StorePath) -> Origin | None:
    try:
        return Origin.model_validate(parse_json((out / ORIGIN_NAME).read_bytes()))
    except MissingError:
        return None
    except (InputError, ValueError, ValidationError, SettingsError) as error:
        raise OutputError(f"{out / ORIGIN_NAME}: cannot be read; {_FIX}") from error


def _check_same(out: StorePath, before: Origin, now: Origin) -> None:
    then, here = before.settings.model_dump(), now.settings.model_dump()
    other = [
        f"{key} is {then[key]} there and {here[key]} here" for key in then if then[key] != here[key]
    ]
    if other:
        raise OutputError(f"{out}: holds records of other settings: {', '.join(other)}; {_FIX}")
    if before.source != now.source and before.listing != now.listing:
        raise OutputError(f"{out}: holds records of another source, {before.source}; {_FIX}")
