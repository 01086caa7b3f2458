"""Groups of related images: two faces of one font must not be split between training and test.

The group of an image is read off its file name, by the first rule that gives usable groups:

1. The text before ``__`` in the stem (``clear-sans__bold.png``: clear-sans); without one, the
   leading word, up to the first of ``- _ + .``, space or a digit (``archer+female-bow-1.png``:
   archer).
2. The folder (``A/gothic/1.png``: gothic).
3. Each file is its own group.

Numbers and hashes say nothing: image 25 of one set has nothing to do with image 25 of another. A
name without a word is a group of its own. Groups are usable if there are at least 10, some have
several images, none has more than a quarter of them, and they are not just the classes.
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
_WORD = re.compile(r"[-_+. (]*([^\W\d_]+)\d*(?![^\W_])")  # letters, not with digits among them
_HASH = re.compile(r"(?=.*\d)[0-9a-f]{8,}(?![^\W_])")
_POSITION = re.compile(r"[^/]/\d+$")  # in a container, as in train-images-idx3-ubyte.gz/25


def groups_of(names: Sequence[str], labels: Sequence[str | int | None]) -> list[str]:
    """Return the group of each image, [N], from the names of files and the classes."""
    alone = [f"{index} {name}" for index, name in enumerate(names)]
    for rule in (_word, _folder):
        keys = [rule(name) for name in names]
        groups = [key or own for key, own in zip(keys, alone, strict=True)]
        # Where most names have no word, the others are hashes that happen to begin with letters.
        if 2 * keys.count("") <= len(keys) and _usable(groups, labels):
            return groups
    return alone


def _word(name: str) -> str:
    file = name.rpartition("/")[2]
    stem = (file.rpartition(".")[0] or file).casefold()
    if _POSITION.search(name) or _HASH.match(stem):
        return ""
    before, mark, _ = stem.partition("__")
    if mark and before:
        text = re.sub(r"\d", "", before)
        return text if re.search(r"[^\W_]", text) else ""
    match = _WORD.match(stem)
    return match[1] if match else ""


def _folder(name: str) -> str:
    folder = "" if _POSITION.search(name) else name.rpartition("/")[0].rpartition("/")[2]
    return folder.casefold()


def _usable(groups: Sequence[str], labels: Sequence[str | int | None]) -> bool:
    counts = Counter(groups)
    pairs = set(zip(groups, labels, strict=True))
    are_classes = len(pairs) == len(counts) == len(set(labels))
    several = _MIN_GROUPS <= len(counts) < len(groups)
    return several and max(counts.values()) <= _MAX_SHARE * len(groups) and not are_classes


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Provenance:
    """What distinguishes records, [N] each."""

    names: list[str]  # of the files
    labels: list[str | int | None]  # class text or number, None or -1 without
    digests: NDArray[np.uint64]  # equal for equal pixels, because one encoder wrote all PNGs


def provenance(records: Records) -> Provenance:
    """Return the provenance of every record; a RecordError names a broken one."""
    everything = range(len(records))
    facts = _listed(records)  # 3 µs a record; decoding an Example takes 83 µs
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
        inputs = [parse_json(line) for line in (records.path / INPUTS_NAME).lines()]
        facts = [(str(each["name"]), each["class"]) for each in inputs if "reason" not in each]
    except (InputError, ValueError, KeyError, TypeError):
        return None
    if len(facts) != len(records):
        return None
    return [name for name, _ in facts], [label for _, label in facts]
