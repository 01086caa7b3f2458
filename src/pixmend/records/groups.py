"""Groups of related images: two faces of one font must not be split between training and test.

The group of an image is read off its file name, by the first rule that gives usable groups:

1. The text before ``__`` in the stem (``clear-sans__bold.png``: clear-sans); without one, the
   leading word, up to the first of ``- _ + .``, space or a digit (``archer+female-bow-1.png``:
   archer), or the leading number (``25-female.png``: 25, as ``025.png``). A number without a suffix
   is a position in a container (``train-images-idx3-ubyte.gz/25``), and says nothing.
2. The trailing number, across classes (``Sample001/img001-00007.png``: 7, the font in Chars74K).
3. Each file is its own group.

Groups are usable if there are at least 10, none has more than a quarter of the images, and they are
not just the classes.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError
from pixmend.records.dataset import Records
from pixmend.records.manifest import INPUTS_NAME
from pixmend.storage import parse_json

_MIN_GROUPS = 10
_MAX_SHARE = 0.25
_LEADING = re.compile(r"[-_+. ]*(?:(\d+)|([^\d\-_+. ]+))")
_POSITION = re.compile(r"[^/]/\d+$")
_TRAILING = re.compile(r"(\d+)\W*$")


def groups_of(names: Sequence[str], labels: Sequence[str | int | None]) -> list[str]:
    """Return the group of each image, [N], from the names of files and the classes.

    Folders are ignored, so that a group spans classes.
    """
    stems = [_stem(name) for name in names]
    by_word = [
        name if _POSITION.search(name) else _word(stem)
        for name, stem in zip(names, stems, strict=True)
    ]
    if _usable(by_word) and not _same_partition(by_word, labels):
        return by_word
    alone = [f"{index} {stem}" for index, stem in enumerate(stems)]
    by_number = [_number(stem) or own for stem, own in zip(stems, alone, strict=True)]
    return by_number if _usable(by_number) else alone


def _stem(name: str) -> str:
    file = name.rpartition("/")[2]
    stem, dot, _ = file.rpartition(".")
    return stem if dot and stem else file


def _word(stem: str) -> str:
    before, mark, _ = stem.partition("__")
    if mark and before:
        return before.casefold()
    match = _LEADING.match(stem)
    if match is None:
        return stem
    number, word = match.groups()
    return _plain(number) if number else word.casefold()


def _number(stem: str) -> str:
    match = _TRAILING.search(stem)
    return _plain(match[1]) if match else ""


def _plain(number: str) -> str:
    # Not int(), which refuses numbers of more than 4,300 digits.
    return number.lstrip("0") or "0"


def _usable(groups: Sequence[str]) -> bool:
    counts = Counter(groups)
    return len(counts) >= _MIN_GROUPS and max(counts.values()) <= _MAX_SHARE * len(groups)


def _same_partition(groups: Sequence[str], labels: Sequence[str | int | None]) -> bool:
    pairs = set(zip(groups, labels, strict=True))
    return len(pairs) == len(set(groups)) == len(set(labels))


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Provenance:
    """What tells records apart, [N] each."""

    names: list[str]  # of the files
    labels: list[str | int | None]  # class text or number, None or -1 without
    digests: NDArray[np.uint64]  # equal for equal pixels, because one encoder wrote all PNGs


def provenance(records: Records) -> Provenance:
    """Return the provenance of every record; a RecordError names a broken one.

    Names and classes are read from inputs.jsonl, 3 µs a record; decoding an Example takes 83 µs.
    """
    everything = range(len(records))
    facts = _listed(records)
    if facts is None:
        facts = records.names(everything), [int(label) for label in records.labels(everything)]
    digests = (_digest(records.payload(index)) for index in everything)
    return Provenance(*facts, np.fromiter(digests, np.uint64, len(records)))


def _digest(payload: bytes) -> int:
    start = payload.find(_PNG_START)
    end = payload.find(_PNG_END, start)
    return int.from_bytes(hashlib.blake2b(payload[start:end], digest_size=8).digest(), "little")


def _listed(records: Records) -> tuple[list[str], list[str | int | None]] | None:
    """Return names and classes from inputs.jsonl, or None where it does not match the records."""
    if len(records) != records.manifest.count:  # renumbered, as some were left out
        return None
    try:
        with (records.path / INPUTS_NAME).open() as lines:
            inputs = [parse_json(line) for line in lines]
        facts = [(str(each["name"]), each["class"]) for each in inputs if "reason" not in each]
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None
    if len(facts) != len(records):
        return None
    return [name for name, _ in facts], [label for _, label in facts]
