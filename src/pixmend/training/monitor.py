"""Scores of each checkpoint, on images that training never saw, with warnings.

The monitor changes no network and has draws of its own, so it does not change the weights of a run.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.features import (
    choose_features,
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    nearest_distances,
)
from pixmend.masks import make_mask
from pixmend.models import (
    DCGAN,
    Calibration,
    Discriminator,
    calibrate,
    sample_latents,
)
from pixmend.rng import array_generator_for, generator_for
from pixmend.training.data import Read, to_device
from pixmend.training.masking import sample_masks
from pixmend.training.run_directory import read_lines
from pixmend.training.settings import TrainSettings
from pixmend.training.split import Split

MASKS = ("center", "half", "random:0.8")
_FEATURES = 512  # images, and samples, for KID and Fréchet distance
_COMPARED = 256  # images, and samples, for pairwise distances and D's accuracy
_COMPLETED = 64  # held-out images to complete, under each mask
_CALIBRATED, _MASK_KINDS = 64, 5  # held-out images for calibration, and kinds of masks
# Fewer images get more masks each, so that calibration covers all shares of missing pixels.
_CALIBRATIONS = _CALIBRATED * _MASK_KINDS
_SIDE = 32  # pixels, for distances between images
_NEIGHBOUR_BYTES = 64 * 2**20  # of training images that are searched for the nearest
_ALIKE = 0.02  # largest L2 distance of thumbnails that are alike: a grey level, or rounding
_DIVERSE, _COLLAPSED = 0.5, 0.25  # least diversity before a collapse, and the share left by one


@dataclass(frozen=True)
class Scores:
    """The scores of one checkpoint; None where the images (one, alike, none held out) define none."""

    step: int
    images: int  # that D has seen
    features: str  # name of the feature map of KID and Fréchet distance
    kid: float | None  # of 512 samples to 512 training images
    fid: float | None
    diversity: float | None  # mean distance of samples over that of training images; repeats: << 1
    accuracy_training: float  # of D on training images
    accuracy_samples: float
    accuracy_held_out: float | None = None
    kid_held_out: float | None = None
    nearest: float | None = None  # distance to training images over held-out images'; copies: << 1
    completion: str = ""  # "inpainter" where there is one, which completes held-out images
    psnr: dict[str, float] = field(default_factory=dict)  # mean hole PSNR in dB, by mask
    psnr_of_mean: dict[str, float] = field(default_factory=dict)  # of the mean training image
    best: bool = False
    seconds: float = 0.0  # of scoring
    warnings: tuple[str, ...] = ()

    @property
    def mean_psnr(self) -> float | None:
        """Mean PSNR over the masks, in dB."""
        return sum(self.psnr.values()) / len(self.psnr) if self.psnr else None

    def text(self, name: str, digits: int = 2) -> str:
        """Return a score for display; "n/a" where it is None."""
        value: float | None = getattr(self, name)
        return "n/a" if value is None else f"{value:.{digits}f}"


class Monitor:
    """Scores models against fixed images and draws, so that checkpoints compare."""

    def __init__(
        self, read: Read, split: Split, settings: TrainSettings, device: torch.device
    ) -> None:
        self._settings, self._device = settings, device
        self._features = choose_features(device)
        training, held_out = (
            array_generator_for(settings.seed, "monitor", side).permutation(indices)
            for side, indices in (("training", split.training), ("held out", split.held_out))
        )
        self._training = to_device(read(training[:_FEATURES]), device)
        self._training_features = self._features(self._training)
        values = _thumbnails(self._training[:1]).shape[1]
        indices = training[: max(_FEATURES, _NEIGHBOUR_BYTES // (4 * values))]
        chunks = (read(indices[start : start + 256]) for start in range(0, len(indices), 256))
        self._neighbours = torch.cat([_thumbnails(to_device(chunk, device)) for chunk in chunks])
        self._distance = mean_pairwise_distance(_thumbnails(self._training[:_COMPARED]))
        self._mean = self._training.mean(0, keepdim=True)
        self._held_out = to_device(read(held_out), device) if len(held_out) > 1 else None
        if self._held_out is not None:
            self._held_out_features = self._features(self._held_out)
            self._held_out_distance = self._nearest_distance(_thumbnails(self._held_out))

    def score(self, model: DCGAN, *, step: int, images: int) -> Scores:
        """Return the scores of a model whose networks are in evaluation mode."""
        started = time.monotonic()
        generator = generator_for(self._settings.seed, "monitor", "samples")
        latents = sample_latents(model.settings, _FEATURES, generator).to(self._device)
        with torch.no_grad():
            samples = torch.cat([model.generator(z) for z in torch.split(latents, 64)])
        features = self._features(samples)
        thumbnails = _thumbnails(samples[:_COMPARED])
        values: dict[str, Any] = {
            "features": self._features.name,
            "kid": kernel_distance(features, self._training_features),
            "fid": frechet_distance(features, self._training_features),
            "diversity": _ratio(mean_pairwise_distance(thumbnails), self._distance),
        }
        with _evaluation_mode(model.discriminator) as discriminator:
            for name, images_of, sign in (
                ("training", self._training, 1),
                ("samples", samples, -1),
                ("held_out", self._held_out, 1),
            ):
                if images_of is not None:
                    correct = discriminator(images_of[:_COMPARED]) * sign > 0
                    values[f"accuracy_{name}"] = float(correct.float().mean())
        if self._held_out is not None:
            distance = self._nearest_distance(thumbnails)
            values["nearest"] = _ratio(distance, self._held_out_distance)
            values["kid_held_out"] = kernel_distance(features, self._held_out_features)
            if model.inpainter is not None:
                values |= self._completion_scores(model, self._held_out[:_COMPLETED])
        for key, value in values.items():
            if isinstance(value, float):
                values[key] = round(value, 6) if math.isfinite(value) else None
        values["seconds"] = round(time.monotonic() - started, 3)
        scores = Scores(step=step, images=images, **values)
        warnings = _warnings(scores, self._settings)
        if not self._distance > _ALIKE:
            count = len(self._training)
            alike = "there is one training image" if count == 1 else "the training images are alike"
            warnings.insert(0, f"{alike}, so some scores are n/a; add images that differ")
        return replace(scores, warnings=tuple(warnings))

    def calibrate(self, model: DCGAN) -> Calibration | None:
        """Calibrate a model on held-out images under all kinds of masks; None without inpainter."""
        if self._held_out is None:
            return None
        images = self._held_out[:_CALIBRATED]
        generator = generator_for(self._settings.seed, "monitor", "masks")
        masks = _MASK_KINDS * math.ceil(_CALIBRATIONS / (_MASK_KINDS * len(images)))
        known = sample_masks(masks * len(images), self._settings.size, generator)
        # Each image is seen under all kinds of masks, which take turns.
        known = known.to(self._device).view(len(images), masks, *known.shape[1:]).transpose(0, 1)
        with _evaluation_mode(model.discriminator):
            return calibrate(model, images, self._training, known)

    def _completion_scores(self, model: DCGAN, target: Tensor) -> dict[str, Any]:
        size, seed = self._settings.size, self._settings.seed
        mean = self._mean.expand_as(target)
        psnr, psnr_of_mean = {}, {}
        for spec in MASKS:
            mask = torch.from_numpy(make_mask(spec, size, size, seed=seed).known)
            known = mask.to(self._device).expand(len(target), 1, -1, -1)
            completed = model.inpaint(target, known.to(target.dtype)).estimate
            psnr[spec] = round(float(hole_psnr(completed, target, known).mean()), 3)
            psnr_of_mean[spec] = round(float(hole_psnr(mean, target, known).mean()), 3)
        return {"completion": "inpainter", "psnr": psnr, "psnr_of_mean": psnr_of_mean}

    def _nearest_distance(self, thumbnails: Tensor) -> float:
        return float(nearest_distances(thumbnails, self._neighbours).mean())


def is_better(scores: Scores, than: Scores | None) -> bool:
    """Whether scores are better: by mean hole PSNR with an inpainter, otherwise by KID."""
    if than is None or (scores.features, scores.completion) != (than.features, than.completion):
        return True
    if scores.completion == "inpainter":
        return (scores.mean_psnr or 0.0) > (than.mean_psnr or 0.0)
    return than.kid is None or (scores.kid is not None and scores.kid < than.kid)


def collapse_warning(scores: Scores, before: Sequence[Scores]) -> str:
    """Return a warning if samples lost the diversity of an earlier checkpoint; "" if they did not."""
    earlier = [(each.diversity, -each.step) for each in before if each.diversity is not None]
    highest, step = max(earlier, default=(0.0, 0))
    diversity = scores.diversity
    if diversity is None or highest < _DIVERSE or diversity > _COLLAPSED * highest:
        return ""
    return (
        f"step {scores.step}: the samples collapsed: their diversity is {diversity:.2f}, "
        f"down from {highest:.2f} at step {-step}"
    )


def read_scores(path: Path) -> list[Scores]:
    """Read monitor.jsonl, without damaged lines."""
    scores = []
    for facts in read_lines(path):
        with contextlib.suppress(TypeError):
            scores.append(Scores(**{**facts, "warnings": tuple(facts.get("warnings", ()))}))
    return scores


def hole_psnr(completed: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the PSNR over the hole in dB, [B], of images [B, C, S, S] in [-1, 1]."""
    hole = (~known).expand_as(target)
    error = ((completed.clamp(-1, 1) - target).square() * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3))
    # NaN counts as the largest error, so that a model that diverged has a score.
    return 10 * torch.log10(4 / error.nan_to_num(4).clamp(min=1e-10))


