"""How real answers look, as sets: KID and Fréchet distance to the originals, in named features, for each method and mask."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pixmend.errors import StoppedError
from pixmend.evaluation.heldout import HeldOut, TrainingImages
from pixmend.evaluation.ledger import ResultStore, Row
from pixmend.evaluation.rivals import Images
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
from pixmend.storage import parse_json, write_text

FEWEST = 50  # images; of fewer a KID says nothing
_COMPARED = 512  # samples and training images at most


@dataclass(frozen=True)
class Realism:
    """Of a method's answers under one mask: ``kid`` is 0 for the originals themselves; ``fid`` is to be compared at equal counts only."""

    label: str
    mask: str
    kid: float
    fid: float


@dataclass(frozen=True)
class Samples:
    """What G draws without being told of an image.

    Attributes
    ----------
    features, count
        The map, and how many samples.
    kid, floor, blank
        KID to training images: of the samples, of as many other training images, and of copies of their mean.
    nearest, nearest_real
        Median distance in features of a sample to the nearest training image, and of a held-out image.
    """

    features: str
    count: int
    kid: float
    floor: float
    blank: float
    nearest: float
    nearest_real: float


def judge_realism(
    held: HeldOut,
    rows: Sequence[Row],
    batch: int,
    ledger: ResultStore,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[str, list[Realism]]:
    """Return the name of the features and the figures of each method under each mask; read from ``realism.json`` what it has.

    Fewer than `FEWEST` images give none.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes.
    """
    features = choose_features(torch.device("cpu"))
    if len(held.images) < FEWEST:
        return features.name, []
    path = ledger.folder / "realism.json"
    kept = _read(path)
    originals: Tensor | None = None
    found = []
    for label, mask, answers in _sets(rows, batch, ledger):
        key = f"{features.name} {_hash(answers)} {_hash(held.images)}"
        if key not in kept:
            if should_stop():
                raise StoppedError
            if originals is None:
                originals = features(to_tensor(held.images))
            drawn = features(to_tensor(answers))
            kept[key] = [
                paired_kernel_distance(originals, drawn),
                frechet_distance(originals, drawn),
            ]
            write_text(path, json.dumps(kept) + "\n")
        found.append(Realism(label, mask, *kept[key]))
    return features.name, found


def judge_samples(
    model: DCGAN, held: HeldOut, train: TrainingImages, kept: Path
) -> tuple[Samples, Images, Images] | None:
    """Return what G's samples are worth, eight of them, and the training image nearest to each; None of too few training images."""
    half = min(_COMPARED, len(train.images) // 2)
    if half < FEWEST:
        return None
    order = array_generator_for(0, "evaluate", "samples").permutation(len(train.images))
    one, other = (
        train.images[np.sort(order[:half])],
        train.images[np.sort(order[half : 2 * half])],
    )
    drawn = draw_samples(model, half)
    features = choose_features(torch.device("cpu"))
    reals = features(to_tensor(one))
    samples = features(to_tensor(drawn))
    near = torch.cdist(samples[:8], reals).argmin(1).numpy()
    figures = _read_samples(kept, features.name, half)
    if figures is None:
        held_out = features(to_tensor(held.images[:_COMPARED]))
        figures = Samples(
            features.name,
            half,
            kernel_distance(samples, reals),
            kernel_distance(features(to_tensor(other)), reals),
            kernel_distance(features(to_tensor(_blank(one))).expand(half, -1), reals),
            float(nearest_distances(samples, reals).median()),
            float(nearest_distances(held_out, reals).median()),
        )
        write_text(kept, json.dumps(asdict(figures)) + "\n")
    return figures, drawn[:8], one[near]


def draw_samples(model: DCGAN, count: int) -> Images:
    """Return draws of G at the prior, uint8 [count, S, S, C]; G is told nothing, whatever encoder there is."""
    device = next(model.generator.parameters()).device
    z = sample_latents(model.settings, count, generator_for(0, "evaluate", "probe")).to(device)
    with torch.no_grad():
        drawn = [to_pixels(model.generator(part)) for part in torch.split(z, 64)]
    return np.concatenate(drawn).astype(np.uint8)


def _sets(
    rows: Sequence[Row], batch: int, ledger: ResultStore
) -> Iterator[tuple[str, str, Images]]:
    """Yield each method's answers under each mask, in order of image, where all are there."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.label, row.mask), []).append(row)
    for (label, mask), own in groups.items():
        pictures = [ledger.picture(row, batch) for row in sorted(own, key=lambda row: row.number)]
        whole = [picture for picture in pictures if picture is not None]
        if len(whole) == len(own):
            yield label, mask, np.stack(whole)


def _blank(images: Images) -> Images:
    mean: Images = images.mean(0, keepdims=True).round().astype(np.uint8)
    return mean


def _hash(images: Images) -> str:
    return hashlib.blake2b(np.ascontiguousarray(images).tobytes(), digest_size=8).hexdigest()


def _read(path: Path) -> dict[str, list[float]]:
    try:
        return dict(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _read_samples(path: Path, features: str, count: int) -> Samples | None:
    try:
        found = Samples(**parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return found if (found.features, found.count) == (features, count) else None
