"""Which images a run is judged by: whole families that training never sees.

A split by file would let the nearest training image, another face of the same font, answer for the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.records import Records, groups_of, provenance
from pixmend.rng import array_generator_for
from pixmend.storage import parse_json, write_text

_FORMAT = 1
_FEWEST_IMAGES = 100  # below, every image is needed to learn from
_MOST = 512  # more would not make the scores steadier by much
_LEAST, _LEAST_FROM = 16, 200  # at least 16 of 200 and more


@dataclass(frozen=True, eq=False)
class Split:
    """The images trained on and those held out.

    Attributes
    ----------
    training
        Indices of the records that training sees, ascending, int64 [N].
    held_out
        Indices of those that it is judged by, ascending, int64 [M]; no family has images in both.
    families
        The names of the families held out.
    duplicates
        Images of these families that are left out of both, because their pixels are also a training image's.
    """

    training: NDArray[np.int64]
    held_out: NDArray[np.int64]
    families: tuple[str, ...] = ()
    duplicates: int = 0


def split_by_group(
    family_of: Sequence[str], digests: NDArray[np.uint64], *, seed: int, share: float
) -> Split:
    """Draw families until ``share`` of the images is held out: at most 512, at least 16 of 200, none of fewer than 100.

    Families that would carry the number over twice of what is wanted are passed over. Where all would, the smallest is
    kept out of training and 512 of its images are judged by.

    Parameters
    ----------
    family_of
        The family of each image, [N].
    digests
        [N], equal for equal pixels.
    """
    count = len(family_of)
    everything = np.arange(count)
    wanted = _wanted(count, share)
    names = sorted(set(family_of))
    if not wanted or len(names) < 2:
        return Split(everything, np.empty(0, np.int64))
    codes = _numbered(family_of, names)
    sizes = np.bincount(codes)
    chosen = _draw(sizes, wanted, min(2 * wanted, _MOST, count // 2), seed)
    kept_out = np.isin(codes, chosen)
    training, held_out = everything[~kept_out], everything[kept_out]
    fresh = held_out[~np.isin(digests[held_out], digests[training])]
    duplicates = len(held_out) - len(fresh)
    if len(fresh) > _MOST:
        fresh = array_generator_for(seed, "held out", "images").choice(fresh, _MOST, replace=False)
    return Split(training, np.sort(fresh), tuple(names[number] for number in chosen), duplicates)


def open_split(
    path: Path, records: Records, *, seed: int, share: float, group: Group = SINGLE_PROCESS
) -> Split:
    """Return the split of ``records``, from the file ``path`` if it holds that one, else drawn and written there.

    In a group the first process reads, draws and writes, and tells the others: a file may hold the draw of an older version.

    Raises
    ------
    RecordError
        A record is broken.
    OutputError
        ``path`` cannot be written.
    """
    if not _wanted(len(records), share):
        return Split(np.arange(len(records)), np.empty(0, np.int64))
    drawn_for = {
        "format": _FORMAT,
        "data_digest": records.digest,
        "count": len(records),
        "seed": seed,
        "share": share,
    }
    facts = None
    if group.is_main:
        facts = _read(path, drawn_for)
        if facts is None:
            origin = provenance(records)
            family_of = groups_of(origin.names, origin.labels)
            drawn = split_by_group(family_of, origin.digests, seed=seed, share=share)
            facts = {**drawn_for, **_facts_of(drawn, len(records))}
            write_text(path, json.dumps(facts) + "\n")
    return _split_of(group.broadcast_object(facts))


def family_numbers(records: Records) -> NDArray[np.int64]:
    """Return the number of each record's family, int64 [N]: equal for images of one family."""
    origin = provenance(records)
    family_of = groups_of(origin.names, origin.labels)
    return _numbered(family_of, sorted(set(family_of)))


def _numbered(family_of: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    # By hand: an array of text would take the longest name's room for every image.
    place = {name: number for number, name in enumerate(names)}
    return np.fromiter((place[name] for name in family_of), np.int64, len(family_of))


def _wanted(count: int, share: float) -> int:
    if count < _FEWEST_IMAGES or not share:
        return 0
    return min(_MOST, max(round(share * count), _LEAST if count >= _LEAST_FROM else 1))


def _draw(sizes: NDArray[np.int64], wanted: int, most: int, seed: int) -> NDArray[np.int64]:
    """Return which families are held out, as places in ``sizes``, ascending."""
    chosen: list[int] = []
    held = 0
    for family in array_generator_for(seed, "held out", "families").permutation(len(sizes)):
        if held + sizes[family] <= most:
            chosen.append(int(family))
            held += sizes[family]
        if held >= wanted:
            break
    return np.array(sorted(chosen) or [int(sizes.argmin())], np.int64)


def _facts_of(split: Split, count: int) -> dict[str, object]:
    unused = np.setdiff1d(np.setdiff1d(np.arange(count), split.training), split.held_out)
    return {
        "families": split.families,
        "held_out": split.held_out.tolist(),
        "unused": unused.tolist(),
        "duplicates": split.duplicates,
    }


def _split_of(facts: Mapping[str, Any]) -> Split:
    """Return what `_facts_of` told of."""
    held_out = np.array(facts["held_out"], np.int64)
    unused = np.array(facts["unused"], np.int64)
    training = np.setdiff1d(np.arange(facts["count"]), np.concatenate([held_out, unused]))
    return Split(training, held_out, tuple(facts["families"]), int(facts["duplicates"]))


def _read(path: Path, drawn_for: Mapping[str, object]) -> dict[str, Any] | None:
    """Read the facts of a split; None where they are missing, damaged or of another draw."""
    try:
        facts: dict[str, Any] = parse_json(path.read_text())
        if any(facts[key] != value for key, value in drawn_for.items()):
            return None
        _split_of(facts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts
