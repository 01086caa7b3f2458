"""The images that methods are judged by: brought to the model's shape, none of them a training image over again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from pixmend.errors import InputError, SettingsError
from pixmend.evaluation.rivals import Images
from pixmend.images import fit_square, open_image, parse_colour, to_channels, to_eight_bits
from pixmend.models import DCGAN, Retrieval
from pixmend.records import Records, groups_of, provenance
from pixmend.rng import array_generator_for
from pixmend.storage import StorePath

_MOST_BYTES = 2**34  # of training images in memory
_LEAST_RMS = 2.0  # grey levels
_UNLIKE = 0.1  # of an image's standard deviation: a near-duplicate explains 99 % of its variance
_CHUNK = 64


class Source(Protocol):
    """Images by number, with what is known of each."""

    names: list[str]
    labels: list[str | int | None]

    def read(self, index: int) -> Images:
        """Return one image, uint8 [H, W, C].

        Raises
        ------
        InputError
            It cannot be read.
        """
        ...


class Files:
    """Image files; the label of each is its folder."""

    def __init__(self, paths: Sequence[Path | StorePath], names: Sequence[str]) -> None:
        self._paths = list(paths)
        self.names = list(names)
        self.labels: list[str | int | None] = [path.parent.name for path in paths]

    def read(self, index: int) -> Images:
        """Return one image, uint8 [H, W, C]."""
        pixels: Images = to_eight_bits(open_image(self._paths[index]).pixels).astype(np.uint8)
        return pixels


class Recorded:
    """The images of a record folder."""

    def __init__(self, records: Records) -> None:
        self._records = records
        origin = provenance(records)
        self.names, self.labels = origin.names, origin.labels

    def read(self, index: int) -> Images:
        """Return one image, uint8 [S, S, C]."""
        pixels: Images = self._records.images([index])[0]
        return pixels


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """What the model was trained on: images uint8 [N, S, S, C], the names of their files, and a digest."""

    images: Images
    names: list[str]
    labels: list[str | int | None]
    digest: str


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The images to judge by, in the order in which they were drawn.

    Attributes
    ----------
    images
        uint8 [N, S, S, C], of the model's size and channels.
    names, families, labels
        Of each, [N]; a label is the class of a record or the folder of a file.
    looked_at, available
        How many were looked at to find them, and how many there are.
    duplicates
        Names of those left out because a training image is all but the same.
    shared
        Families that the training data has too: their images are kept, and judged too kindly.
    failed
        Name and reason of what could not be read.
    """

    images: Images
    names: list[str]
    families: list[str]
    labels: list[str | int | None]
    looked_at: int
    available: int
    duplicates: list[str]
    shared: list[str]
    failed: list[tuple[str, str]]


def open_training(records: Records, model: DCGAN) -> TrainingImages:
    """Read the model's training images.

    Raises
    ------
    SettingsError
        They are of another shape than the model's, or too many for memory.
    """
    settings = model.settings
    if (records.size, records.channels) != (settings.size, settings.channels):
        raise SettingsError(
            f"--train-data {records.path}: images of {records.size} px {records.channels}, and the model's are {settings.size} px "
            f"{settings.channels}; give the records that it was trained on"
        )
    images = records.load_all(_MOST_BYTES)
    if images is None or not len(images):
        raise SettingsError(
            f"--train-data {records.path}: {len(records):,} images; needs at least one, and no more than 16 GiB of them"
        )
    origin = provenance(records)
    return TrainingImages(images, origin.names, origin.labels, records.digest)


def choose_held_out(
    source: Source,
    model: DCGAN,
    train: TrainingImages | None,
    *,
    count: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> HeldOut:
    """Draw up to ``count`` images without replacement, and leave out what training has seen.

    A larger ``count`` gives the same images and more. ``on_progress`` is told how many of how many were found.

    Raises
    ------
    InputError
        Nothing is left to judge by; the message says why.
    """
    order = array_generator_for(seed, "evaluate", "images").permutation(len(source.names))
    memory = None if train is None else Retrieval(_tensor(train.images))
    kept: list[tuple[int, Images]] = []
    duplicates: list[str] = []
    failed: list[tuple[str, str]] = []
    looked_at = 0
    while len(kept) < count and looked_at < len(order):
        # Never more at a time than are wanted: what is looked at must not hang on the size of chunks.
        part = order[looked_at : looked_at + min(_CHUNK, count - len(kept))]
        looked_at += len(part)
        read = []
        for index in part.tolist():
            try:
                read.append((index, _fitted(source.read(index), model)))
            except InputError as error:
                failed.append((source.names[index], str(error)))
        seen = _seen(memory, [image for _, image in read])
        for (index, image), known in zip(read, seen, strict=True):
            if known:
                duplicates.append(source.names[index])
            else:
                kept.append((index, image))
        on_progress(len(kept), min(count, len(order)))
    if not kept:
        raise InputError(_nothing_left(len(order), duplicates, failed))
    family_of, shared = _families(source, train)
    chosen = [index for index, _ in kept]
    held = [family_of[index] for index in chosen]
    return HeldOut(
        np.stack([image for _, image in kept]),
        [source.names[index] for index in chosen],
        held,
        [source.labels[index] for index in chosen],
        looked_at,
        len(order),
        sorted(duplicates),
        sorted(shared & set(held)),
        failed,
    )


def _fitted(pixels: Images, model: DCGAN) -> Images:
    """Bring an image to the model's shape as its training images were brought there, uint8 [S, S, C]."""
    background = parse_colour(str(model.card.get("background", "white")))
    fit = model.card.get("fit", "crop")
    square = fit_square(pixels, model.settings.size, fit, background)
    return to_channels(square, model.settings.channels, background).astype(np.uint8)


def _seen(memory: Retrieval | None, images: list[Images]) -> list[bool]:
    """Return of each image whether a training image is all but the same."""
    if memory is None or not images:
        return [False] * len(images)
    pixels = np.stack(images)
    target = _tensor(pixels).float() / 127.5 - 1
    known = target.new_ones(len(images), 1, *target.shape[2:])
    least = memory.distances(target, known).min(1).values.numpy()  # sum (y - m)^2 less sum y^2
    flat = pixels.reshape(len(images), -1).astype(np.float64)
    apart = np.sqrt(np.maximum(least + np.square(flat).sum(1), 0) / flat.shape[1])
    near: list[bool] = (apart < np.maximum(_LEAST_RMS, _UNLIKE * flat.std(1))).tolist()
    return near


def _families(source: Source, train: TrainingImages | None) -> tuple[list[str], set[str]]:
    """Return the family of each image, and the families that the training data has too, both by one rule."""
    if train is None:
        return groups_of(source.names, source.labels), set()
    together = groups_of([*source.names, *train.names], [*source.labels, *train.labels])
    held, trained = together[: len(source.names)], together[len(source.names) :]
    return held, set(held) & set(trained)


def _nothing_left(count: int, duplicates: list[str], failed: list[tuple[str, str]]) -> str:
    if not count:
        return "there are no images to evaluate on; give a folder of images or records"
    first = f"; the first: {failed[0][1]}" if failed else ""
    return (
        f"none of {count} images is left to evaluate on: {len(duplicates)} are training images, {len(failed)} cannot be read{first}; "
        "give images that the model was not trained on"
    )


def _tensor(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