def _ratio(distance: float, reference: float) -> float:
    """Return a ratio of distances; NaN where the images of the reference are one, or alike."""
    return distance / reference if reference > _ALIKE else math.nan


def _thumbnails(images: Tensor) -> Tensor:
    """Return images [B, C, S, S] as rows [B, D], at a side of 32 at most."""
    side = min(_SIDE, images.shape[-1])
    return F.adaptive_avg_pool2d(images, side).flatten(1)


@contextlib.contextmanager
def _evaluation_mode(discriminator: Discriminator) -> Iterator[Discriminator]:
    """Switch D to evaluation mode without gradients, and back to its mode afterwards."""
    before = discriminator.training
    try:
        with torch.no_grad():
            yield discriminator.eval()
    finally:
        discriminator.train(before)


def _warnings(scores: Scores, settings: TrainSettings) -> list[str]:
    """Return a warning, with something to try, for each problem."""
    warnings = []
    if scores.diversity is not None and scores.diversity < 0.5:
        warnings.append(
            f"samples repeat: diversity {scores.diversity:.2f} of the training images'; "
            "try a smaller learning_rate or a larger batch_size"
            + ("" if settings.feature_matching else ", or feature_matching = 0.05")
        )
    if scores.nearest is not None and scores.nearest < 0.5:
        warnings.append(
            f"samples copy training images: at {scores.nearest:.2f} of held-out images' distance; "
            "try more images, fewer filters, or an earlier checkpoint"
        )
    real, held_out = scores.accuracy_training, scores.accuracy_held_out
    if held_out is not None and real - held_out > 0.3:
        warnings.append(
            f"D overfits: it takes {real:.0%} of training images for real, but {held_out:.0%} of "
            "held-out ones; try more images, fewer discriminator_filters, or best.safetensors"
        )
    elif min(real, scores.accuracy_samples) > 0.995:
        warnings.append(
            "D recognises all samples, so G learns little; "
            "try fewer discriminator_filters or a smaller learning_rate"
        )
    pairs = [(spec, ours, scores.psnr_of_mean[spec]) for spec, ours in scores.psnr.items()]
    if pairs and all(ours < mean for _, ours, mean in pairs):
        figures = ", ".join(
            f"{spec} {ours:.1f} against {mean:.1f} dB" for spec, ours, mean in pairs
        )
        warnings.append(
            f"completions are worse than the mean image ({figures}); train longer or on more images"
        )
    return warnings
