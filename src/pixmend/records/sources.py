"""Where images come from: a folder, a zip, idx files, TFRecords or a single image.

`find_source` detects the kind; `Source.items` lists what is there, in an order that depends on names
alone, without decoding any image; `contents` fetches the contents. An item is a few plain values,
so that a list of a million is a file of text that workers read their share of.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pixmend.errors import InputError, MissingError
from pixmend.images import EXTENSIONS
from pixmend.records.containers import class_depth, idx_members, zip_members
from pixmend.records.foreign import tfrecord_members
from pixmend.records.manifest import INPUTS_NAME, MANIFEST_NAME, SHARD_FILE
from pixmend.storage import StorePath

Kind: TypeAlias = Literal["image", "zip", "idx", "tfrecord"]
FileVersion: TypeAlias = tuple[int, int]

_IDX_NAME = re.compile(r"idx(\d)?([-.]?ubyte)?(\.gz)?$")
_TFRECORD_NAME = re.compile(r"(\.tfrecords?|\.tfrec|-\d{5}-of-\d{5})$")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would build one each time
# Folders of images alone, or else of these, the first kind that is there.
_CONTAINERS: tuple[Kind, ...] = ("tfrecord", "idx", "zip")


@dataclass(frozen=True, slots=True)
class ImageSource:
    """One input: an image to be, or something that had to be left out.

    Attributes
    ----------
    kind
        What ``file`` is.
    file
        Path relative to the source's root; may hold bytes that are no UTF-8, as file names may.
    name
        What to call it: ``file``, and within a container the member's own name or number. Only ever
        a label.
    class_text
        Its class, or None.
    place
        Where in ``file``, in the terms of its kind.
    stamp
        (bytes, modification time in ns) of ``file``: whether it changed. In a store the second is a number that its version gives.
    reason
        Why it was left out; empty for an image to be.
    """

    kind: Kind
    file: str
    name: str
    class_text: str | None = None
    place: tuple[int, ...] = ()
    stamp: FileVersion = (0, 0)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """A place with images.

    Attributes
    ----------
    root
        The folder that items' files are relative to.
    file
        The one file in ``root`` that is the source; empty for the whole folder.
    kind
        What is looked for; of a folder, the kind that was found in it.
    """

    root: StorePath
    kind: Kind
    file: str = ""

    @property
    def path(self) -> StorePath:
        """What the user gave."""
        return self.root / self.file if self.file else self.root

    def items(self, *, outside: StorePath | Path | None = None) -> Iterator[ImageSource]:
        """Yield every input in order of name, and what has to be left out with its reason.

        Parameters
        ----------
        outside
            A folder to stay out of: the one being written, when it lies within this one.

        Raises
        ------
        InputError
            The one file that is the source cannot be read.
        """
        if self.file:
            yield from _items_of(self.root, self.file, self.kind, None, _stamp(self.path))
            return
        out = None if outside is None else StorePath.of(outside)
        depth = class_depth(
            file for file, _ in _walk(self.root, out) if _kind_of(file) == self.kind
        )
        for file, version in _walk(self.root, out):
            kind = _kind_of(file)
            if file.endswith("/"):
                yield _left_out(file, self.kind, "the folder cannot be opened", None)
            if kind is None:
                continue
            stamp = version or _local_stamp(self.root.local, file)
            parents = _label(file).split("/")[:-1]
            text = parents[depth] if len(parents) > depth else None
            if kind != self.kind:
                yield _left_out(file, kind, _MIXED.format(self.kind), stamp)
                continue
            try:
                yield from _items_of(self.root, file, kind, text, stamp)
            except InputError as error:
                yield _left_out(file, kind, _reason(error, self.root / file), stamp)


def find_source(path: StorePath | Path | str, *, outside: StorePath | Path | None = None) -> Source:
    """Detect the kind of source, ignoring the folder ``outside``.

    A folder with images anywhere in it is a folder of images; containers (zip, idx, TFRecord)
    beside them are left out, with a reason. A folder without images is all its containers, of the
    first of TFRecord, idx, zip found.

    Raises
    ------
    InputError
        Missing, empty, or nothing in it is of a known kind; or it holds part of what `pack` would write.
    """
    path = StorePath.of(path)
    if not _is_folder(path):
        kind = _kind_of(path.name)
        if kind is None:
            raise InputError(
                f"{path}: not a source of images; give a folder, a zip, an idx file (.gz too), "
                "a TFRecord or an image"
            )
        return Source(path.parent, kind, path.name)
    best: Kind | None = None
    packed, whole = set[str](), set[str]()  # folders with files of ours, and those with a manifest
    for file, _ in _walk(path, None if outside is None else StorePath.of(outside)):
        folder, _, name = file.rpartition("/")
        if name == MANIFEST_NAME:
            whole.add(folder)
        elif name == INPUTS_NAME or (name.endswith(".index") and SHARD_FILE.fullmatch(name)):
            packed.add(folder)
        kind = _kind_of(file)
        if kind == "image":
            return Source(path, "image")
        if kind is not None and (best is None or _rank(kind) < _rank(best)):
            best = kind
    if best is None:
        kinds = ", ".join(sorted(suffix[1:] for suffix in EXTENSIONS))
        raise InputError(f"{path}: no image in it; put {kinds}, zip, idx or TFRecord files there")
    if best == "tfrecord" and (unfinished := sorted(packed - whole)):
        raise InputError(
            f"{path / unfinished[0] if unfinished[0] else path}: records without a manifest.json: their packing was not finished, or the "
            "file is gone; run the same pixmend pack again"
        )
    return Source(path, best)


def item_to_line(item: ImageSource) -> str:
    """Return an item as one line of JSON, pure ASCII, without the newline."""
    fields = (item.kind, item.file, item.name, item.class_text, item.place, item.stamp, item.reason)
    return _ENCODE(fields)


def source_from_line(line: str | bytes) -> ImageSource:
    """Return the item of a line of `item_to_line`."""
    kind, file, name, class_text, place, stamp, reason = json.loads(line)
    return ImageSource(kind, file, name, class_text, tuple(place), (stamp[0], stamp[1]), reason)


_MIXED = "not looked into, for the folder holds files of kind {}; pack it by itself"


def _rank(kind: Kind) -> int:
    return -1 if kind == "image" else _CONTAINERS.index(kind)


def _kind_of(file: str) -> Kind | None:
    name = file.rpartition("/")[2].lower()
    stem, dot, suffix = name.rpartition(".")
    if dot + suffix in EXTENSIONS:
        return "image" if stem or dot else None
    if suffix == "zip" and dot:
        return "zip"
    if _TFRECORD_NAME.search(name):
        return "tfrecord"
    # idx1 is labels, found by way of the images they belong to.
    found = _IDX_NAME.search(name)
    return "idx" if found and found[1] != "1" else None


def _is_folder(path: StorePath) -> bool:
    try:
        if path.local is None:
            path.info()
            return path.is_folder()
        is_folder = stat.S_ISDIR(path.local.stat().st_mode)
        if is_folder:
            next(path.local.iterdir(), None)
    except (FileNotFoundError, MissingError):
        raise InputError(f"{path}: no such file or folder; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    return is_folder


def _items_of(
    root: StorePath, file: str, kind: Kind, class_text: str | None, stamp: FileVersion | None
) -> Iterator[ImageSource]:
    """Yield the items of one file.

    Raises
    ------
    InputError
        It is a container that cannot be read.
    """
    label = _label(file)
    if stamp is None:
        yield _left_out(file, kind, "not a regular file, or a link to nothing", None)
    elif kind == "image":
        yield ImageSource(kind, file, label, class_text, (), stamp)
    else:
        list_members = {"zip": zip_members, "idx": idx_members, "tfrecord": tfrecord_members}
        for member in list_members[kind](root / file):
            yield ImageSource(
                kind,
                file,
                f"{label}/{member.name}",
                class_text if member.class_text is None else member.class_text,
                member.place,
                stamp,
                member.reason,
            )


def _walk(
    root: StorePath, outside: StorePath | None = None
) -> Iterator[tuple[str, FileVersion | None]]:
    """Yield the files under ``root`` as paths relative to it, each folder's entries in order of name, with a store's file versions.

    Hidden entries are passed over, and links to folders not followed: a link could lead out of the
    folder, or in circles. A folder that cannot be opened is yielded itself, with a slash at its
    end.
    """
    if root.local is not None:
        for file in _walk_local(root.local, None if outside is None else outside.local):
            yield file, None
        return
    inside = _within(root, outside)
    for entry in root.files():
        hidden = any(part.startswith(".") for part in entry.name.split("/"))
        if not (hidden or (inside and entry.name.startswith(f"{inside}/"))):
            yield entry.name, (entry.bytes, _number_of(entry.version))


def _within(root: StorePath, outside: StorePath | None) -> str:
    """Return where ``outside`` lies in a store's folder ``root``; empty where it does not, as a folder of this machine never does."""
    if outside is None or outside.local is not None or not str(outside).startswith(f"{root}/"):
        return ""
    return str(outside).removeprefix(f"{root}/")


