"""Where a model's file is, and its header; without torch, whose import takes seconds."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from pixmend.errors import ModelFileError, VersionError
from pixmend.storage import StorePath, open_file, parse_json

# Format written, by kind; raised when older programs cannot read a newer file. All formats up to it
# are read. Checkpoints: 1 without, 2 with the counts of skipped steps and rollbacks. Since models of 2 and checkpoints
# of 3, the inpainter sees aligned neighbours.
FORMATS = {"model": 2, "checkpoint": 3}
BUNDLED = Path(__file__).parent / "bundled"
_MAX_HEADER = 8 * 2**20


def local_model(model: str | Path) -> Path | None:
    """Return the file of a model: a file, a run directory or the name of a bundled model.

    None for a URL; ModelFileError if there is none. A run directory stands for its best model by
    the monitor, or without one for its last.
    """
    place = StorePath.of(model)
    if place.local is None or place.is_file() or place.is_folder():
        return None if place.local is None else model_in(place).local
    bundled = StorePath(BUNDLED / f"{model}.safetensors")
    if len(place.local.parts) == 1 and bundled.is_file():
        return BUNDLED / bundled.name
    names = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.safetensors"))) or "none"
    raise ModelFileError(
        f"{model}: no such model file, run directory or bundled model (bundled: {names})"
    )


def model_in(place: StorePath) -> StorePath:
    """Return the model file of a run directory, and a file as it is."""
    if not place.is_folder():
        return place
    for name in ("best.safetensors", "model.safetensors"):
        if (place / name).is_file():
            return place / name
    raise ModelFileError(
        f"{place}: holds no model.safetensors yet; train a model there first (pixmend train)"
    )


def held_out_folder(path: Path) -> Path | None:
    """Return the folder of images that a bundled or a run's model was not trained on, if any."""
    bundled = path.parent == BUNDLED
    folder = path.with_suffix("") if bundled else path.parent / "held_out"
    run = path.parent / "run.json"
    return folder if folder.is_dir() and (bundled or run.is_file()) else None


def read_header(path: Path, kind: str | None = None) -> dict[str, Any]:
    """Return the JSON header of a model file or checkpoint without reading its weights.

    ModelFileError if the file is missing, or no file of pixmend (of this ``kind``, if given);
    VersionError if its format is newer.
    """
    with opened(path) as file:
        return parse_header(path, file, kind)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; ModelFileError if it cannot be read."""
    try:
        with open_file(path) as file:
            yield file
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error


def parse_header(path: Path, file: IO[bytes], kind: str | None) -> dict[str, Any]:
    """Read the header of an open file; see `read_header`."""
    try:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, os.fstat(file.fileno()).st_size):
            raise ModelFileError(f"{path}: not a pixmend model file, or a truncated one")
        metadata = parse_json(file.read(length)).get("__metadata__", {})
        header = parse_json(metadata["pixmend"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelFileError(f"{path}: not a pixmend model file, or a truncated one") from error
    if not isinstance(header, dict) or str(header.get("kind")) not in FORMATS:
        raise ModelFileError(f"{path}: not a pixmend model file")
    if kind not in (None, header["kind"]):
        raise ModelFileError(f"{path}: holds a {header['kind']}, not a {kind}")
    newest = FORMATS[header["kind"]]
    if header.get("format") not in range(1, newest + 1):
        raise VersionError(
            f"{path}: of format {header.get('format')}; this pixmend reads formats up to {newest}: "
            "use the version that wrote it"
        )
    # Older files have no header digest.
    if header.get("header_digest", digest := header_digest(header)) != digest:
        raise ModelFileError(
            f"{path}: its header does not match its digest: altered or damaged; get the file again"
        )
    return header


def header_digest(header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of all other fields of a header."""
    facts = {key: value for key, value in header.items() if key != "header_digest"}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
