"""Realism of sets of images: KID and Fréchet distance in named features."""

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from pixmend.errors import StoppedError
from pixmend.evaluation.baselines import Images
from pixmend.evaluation.evaluated_methods import ShouldStop
from pixmend.evaluation.held_out import HeldOut, TrainingImages, digest_of
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.features import (
    choose_features,
    frechet_distance,
    kernel_distance,
    nearest_distances,
    paired_kernel_distance,
)
from pixmend.images import to_pixels, to_tensor
from pixmend.models import DCGAN, sample_latents
from pixmend.rng import array_generator_for, generator_for

MIN_IMAGES = 50  # KID of fewer images is meaningless
_MAX_IMAGES = 512  # samples and training images compared


Realism: TypeAlias = dict[tuple[str, str], tuple[float, float]]  # (label, mask) -> (KID, Fréchet)


def measure_realism(
    held_out: HeldOut, rows: Sequence[ResultRow], store: ResultStore, should_stop: ShouldStop
) -> tuple[str, Realism]:
    """Return the name of the features, and KID and Fréchet distance of each method's answers.

    There are none for fewer than `MIN_IMAGES` images, nor for methods with missing answers.
    """
    features = choose_features(torch.device("cpu"))
    if len(held_out.images) < MIN_IMAGES:
        return features.name, {}

    originals = functools.cache(lambda: features(to_tensor(held_out.images)))

    def distances(answers: Images) -> list[float]:
        if should_stop():
            raise StoppedError
        x, y = originals(), features(to_tensor(answers))
        return [paired_kernel_distance(x, y), frechet_distance(x, y)]

    realism: Realism = {}
    digest = digest_of(held_out.images)
    for label, mask in dict.fromkeys((row.label, row.mask) for row in rows):
        keys = [row.key for row in rows if (row.label, row.mask) == (label, mask)]
        answers = [answer for key in keys if (answer := store.read_answer(key)) is not None]
        if len(answers) == len(keys):
            images = np.stack(answers)
            name = f"realism {features.name} {digest_of(images)} {digest}"
            kid, fid = store.cached(name, functools.partial(distances, images))
            realism[label, mask] = kid, fid
    return features.name, realism


def measure_samples(
    model: DCGAN, held_out: HeldOut, train: TrainingImages | None, store: ResultStore
) -> tuple[dict[str, Any] | None, tuple[Images, Images] | None]:
    """Return how well G's prior samples match the training images, and eight with their nearest.

    KID compares training images with samples, with other training images (``kid_real``) and with
    copies of their mean (``kid_blank``). ``nearest`` and ``nearest_held_out`` are median distances
    of samples and held-out images to training images. None for fewer than 2 x `MIN_IMAGES` training images.
    """
    if train is None or len(train.images) < 2 * MIN_IMAGES:
        return None, None
    count = min(_MAX_IMAGES, len(train.images) // 2)
    order = array_generator_for(0, "evaluate", "samples").permutation(len(train.images))
    half, other = (train.images[np.sort(order[start : start + count])] for start in (0, count))
    z = sample_latents(model.settings, count, generator_for(0, "evaluate", "probe"))
    device = next(model.generator.parameters()).device
    with torch.no_grad():
        parts = [to_pixels(model.generator(part)) for part in torch.split(z.to(device), 64)]
    samples = np.concatenate(parts).astype(np.uint8)  # without conditions
    features = choose_features(torch.device("cpu"))
    real, fake = features(to_tensor(half)), features(to_tensor(samples))

    def quality() -> dict[str, object]:
        blank = half.mean(0, keepdims=True).round().astype(np.uint8)
        unseen = features(to_tensor(held_out.images[:_MAX_IMAGES]))
        return {
            "features": features.name,
            "count": count,
            "kid": kernel_distance(fake, real),
            "kid_real": kernel_distance(features(to_tensor(other)), real),
            "kid_blank": kernel_distance(features(to_tensor(blank)).expand(count, -1), real),
            "nearest": float(nearest_distances(fake, real).median()),
            "nearest_held_out": float(nearest_distances(unseen, real).median()),
        }

    key = f"samples {features.name} {count} {len(held_out.images)}"
    nearest = half[torch.cdist(fake[:8], real).argmin(1).numpy()]
    return store.cached(key, quality), (samples[:8], nearest)
