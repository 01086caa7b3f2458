"""The list of all inputs as a file of lines: memory stays constant, and workers read only their share."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pixmend.records.sources import ImageSource, Source, item_to_line, source_from_line
from pixmend.storage import StorePath, atomic_write

_SPREAD_OVER = 16  # shards that a small folder is cut into, so that as many workers have work
_SMALLEST_SHARD = 64  # ... as long as they hold this many
_LINES_PER_START = 64  # lines between two whose starts are kept


@dataclass(frozen=True)
class Listing:
    """The file of items, and where some of its lines start.

    Attributes
    ----------
    path
        One item a line.
    count, end
        Items, and bytes of the file.
    starts
        Bytes: where every 64th line starts, so that memory hardly grows with the number of items.
    classes
        Class texts, numbered by their place: as numbers if all are, else as text.
    bytes
        Size of all files together.
    digest
        SHA-256 of the list: the names, sizes and times of all inputs.
    """

    path: Path
    count: int
    end: int
    starts: Sequence[int] = field(repr=False)
    classes: tuple[str, ...]
    bytes: int
    digest: str

    def __len__(self) -> int:
        return self.count

    def start_of(self, number: int) -> int:
        """Return the byte at which the line of item ``number`` starts, of one past the last the end of the file."""
        if number == self.count:
            return self.end
        with self.path.open("rb") as file:
            return self._seek(file, number)

    def items(self, numbers: Sequence[int]) -> Iterator[ImageSource]:
        """Yield the items of these numbers."""
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


def write_listing(
    source: Source, path: Path, *, outside: StorePath, check_stop: Callable[[], None] = lambda: None
) -> Listing:
    """Write the items of ``source`` to ``path``; ``outside`` is a folder to stay out of.

    ``check_stop`` is called at each item, and may raise.

    Raises
    ------
    InputError
        The source is one file and cannot be read.
    OutputError
        ``path`` cannot be written.
    """
    starts: array[int] = array("Q")
    classes: set[str] = set()
    digest = hashlib.sha256()
    count = end = size = 0
    latest = ""
    with atomic_write(path) as file:
        for item in source.items(outside=outside):
            check_stop()
            line = item_to_line(item).encode() + b"\n"
            if count % _LINES_PER_START == 0:
                starts.append(end)
            count, end = count + 1, end + file.write(line)
            digest.update(line)
            if item.file != latest:  # the images of one container follow each other
                size, latest = size + item.stamp[0], item.file
            if item.class_text is not None:
                classes.add(item.class_text)
    return Listing(path, count, end, starts, _numbered(classes), size, digest.hexdigest())


def shard_count(inputs: int, images_per_shard: int) -> int:
    """Return into how many shards ``inputs`` are cut: a function of these numbers alone, never of the machine."""
    spread = min(_SPREAD_OVER, -(-inputs // _SMALLEST_SHARD))
    return max(1, -(-inputs // images_per_shard), spread)


def _numbered(classes: set[str]) -> tuple[str, ...]:
    # "10" comes after "9" where the texts are labels.
    if all(text.isascii() and text.isdigit() for text in classes):
        return tuple(sorted(classes, key=lambda text: (int(text[:4000]), text)))
    return tuple(sorted(classes))
