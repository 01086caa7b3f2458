"""Realism of sets of images: KID and Fréchet distance in named features."""

import functools
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

from pixmend.errors import StoppedError
from pixmend.evaluation.baselines import Images
from pixmend.evaluation.evaluated_methods import ShouldStop
from pixmend.evaluation.held_out import HeldOut, digest_of
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.features import (
    choose_features,
    frechet_distance,
    paired_kernel_distance,
)
from pixmend.images import to_tensor

MIN_IMAGES = 50  # KID of fewer images is meaningless


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
