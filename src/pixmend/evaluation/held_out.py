"""Held-out images: framed to the model's shape, without near-duplicates of training images."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from pixmend.errors import InputError, SettingsError
from pixmend.evaluation.baselines import Images, channels_first
from pixmend.images import (
    fit_square,
    open_image,
    parse_colour,
    to_channels,
    to_eight_bits,
    to_tensor,
)
from pixmend.models import DCGAN, Retrieval
from pixmend.records import Records, groups_of, provenance
from pixmend.rng import array_generator_for
from pixmend.storage import StorePath

_MAX_BYTES = 2**34  # of training images in memory
_MIN_RMSE = 2.0  # grey levels
_MIN_RELATIVE_RMSE = 0.1  # of the standard deviation: a near-duplicate explains 99 % of variance
_CHUNK = 64

Label = str | int | None


@dataclass(frozen=True, eq=False)
class EvaluationImages:
    """The images to draw from, and a reader of image i, uint8 [H, W, C], that may raise InputError."""

    names: list[str]
    labels: list[Label]
    read: Callable[[int], Images]

    @classmethod
    def of_files(cls, paths: Sequence[Path | StorePath], names: Sequence[str]) -> Self:
        """Read image files; the label of a file is its folder."""
        labels: list[Label] = [path.parent.name for path in paths]
        return cls(
            list(names), labels, lambda n: to_eight_bits(open_image(paths[n]).check_known().pixels)
        )

    @classmethod
    def of_records(cls, records: Records) -> Self:
        origin = provenance(records)
        return cls(origin.names, origin.labels, lambda n: records.images([n])[0])


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """A model's training images, uint8 [N, S, S, C], their file names and labels, and a digest."""

    images: Images
    names: list[str]
    labels: list[Label]
    digest: str


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The images of an evaluation, in the order drawn."""

    images: Images  # uint8 [N, S, S, C], in the model's size and channels
    names: list[str]
    groups: list[str]
    labels: list[Label]  # a record's class or a file's folder
    examined: int  # images examined to find these
    available: int
    duplicates: list[str]  # names of near-duplicates of training images, left out
    shared: list[str]  # groups also in the training data; their images stay, and bias results
    failed: list[tuple[str, str]]  # name and error of each unreadable image


def open_training(records: Records, model: DCGAN) -> TrainingImages:
    """Read the model's training images; SettingsError for another shape or too many images."""
    settings = model.settings
    if (records.size, records.channels) != (settings.size, settings.channels):
        raise SettingsError(
            f"--train-data {records.path}: its images are {records.size} px {records.channels}, "
            f"the model's {settings.size} px {settings.channels}; "
            "give the records that the model was trained on"
        )
    images = records.load_all(_MAX_BYTES)
    if images is None or not len(images):
        raise SettingsError(
            f"--train-data {records.path}: {len(records):,} images; "
            "needs at least one image and at most 16 GiB of them"
        )
    origin = provenance(records)
    return TrainingImages(images, origin.names, origin.labels, records.digest)


def choose_held_out(
    source: EvaluationImages,
    model: DCGAN,
    train: TrainingImages | None,
    *,
    count: int,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> HeldOut:
    """Draw up to ``count`` images without near-duplicates of training images; InputError if none is left.

    A larger ``count`` extends the same sequence. ``on_progress`` receives (images selected, total).
    """
    order = array_generator_for(seed, "evaluate", "images").permutation(len(source.names))
    retrieval = None if train is None else Retrieval(channels_first(train.images))
    selection: dict[int, Images] = {}
    duplicates: list[str] = []
    failed: list[tuple[str, str]] = []
    examined = 0
    while len(selection) < count and examined < len(order):
        # At most as many as are still needed, so that the chunk size does not affect `examined`.
        indices = order[examined : examined + min(_CHUNK, count - len(selection))].tolist()
        examined += len(indices)
        candidates = {}
        for index in indices:
            try:
                candidates[index] = _fit(source.read(index), model)
            except InputError as error:
                failed.append((source.names[index], str(error)))
        copies = _near_duplicates(retrieval, list(candidates.values()))
        for (index, image), is_copy in zip(candidates.items(), copies, strict=True):
            if is_copy:
                duplicates.append(source.names[index])
            else:
                selection[index] = image
        on_progress(len(selection), min(count, len(order)))
    if not selection:
        first = f", the first: {failed[0][1]}" if failed else ""
        raise InputError(
            f"no image of {len(order):,} can be used (training images: {len(duplicates):,}, "
            f"unreadable: {len(failed):,}{first}); give images that the model was not trained on"
        )
    # One call for both, so that one rule names all groups.
    names, labels = ([], []) if train is None else (train.names, train.labels)
    all_groups = groups_of([*source.names, *names], [*source.labels, *labels])
    groups, of_training = [all_groups[index] for index in selection], all_groups[len(order) :]
    return HeldOut(
        images=np.stack(list(selection.values())),
        names=[source.names[index] for index in selection],
        groups=groups,
        labels=[source.labels[index] for index in selection],
        examined=examined,
        available=len(order),
        duplicates=sorted(duplicates),
        shared=sorted(set(of_training) & set(groups)),
        failed=failed,
    )


def digest_of(images: Images) -> str:
    """Return a short hash of pixels."""
    return hashlib.blake2b(np.ascontiguousarray(images).tobytes(), digest_size=6).hexdigest()


def _fit(pixels: Images, model: DCGAN) -> Images:
    """Return an image as packing framed the training images, uint8 [S, S, C]."""
    background = parse_colour(str(model.card.get("background", "white")))
    square = fit_square(pixels, model.settings.size, model.card.get("fit", "crop"), background)
    return to_channels(square, model.settings.channels, background).astype(np.uint8)


def _near_duplicates(retrieval: Retrieval | None, images: list[Images]) -> list[bool]:
    if retrieval is None or not images:
        return [False] * len(images)
    target = to_tensor(np.stack(images))  # [B, C, S, S]
    known = target.new_ones(len(images), 1, *target.shape[2:])
    # `distances` omits the sum of squares of the image itself.
    nearest = retrieval.distances(target, known).min(1).values.numpy()
    pixels = np.stack(images).reshape(len(images), -1).astype(np.float64)
    squared = np.maximum(nearest + np.square(pixels).sum(1), 0) / pixels.shape[1]
    limits = np.maximum(_MIN_RMSE, _MIN_RELATIVE_RMSE * pixels.std(1))
    near: list[bool] = (np.sqrt(squared) < limits).tolist()
    return near
