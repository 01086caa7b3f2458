"""The list of all inputs as a file of lines: constant memory, and workers read only their share."""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pixmend.records.sources import Item, Source, item_from_line, item_to_line
from pixmend.storage import Place, atomic_write

__all__ = ["Listing", "shard_count", "write_listing"]

_SPREAD_OVER = 16  # shards that a small folder is cut into, so that as many workers have work
_SMALLEST_SHARD = 64  # ... as long as they hold this many


@dataclass(frozen=True)
class Listing:
    """The file of items, and where each line starts.

    Attributes
    ----------
    path
        One item a line.
    starts
        [N + 1] bytes: where each line starts, and the end.
    classes
        Class texts, numbered by their place: as numbers if all are, else as text.
    bytes
        Size of all files together.
    digest
        SHA-256 of the list: the names, sizes and times of all inputs.
    """

    path: Path
    starts: Sequence[int] = field(repr=False)
    classes: tuple[str, ...]
    bytes: int
    digest: str

    def __len__(self) -> int:
        return len(self.starts) - 1

    def items(self, numbers: Sequence[int]) -> Iterator[Item]:
        """Yield the items of these numbers."""
        with self.path.open("rb") as file:
            for number in numbers:
                file.seek(self.starts[number])
                yield item_from_line(file.readline())

    def digest_of(self, start: int, stop: int) -> str:
        """Return the SHA-256 of the lines [start, stop)."""
        with self.path.open("rb") as file:
            file.seek(self.starts[start])
            return hashlib.sha256(file.read(self.starts[stop] - self.starts[start])).hexdigest()


def write_listing(
    source: Source, path: Path, *, outside: Place, look: Callable[[], None] = lambda: None
) -> Listing:
    """Write the items of ``source`` to ``path``; ``outside`` is a folder to stay out of.

    ``look`` is called at each item, and may raise to stop.

    Raises
    ------
    InputError
        The source is one file and cannot be read.
    OutputError
        ``path`` cannot be written.
    """
    starts: array[int] = array("Q", [0])
    classes: set[str] = set()
    digest = hashlib.sha256()
    size, latest = 0, ""
    with atomic_write(path) as file:
        for item in source.items(outside=outside):
            look()
            line = item_to_line(item).encode() + b"\n"
            file.write(line)
            digest.update(line)
            starts.append(starts[-1] + len(line))
            if item.file != latest:  # the images of one container follow each other
                size, latest = size + item.stamp[0], item.file
            if item.class_text is not None:
                classes.add(item.class_text)
    return Listing(path, starts, _numbered(classes), size, digest.hexdigest())


def shard_count(inputs: int, images_per_shard: int) -> int:
    """Return into how many shards ``inputs`` are cut: a function of these numbers alone, never of the machine."""
    spread = min(_SPREAD_OVER, -(-inputs // _SMALLEST_SHARD))
    return max(1, -(-inputs // images_per_shard), spread)


def _numbered(classes: set[str]) -> tuple[str, ...]:
    # "10" comes after "9" where the texts are labels.
    if all(text.isascii() and text.isdigit() for text in classes):
        return tuple(sorted(classes, key=lambda text: (int(text[:4000]), text)))
    return tuple(sorted(classes))
