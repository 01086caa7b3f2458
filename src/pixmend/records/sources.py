"""Where images come from: a folder, a zip, idx files, TFRecords or a single image.

`find_source` tells which; `Source.items` lists what is there, in an order that depends on names
alone, without decoding any image; `contents` fetches the contents. An item is a few plain values,
so that a list of a million is a file of text that workers read their share of.
"""

import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pixmend.errors import InputError
from pixmend.images import EXTENSIONS
from pixmend.records import archives, foreign, idx
from pixmend.records.members import class_depth

__all__ = ["Item", "Kind", "Source", "find_source", "item_from_line", "item_to_line"]

Kind: TypeAlias = Literal["image", "zip", "idx", "tfrecord"]

_IDX_NAME = re.compile(r"idx(\d)?([-.]?ubyte)?(\.gz)?$")
_TFRECORD_NAME = re.compile(r"(\.tfrecords?|\.tfrec|-\d{5}-of-\d{5})$")
_ENCODE = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would build one each time
# Folders of images alone, or else of these, the first kind that is there.
_CONTAINERS: tuple[Kind, ...] = ("tfrecord", "idx", "zip")


@dataclass(frozen=True, slots=True)
class Item:
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
        (bytes, modification time in ns) of ``file``: whether it changed.
    reason
        Why it was left out; empty for an image to be.
    """

    kind: Kind
    file: str
    name: str
    class_text: str | None = None
    place: tuple[int, ...] = ()
    stamp: tuple[int, int] = (0, 0)
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

    root: Path
    kind: Kind
    file: str = ""

    @property
    def path(self) -> Path:
        """What the user gave."""
        return self.root / self.file if self.file else self.root

    def items(self, *, outside: Path | None = None) -> Iterator[Item]:
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
            yield from _items_of(self.root, self.file, self.kind, None)
            return
        depth = class_depth(
            file for file in _walk(self.root, outside) if _kind_of(file) == self.kind
        )
        for file in _walk(self.root, outside):
            kind = _kind_of(file)
            if file.endswith("/"):
                yield _left_out(self.root, file, self.kind, "the folder cannot be opened")
            if kind is None:
                continue
            parents = _label(file).split("/")[:-1]
            text = parents[depth] if len(parents) > depth else None
            if kind != self.kind:
                yield _left_out(self.root, file, kind, _MIXED.format(self.kind))
                continue
            try:
                yield from _items_of(self.root, file, kind, text)
            except InputError as error:
                yield _left_out(self.root, file, kind, _reason(error, self.root / file))


def find_source(path: Path | str) -> Source:
    """Tell what kind of source ``path`` is.

    A folder with images anywhere in it is a folder of images; containers (zip, idx, TFRecord)
    beside them are left out, with a reason. A folder without images is all its containers, of the
    first of TFRecord, idx, zip found.

    Raises
    ------
    InputError
        Missing, empty, or nothing in it is of a known kind.
    """
    path = Path(path)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        if is_folder:
            next(path.iterdir(), None)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if not is_folder:
        kind = _kind_of(path.name)
        if kind is None:
            raise InputError(
                f"{path}: not a source of images; give a folder, a zip, an idx file (.gz too), "
                "a TFRecord or an image"
            )
        return Source(path.parent, kind, path.name)
    best: Kind | None = None
    for file in _walk(path):
        kind = _kind_of(file)
        if kind == "image":
            return Source(path, "image")
        if kind is not None and (best is None or _rank(kind) < _rank(best)):
            best = kind
    if best is None:
        kinds = ", ".join(sorted(suffix[1:] for suffix in EXTENSIONS))
        raise InputError(f"{path}: no image in it; put {kinds}, zip, idx or TFRecord files there")
    return Source(path, best)


def item_to_line(item: Item) -> str:
    """Return an item as one line of JSON, pure ASCII, without the newline."""
    fields = (item.kind, item.file, item.name, item.class_text, item.place, item.stamp, item.reason)
    return _ENCODE(fields)


def item_from_line(line: str | bytes) -> Item:
    """Return the item of a line of `item_to_line`."""
    kind, file, name, class_text, place, stamp, reason = json.loads(line)
    return Item(kind, file, name, class_text, tuple(place), (stamp[0], stamp[1]), reason)


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


def _items_of(root: Path, file: str, kind: Kind, class_text: str | None) -> Iterator[Item]:
    """Yield the items of one file.

    Raises
    ------
    InputError
        It is a container that cannot be read.
    """
    stamp = _stamp(root, file)
    label = _label(file)
    if stamp is None:
        yield _left_out(root, file, kind, "not a regular file, or a link to nothing")
    elif kind == "image":
        yield Item(kind, file, label, class_text, (), stamp)
    else:
        list_members = {"zip": archives.members, "idx": idx.members, "tfrecord": foreign.members}
        for member in list_members[kind](root / file):
            yield Item(
                kind,
                file,
                f"{label}/{member.name}",
                class_text if member.class_text is None else member.class_text,
                member.place,
                stamp,
                member.reason,
            )


def _walk(root: Path, outside: Path | None = None) -> Iterator[str]:
    """Yield the files under ``root`` as paths relative to it, each folder's entries in order of name.

    Hidden entries are passed over, and links to folders not followed: a link could lead out of the
    folder, or in circles. A folder that cannot be opened is yielded itself, with a slash at its
    end.
    """
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


def _stamp(root: Path, file: str) -> tuple[int, int] | None:
    """Return (bytes, modification time in ns) of a regular file; None for anything else, which could block a reader."""
    try:
        status = os.stat(os.path.join(root, file))  # noqa: PTH116, PTH118 - a Path a file is a third of the time
    except OSError:
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _left_out(root: Path, file: str, kind: Kind, reason: str) -> Item:
    return Item(kind, file, _label(file), None, (), _stamp(root, file) or (0, 0), reason)


def _label(file: str) -> str:
    """Return a file name as text that can be written anywhere: bytes that are no UTF-8 are replaced."""
    return file if file.isascii() else os.fsencode(file).decode("utf-8", "replace")


def _reason(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
