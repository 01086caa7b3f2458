"""Which images belong together: two faces of one font, two frames of one walk, are no test of each other.

A family is read off the file names, by the first of these rules that gives usable families:

1. The text before ``__`` in the stem, where there is one (``clear-sans__bold.png``: clear-sans); else the stem's leading word,
   up to the first of ``- _ + .``, space or a digit (``archer+female-bow-1.png``: archer), or its leading number (``25-female.png``:
   25, as ``025.png``). A number without a suffix is an item's place in a container (``train-images-idx3-ubyte.gz/25``), and says nothing.
2. The trailing number, across classes (``Sample001/img001-00007.png``: 7, which is the font in Chars74K).
3. Each file for itself.

Families are usable when there are at least 10, none holds more than a quarter of the images, and they are not just the classes.
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

_FEWEST = 10
_LARGEST_SHARE = 0.25
_SEPARATORS = "-_+. "
_LEADING = re.compile(r"(\d+)|([^\d\-_+. ]+)")
_PLACE = re.compile(r"[^/]/\d+$")
_TRAILING = re.compile(r"(\d+)\W*$")


def groups_of(names: Sequence[str], labels: Sequence[str | int | None]) -> list[str]:
    """Return the family of each image, [N].

    Parameters
    ----------
    names
        Of the files, as `Records.names` gives them; folders are left out of account, so that a family spans classes.
    labels
        The class of each image: families that are the classes over again say nothing.
    """
    stems = [_stem(name) for name in names]
    by_word = [
        name if _PLACE.search(name) else _word(stem)
        for name, stem in zip(names, stems, strict=True)
    ]
    if _usable(by_word) and not _same_partition(by_word, labels):
        return by_word
    by_number = [_number(stem) or f"{index} {stem}" for index, stem in enumerate(stems)]
    if _usable(by_number):
        return by_number
    return [f"{index} {stem}" for index, stem in enumerate(stems)]


def _stem(name: str) -> str:
    file = name.rpartition("/")[2]
    stem, dot, _ = file.rpartition(".")
    return stem if dot and stem else file


def _word(stem: str) -> str:
    before, mark, _ = stem.partition("__")
    if mark and before:
        return before.casefold()
    found = _LEADING.match(stem.lstrip(_SEPARATORS))
    if found is None:
        return stem
    number, word = found.groups()
    return _plain(number) if number else word.casefold()


def _number(stem: str) -> str:
    found = _TRAILING.search(stem)
    return _plain(found[1]) if found else ""


def _plain(number: str) -> str:
    # Not int(): that refuses numbers of more than 4,300 digits.
    return number.lstrip("0") or "0"


def _usable(groups: Sequence[str]) -> bool:
    counts = Counter(groups)
    return len(counts) >= _FEWEST and max(counts.values()) <= _LARGEST_SHARE * len(groups)


def _same_partition(groups: Sequence[str], labels: Sequence[str | int | None]) -> bool:
    pairs = set(zip(groups, labels, strict=True))
    return len(pairs) == len(set(groups)) == len(set(labels))


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Provenance:
    """What tells records apart.

    Attributes
    ----------
    names, labels
        Of each record's file and class, [N]; a label is a class text or number, None or -1 where there is none.
    digests
        uint64 [N]; equal for equal pixels: records are PNGs that one encoder wrote.
    """

    names: list[str]
    labels: list[str | int | None]
    digests: NDArray[np.uint64]


def provenance(records: Records) -> Provenance:
    """Return the origin of every record, in their order.

    A record's Example takes 83 µs to decode, its line of inputs.jsonl 3 µs and its digest 7 to 13 (measured): a million
    records take 20 seconds this way and two minutes the other.

    Raises
    ------
    RecordError
        A record is broken.
    """
    names, labels = _listed(records) or _recorded(records)
    digests = np.fromiter(
        (_digest(records.payload(index)) for index in range(len(records))), np.uint64, len(records)
    )
    return Provenance(names, labels, digests)


def _digest(payload: bytes) -> int:
    start = payload.find(_PNG_START)
    end = payload.find(_PNG_END, start)
    return int.from_bytes(hashlib.blake2b(payload[start:end], digest_size=8).digest(), "little")


def _listed(records: Records) -> tuple[list[str], list[str | int | None]] | None:
    """Read the list that `pack` left beside the shards, or return None where it does not match them."""
    if len(records) != records.manifest.count:  # renumbered, as some were left out
        return None
    names: list[str] = []
    labels: list[str | int | None] = []
    try:
        with (records.path / INPUTS_NAME).open() as lines:
            for line in lines:
                facts = parse_json(line)
                if "reason" not in facts:
                    names.append(str(facts["name"]))
                    labels.append(facts["class"])
    except (InputError, OSError, ValueError, KeyError, TypeError):
        return None
    return (names, labels) if len(names) == len(records) else None


def _recorded(records: Records) -> tuple[list[str], list[str | int | None]]:
    everything = range(len(records))
    return records.names(everything), [int(label) for label in records.labels(everything)]
