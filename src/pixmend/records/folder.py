"""The folder that records are packed into: its lock, its origin and its clean-up."""

import contextlib
import itertools
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict, ValidationError

from pixmend.errors import InputError, MissingError, OutputError, SettingsError
from pixmend.records.manifest import (
    MANIFEST_NAME,
    ORIGIN_NAME,
    SHARD_FILE,
    Manifest,
    PackSettings,
)
from pixmend.storage import TEMPORARY, StorePath, lock, make_folder, opened_folder

_FIX = "choose another folder, or delete this one"


class PackOrigin(BaseModel):
    """What a record folder is made from: settings, source, and the digest of its inputs' list."""

    model_config = ConfigDict(frozen=True)

    settings: PackSettings
    source: str
    listing: str

    def claim(self, folder: StorePath) -> None:
        """Write it into ``folder``; in a store, which has no locks, another run may have claimed that."""
        content = f"{self.model_dump_json(indent=1)}\n".encode()
        path = folder / ORIGIN_NAME
        if folder.local is None:
            if path.create(content):
                return
            self.check(folder)
        path.write_bytes(content)

    def check(self, folder: StorePath) -> bool:
        """Return whether ``folder`` has the same inputs; OutputError if it is made from others."""
        path = folder / ORIGIN_NAME
        try:
            earlier = PackOrigin.model_validate(path.read_json())
        except MissingError:
            return False
        except (InputError, ValueError, ValidationError, SettingsError) as error:
            raise OutputError(f"{path}: cannot be read; {_FIX}") from error
        there, here = earlier.settings.model_dump(), self.settings.model_dump()
        differences = ", ".join(
            f"{key} is {there[key]} there and {here[key]} here"
            for key in there
            if there[key] != here[key]
        )
        if differences:
            raise OutputError(f"{folder}: holds records of other settings: {differences}; {_FIX}")
        if earlier.source != self.source and earlier.listing != self.listing:
            raise OutputError(
                f"{folder}: holds records of another source, {earlier.source}; {_FIX}"
            )
        return earlier.listing == self.listing


@contextlib.contextmanager
def locked(folder: StorePath) -> Iterator[None]:
    """Make ``folder`` and lock it for the block; OutputError if another process or other files are there.

    A store has no locks: two runs of one command write the same bytes there, and `PackOrigin.claim`
    keeps other runs away.
    """
    if folder.local is None:
        # One look instead of a full listing: where one of these is, the other files are ours too.
        begun = any((folder / name).is_file() for name in (MANIFEST_NAME, ORIGIN_NAME))
        _check_names(
            folder, {file.name for file in itertools.islice(folder.files(), 0 if begun else 1)}
        )
        yield
        return
    make_folder(folder.local)
    with contextlib.ExitStack() as stack:
        try:
            _check_names(folder, {path.name for path in folder.local.iterdir()})
            lock(stack.enter_context(opened_folder(folder.local)))
        except BlockingIOError:
            raise OutputError(
                f"{folder}: another `pixmend pack` is writing there; "
                "wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise OutputError(f"{folder}: cannot be opened: {error.strerror}; {_FIX}") from error
        yield


def _check_names(folder: StorePath, names: set[str]) -> None:
    visible = any(not name.startswith(".") for name in names)
    if visible and not names & {MANIFEST_NAME, ORIGIN_NAME}:
        raise OutputError(
            f"{folder}: the folder holds other files and no records; choose a new or an empty one"
        )


def finished_manifest(folder: StorePath, origin: PackOrigin) -> Manifest | None:
    """Return the manifest of ``folder`` if it holds all that ``origin`` makes, else None."""
    if not (folder / MANIFEST_NAME).is_file():
        origin.check(folder)
        return None
    try:
        manifest = Manifest.read(folder)
    except InputError as error:
        raise OutputError(f"{folder}: holds records that cannot be read; {_FIX}") from error
    if not (folder / ORIGIN_NAME).is_file():
        raise OutputError(f"{folder}: holds records of unknown origin; {_FIX}")
    same = origin.check(folder)
    sizes = {file.name: file.bytes for file in folder.files()}
    whole = all(sizes.get(shard.name) == shard.bytes for shard in manifest.shards)
    return manifest if same and whole else None


def clean(folder: StorePath, shards: frozenset[str]) -> None:
    """Remove temporary files of killed runs, and all shards but ``shards``."""
    for name, *_ in list(folder.files()):
        stale = SHARD_FILE.fullmatch(name) and f"{name.rpartition('.')[0]}.tfrecord" not in shards
        if stale or (name.startswith(".") and name.endswith(TEMPORARY) and "/" not in name):
            (folder / name).remove(missing_ok=True)
