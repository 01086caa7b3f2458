"""The list of all inputs as a file: memory stays constant, and workers read only their share."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pixmend.records.sources import (
    ImageCollection,
    ImageSource,
    source_from_line,
    source_to_line,
)
from pixmend.storage import StorePath, atomic_write

_LINES_PER_START = 64  # lines between two whose starts are kept in memory


@dataclass(frozen=True)
class ImageList:
    """A file of sources, one a line."""

    path: Path
    count: int
    end: int  # bytes of the file
    starts: Sequence[int] = field(repr=False)  # bytes, of every 64th line: memory hardly grows
    classes: tuple[str, ...]  # by label: in numerical order if all are numbers, else by text
    bytes: int  # of the listed files together
    digest: str  # SHA-256 of the list: the names, sizes and times of all inputs

    def start_of(self, number: int) -> int:
        """Return the byte at which the line of a source starts; ``number`` may be ``count``."""
        if number == self.count:
            return self.end
        with self.path.open("rb") as file:
            return self._seek(file, number)

    def sources(self, numbers: Sequence[int]) -> Iterator[ImageSource]:
        """Yield the sources of these numbers."""
        with self.path.open("rb") as file:
            for number in numbers:
                self._seek(file, number)
                yield source_from_line(file.readline())

    def digest_of(self, start: int, stop: int) -> str:
        """Return the SHA-256 of the lines [start, stop)."""
        with self.path.open("rb") as file:
            length = self.start_of(stop) - self._seek(file, start)
            return hashlib.sha256(file.read(length)).hexdigest()

    def _seek(self, file: BinaryIO, number: int) -> int:
        file.seek(self.starts[number // _LINES_PER_START])
        for _ in range(number % _LINES_PER_START):
            file.readline()
        return file.tell()


def write_image_list(
    collection: ImageCollection,
    path: Path,
    *,
    outside: StorePath,
    check_stop: Callable[[], None] = lambda: None,
) -> ImageList:
    """Write the sources of ``collection`` to ``path``, skipping the folder ``outside``.

    ``check_stop`` is called at each source, and may raise.
    """
    starts: array[int] = array("Q")
    classes: set[str] = set()
    digest = hashlib.sha256()
    count = end = size = 0
    latest = ""
    with atomic_write(path) as file:
        for source in collection.images(outside=outside):
            check_stop()
            line = source_to_line(source).encode() + b"\n"
            if count % _LINES_PER_START == 0:
                starts.append(end)
            count, end = count + 1, end + file.write(line)
            digest.update(line)
            if source.file != latest:  # the images of one container follow each other
                size, latest = size + source.version[0], source.file
            if source.class_text is not None:
                classes.add(source.class_text)
    return ImageList(path, count, end, starts, _in_order(classes), size, digest.hexdigest())


def _in_order(classes: set[str]) -> tuple[str, ...]:
    if all(text.isascii() and text.isdigit() for text in classes):
        return tuple(sorted(classes, key=lambda text: (int(text[:4000]), text)))
    return tuple(sorted(classes))
