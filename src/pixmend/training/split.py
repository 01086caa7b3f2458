"""The held-out images of a run: whole groups that training never sees.

A split by file would train on near copies of held-out images, such as other faces of a font.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.errors import InputError
from pixmend.records import Records, groups_of, provenance
from pixmend.rng import array_generator_for
from pixmend.storage import StorePath, write_text

_FORMAT = 1
_MIN_IMAGES = 100  # fewer images are all needed for training
_MAX_HELD_OUT = 512  # more would hardly make the scores steadier
_MIN_HELD_OUT, _MIN_HELD_OUT_FROM = 16, 200  # at least 16 of 200 images and more


@dataclass(frozen=True, eq=False)
class Split:
    """The images of training and of scoring; no group has images in both."""

    training: NDArray[np.int64]  # ascending indices of records, [N]
    held_out: NDArray[np.int64]  # [M]
    groups: tuple[str, ...] = ()  # names of the held-out groups
    duplicates: int = 0  # images of these groups that equal training images, and are in neither


def split_by_group(
    group_of: Sequence[str], digests: NDArray[np.uint64], *, seed: int, share: float
) -> Split:
    """Draw groups until ``share`` of the images is held out; ``group_of`` and ``digests`` are [N].

    At most 512 images, at least 16 of 200, and none of fewer than 100. Groups that would double the
    target are skipped; if all would, the smallest is held out, with 512 of its images for scoring.
    """
    count = len(group_of)
    everything = np.arange(count)
    target = _target(count, share)
    names = sorted(set(group_of))
    if not target or len(names) < 2:
        return Split(everything, np.empty(0, np.int64))
    numbers = _numbers(group_of, names)
    sizes = np.bincount(numbers)
    limit = min(2 * target, _MAX_HELD_OUT, count // 2)
    groups, total = list[int](), 0
    for number in array_generator_for(seed, "held out", "families").permutation(len(sizes)):
        if total + sizes[number] <= limit:
            groups.append(int(number))
            total += sizes[number]
        if total >= target:
            break
    groups = sorted(groups) or [int(sizes.argmin())]
    excluded = np.isin(numbers, groups)
    training, held_out = everything[~excluded], everything[excluded]
    unseen = held_out[~np.isin(digests[held_out], digests[training])]
    duplicates = len(held_out) - len(unseen)
    if len(unseen) > _MAX_HELD_OUT:
        generator = array_generator_for(seed, "held out", "images")
        unseen = generator.choice(unseen, _MAX_HELD_OUT, replace=False)
    return Split(training, np.sort(unseen), tuple(names[number] for number in groups), duplicates)


def open_split(
    path: Path, records: Records, *, seed: int, share: float, group: Group = SINGLE_PROCESS
) -> Split:
    """Read the split of ``records`` from ``path``, or draw and write it, in the main process for all."""
    count = len(records)
    if not _target(count, share):
        return Split(np.arange(count), np.empty(0, np.int64))
    key: dict[str, Any] = {"format": _FORMAT, "data_digest": records.digest, "count": count}
    key |= {"seed": seed, "share": share}
    facts = None
    if group.is_main:
        facts = _read(path, key)
        if facts is None:
            source = provenance(records)
            group_of = groups_of(source.names, source.labels)
            split = split_by_group(group_of, source.digests, seed=seed, share=share)
            used = np.concatenate([split.training, split.held_out])
            facts = key | {
                "groups": split.groups,
                "held_out": split.held_out.tolist(),
                "unused": np.setdiff1d(np.arange(count), used).tolist(),
                "duplicates": split.duplicates,
            }
            write_text(path, json.dumps(facts) + "\n")
    return _from_json(group.broadcast_object(facts))


def group_numbers(records: Records) -> NDArray[np.int64]:
    """Return the group number of each record, int64 [N]."""
    source = provenance(records)
    group_of = groups_of(source.names, source.labels)
    return _numbers(group_of, sorted(set(group_of)))


def _numbers(group_of: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    # Not np.unique: an array of text takes the longest name's space for every image.
    place = {name: number for number, name in enumerate(names)}
    return np.fromiter((place[name] for name in group_of), np.int64, len(group_of))


def _target(count: int, share: float) -> int:
    """Return the number of images to hold out of ``count``."""
    if count < _MIN_IMAGES or not share:
        return 0
    least = _MIN_HELD_OUT if count >= _MIN_HELD_OUT_FROM else 1
    return min(_MAX_HELD_OUT, max(round(share * count), least))


def _from_json(facts: Mapping[str, Any]) -> Split:
    held_out, unused = (np.array(facts[name], np.int64) for name in ("held_out", "unused"))
    training = np.setdiff1d(np.arange(facts["count"]), np.concatenate([held_out, unused]))
    return Split(training, held_out, tuple(facts["groups"]), int(facts["duplicates"]))


def _read(path: Path, key: Mapping[str, object]) -> dict[str, Any] | None:
    """Return the facts of a split; None if they are missing, damaged or of another draw."""
    try:
        facts: dict[str, Any] = StorePath(path).read_json()
        if any(facts[name] != value for name, value in key.items()):
            return None
        _from_json(facts)
    except (InputError, ValueError, KeyError, TypeError):
        return None
    return facts
