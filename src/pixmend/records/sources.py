"""Where images come from: a folder, a zip, idx files, TFRecords or a single image.

`find_source` detects the kind. `ImageCollection.images` lists what is there, in an order that
depends on names alone, without decoding any image. An `ImageSource` is a few plain values: a list of
a million is a text file, and each worker reads its own part.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal, NamedTuple, TypeAlias

from pixmend.errors import InputError
from pixmend.images import EXTENSIONS, KNOWN_KINDS
from pixmend.records.containers import (
    Place,
    class_depth,
    class_of,
    idx_members,
    tfrecord_members,
    zip_members,
)
from pixmend.records.manifest import INPUTS_NAME, MANIFEST_NAME, SHARD_FILE
from pixmend.storage import FileInfo, StorePath, atomic_write

Kind: TypeAlias = Literal["image", "zip", "idx", "tfrecord"]
FileVersion: TypeAlias = tuple[int, int]  # bytes; modification time in ns, or a store's hash

_IDX_NAME = re.compile(r"idx(\d)?([-.]?ubyte)?(\.gz)?$")
_TFRECORD_NAME = re.compile(r"(\.tfrecords?|\.tfrec|-\d{5}-of-\d{5})$")
# What a folder without images is taken for: the first kind that it holds.
_CONTAINERS: tuple[Kind, ...] = ("tfrecord", "idx", "zip")
_MEMBERS = {"zip": zip_members, "idx": idx_members, "tfrecord": tfrecord_members}


class ImageSource(NamedTuple):
    """One input: an image, or something that is left out."""

    kind: Kind  # of ``file``
    file: str  # path relative to the collection's root; may not be valid UTF-8
    name: str  # a label: ``file``, and within a container the member's own name or number
    class_text: str | None = None
    place: Place = ()  # where in ``file``, in the terms of its kind
    version: FileVersion = (0, 0)
    reason: str = ""  # why it is left out


# Returns a source as one line of JSON, pure ASCII; json.dumps would build an encoder each time.
source_to_line = json.JSONEncoder(separators=(",", ":")).encode


def source_from_line(line: str | bytes) -> ImageSource:
    """Return the source of a line of `source_to_line`."""
    kind, file, name, class_text, place, version, reason = json.loads(line)
    return ImageSource(kind, file, name, class_text, tuple(place), (version[0], version[1]), reason)


@dataclass(frozen=True, slots=True)
class ImageCollection:
    """A folder or file with images."""

    root: StorePath  # of the sources' files
    kind: Kind  # of the files that are looked for
    file: str = ""  # the only file of ``root`` to read; empty for the whole folder

    @property
    def path(self) -> StorePath:
        """What the user gave."""
        return self.root / self.file if self.file else self.root

    def images(self, *, outside: StorePath | None = None) -> Iterator[ImageSource]:
        """Yield every input in order of name, those to leave out with their reason.

        The folder ``outside`` is skipped. InputError: the only file cannot be read.
        """
        if self.file:
            version = _version(self.root, self.path.info()) if self.path.is_file() else None
            yield from _sources_of(self.root, self.file, self.kind, None, version)
            return
        names = (file for file, _ in _walk(self.root, outside) if _kind_of(file) == self.kind)
        depth = class_depth(names)
        for file, version in _walk(self.root, outside):
            kind = _kind_of(file)
            if file.endswith("/"):
                yield _left_out(file, self.kind, "the folder cannot be opened", None)
            if kind is None:
                continue
            if kind != self.kind:
                reason = f"not looked into, for the folder holds files of kind {self.kind}"
                yield _left_out(file, kind, f"{reason}; pack it by itself", version)
                continue
            text = class_of(_label(file), depth)
            try:
                yield from _sources_of(self.root, file, kind, text, version)
            except InputError as error:
                reason = str(error).removeprefix(f"{self.root / file}: ")
                yield _left_out(file, kind, reason, version)


def find_source(
    path: StorePath | Path | str, *, outside: StorePath | None = None
) -> ImageCollection:
    """Detect the kind of source, ignoring the folder ``outside``; InputError if there is none.

    A folder with images anywhere in it is a folder of images; containers beside them are left out,
    with a reason. A folder without images is all its containers of the first kind found of
    TFRecord, idx and zip.
    """
    path = StorePath.of(path)
    path.info()  # raises where nothing is there
    if not path.is_folder():
        kind = _kind_of(path.name)
        if kind is None:
            raise InputError(
                f"{path}: not a source of images; give a folder, a zip, an idx file (.gz too), "
                "a TFRecord or an image"
            )
        return ImageCollection(path.parent, kind, path.name)
    kinds: set[Kind | None] = set()
    packed, finished = set[str](), set[str]()  # folders with files of ours, those with a manifest
    for file, _ in _walk(path, outside):
        folder, _, name = file.rpartition("/")
        if name == MANIFEST_NAME:
            finished.add(folder)
        elif name == INPUTS_NAME or (name.endswith(".index") and SHARD_FILE.fullmatch(name)):
            packed.add(folder)
        kinds.add(_kind_of(file))
        if "image" in kinds:
            return ImageCollection(path, "image")
    kind = next((kind for kind in _CONTAINERS if kind in kinds), None)
    if kind is None:
        raise InputError(
            f"{path}: no image in it; put {KNOWN_KINDS}, zip, idx or TFRecord files there"
        )
    if kind == "tfrecord" and (unfinished := sorted(packed - finished)):
        raise InputError(
            f"{path / unfinished[0] if unfinished[0] else path}: records without a manifest.json: "
            "their packing was not finished, or the file is gone; run the same pixmend pack again"
        )
    return ImageCollection(path, kind)


@dataclass(frozen=True)
class ImageList:
    """A file of sources, one a line, so that memory stays constant and workers read their share."""

    path: Path
    count: int
    classes: tuple[str, ...]  # by label: in numerical order if all are numbers, else by text
    bytes: int  # of the listed files together
    digest: str  # SHA-256 of the list: the names, sizes and times of all inputs

    def shares(self, count: int) -> Iterator[tuple[int, int, int, str]]:
        """Cut the list evenly; yield the first source, its byte, the length and SHA-256 of each."""
        with self.path.open("rb") as file:
            for number in range(count):
                start, stop = (self.count * edge // count for edge in (number, number + 1))
                offset, digest = file.tell(), hashlib.sha256()
                for _ in range(start, stop):
                    digest.update(file.readline())
                yield start, offset, stop - start, digest.hexdigest()

    def sample(self, size: int) -> Iterator[ImageSource]:
        """Yield at most ``size`` sources, evenly spaced."""
        numbers = {number * self.count // size for number in range(size)}
        with self.path.open("rb") as lines:
            yield from (source_from_line(line) for n, line in enumerate(lines) if n in numbers)


def write_image_list(
    collection: ImageCollection,
    path: Path,
    *,
    outside: StorePath,
    check_stop: Callable[[], None] = lambda: None,
) -> ImageList:
    """Write the sources to ``path``; ``check_stop`` is called at each, and may raise."""
    classes: set[str] = set()
    digest = hashlib.sha256()
    count = size = 0
    latest = ""
    with atomic_write(path) as file:
        for source in collection.images(outside=outside):
            check_stop()
            line = source_to_line(source).encode() + b"\n"
            file.write(line)
            digest.update(line)
            count += 1
            if source.file != latest:  # the images of one container follow each other
                size, latest = size + source.version[0], source.file
            if source.class_text is not None:
                classes.add(source.class_text)
    numbers = all(text.isascii() and text.isdigit() for text in classes)
    ordered = sorted(classes, key=lambda text: (int(text[:4000]) if numbers else 0, text))
    return ImageList(path, count, tuple(ordered), size, digest.hexdigest())


def is_source(name: PurePath) -> bool:
    """Whether a file of this name can be packed."""
    return _kind_of(name.name) is not None


def _kind_of(file: str) -> Kind | None:
    name = file.rpartition("/")[2].lower()
    _, dot, suffix = name.rpartition(".")
    if dot + suffix in EXTENSIONS:
        return "image"
    if dot + suffix == ".zip":
        return "zip"
    if _TFRECORD_NAME.search(name):
        return "tfrecord"
    # idx1 is labels, which are read with their images.
    match = _IDX_NAME.search(name)
    return "idx" if match and match[1] != "1" else None


def _sources_of(
    root: StorePath, file: str, kind: Kind, class_text: str | None, version: FileVersion | None
) -> Iterator[ImageSource]:
    """Yield the sources of one file; an InputError if it is a container that cannot be read."""
    label = _label(file)
    if version is None:
        yield _left_out(
            file, kind, "not a regular file, a link to nothing, or without permission", None
        )
    elif kind == "image":
        yield ImageSource(kind, file, label, class_text, (), version)
    else:
        for name, member_class, place, reason in _MEMBERS[kind](root / file):
            text = class_text if member_class is None else member_class
            yield ImageSource(kind, file, f"{label}/{name}", text, place, version, reason)


def _walk(root: StorePath, outside: StorePath | None) -> Iterator[tuple[str, FileVersion | None]]:
    """Yield the relative paths and versions of the visible files under ``root``, as `files` does."""
    inside = None if outside is None else outside.relative_to(root)
    for file in root.files(hidden=False):
        if inside is None or not file.name.startswith(f"{inside}/"):
            yield file.name, _version(root, file)


def _version(root: StorePath, file: FileInfo) -> FileVersion | None:
    """Return the version of a regular file; None for anything else, which could block a reader."""
    if not file.version:
        return None
    digest = hashlib.sha256(file.version.encode()).digest()[:6]
    number = int(file.version) if root.local is not None else int.from_bytes(digest, "little")
    return file.bytes, number


def _left_out(file: str, kind: Kind, reason: str, version: FileVersion | None) -> ImageSource:
    return ImageSource(kind, file, _label(file), None, (), version or (0, 0), reason)


def _label(file: str) -> str:
    """Return a file name as valid text: bytes that are not UTF-8 are replaced."""
    return file if file.isascii() else os.fsencode(file).decode("utf-8", "replace")