def _walk_local(root: Path, outside: Path | None) -> Iterator[str]:
    pending = [("", True, False)]
    while pending:
        path, is_folder, is_link = pending.pop()
        if is_folder:
            if outside is not None and _same(root / path, outside):
                continue
            try:
                pending.extend(reversed(_entries(root, path)))
            except OSError:
                yield f"{path}/"
        elif not (is_link and (root / path).is_dir()):
            yield path


def _entries(root: Path, folder: str) -> list[tuple[str, bool, bool]]:
    """Return (path, is a folder, is a link) of what is in a folder, by name."""
    with os.scandir(root / folder) as entries:
        return sorted(
            (
                f"{folder}/{entry.name}" if folder else entry.name,
                entry.is_dir(follow_symlinks=False),
                entry.is_symlink(),
            )
            for entry in entries
            if not entry.name.startswith(".")
        )


def _same(left: Path, right: Path) -> bool:
    try:
        return left.samefile(right)
    except OSError:
        return False


def _stamp(path: StorePath) -> FileVersion | None:
    """Return the stamp of a file, or None for what is none."""
    if path.local is not None:
        return _local_stamp(path.local.parent, path.local.name)
    entry = path.info()
    return entry.bytes, _number_of(entry.version)


def _number_of(version: str) -> int:
    return int.from_bytes(hashlib.sha256(version.encode()).digest()[:6], "little")


def _local_stamp(root: Path | None, file: str) -> FileVersion | None:
    """Return (bytes, modification time in ns) of a regular file; None for anything else, which could block a reader."""
    if root is None:
        return None
    try:
        status = os.stat(os.path.join(root, file))  # noqa: PTH116, PTH118 - a Path a file is a third of the time
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _left_out(file: str, kind: Kind, reason: str, stamp: FileVersion | None) -> ImageSource:
    return ImageSource(kind, file, _label(file), None, (), stamp or (0, 0), reason)


def _label(file: str) -> str:
    """Return a file name as text that can be written anywhere: bytes that are no UTF-8 are replaced."""
    return file if file.isascii() else os.fsencode(file).decode("utf-8", "replace")


def _reason(error: Exception, path: StorePath) -> str:
    return str(error).removeprefix(f"{path}: ")
