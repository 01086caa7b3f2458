"""What a run has come to: scores at each checkpoint, on images that training never saw, with warnings in words.

The monitor reads networks and changes none; its draws are its own. So weights are the same with and without it.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixmend.features import (
    choose_features,
    frechet_distance,
    kernel_distance,
    mean_pairwise_distance,
    nearest_distances,
)
from pixmend.images import Pixels
from pixmend.masks import make_mask
from pixmend.models import (
    DCGAN,
    Calibration,
    DCGANSettings,
    Discriminator,
    Generator,
    calibrate,
    clip_radius,
    infer_mean,
    sample_latents,
)
from pixmend.rng import array_generator_for, generator_for
from pixmend.storage import parse_json
from pixmend.training.data import pixels_to_device
from pixmend.training.inversion import sample_masks
from pixmend.training.settings import TrainSettings
from pixmend.training.split import Split

# target [B, C, S, S] in [-1, 1], known bool [B, 1, S, S] -> completed [B, C, S, S]
Complete: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 256


def hole_psnr(completed: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return 10 log10(2^2 / mean squared error over the hole) in dB, [B] of images [B, C, S, S] in [-1, 1]."""
    hole = (~known).expand_as(target)
    error = ((completed.clamp(-1, 1) - target).square() * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3))
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def latent_search(
    generator: Generator, networks: DCGANSettings, *, seed: int, steps: int = 60, bank: int = 256
) -> Complete:
    """Return a short search for the z that agrees with the known pixels (Yeh 2017, equation 3, without weights and prior).

    From the best of ``bank`` draws, ``steps`` of Adam. It is far below what a long search finds, but equal from checkpoint to
    checkpoint, and costs about 50 training steps for 64 images and three masks.
    """

    def complete(target: Tensor, known: Tensor) -> Tensor:
        draws = sample_latents(networks, bank, generator_for(seed, "monitor", "bank"))
        with torch.no_grad():
            drawn = torch.cat([generator(z) for z in torch.split(draws.to(target.device), _CHUNK)])
            cost = [  # [bank] for each image
                ((drawn - image).abs() * mask).mean((1, 2, 3))
                for image, mask in zip(target, known, strict=True)
            ]
        best = torch.stack(cost).argmin(1).to(draws.device)
        z = draws[best].to(target.device).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=0.05)
        radius = clip_radius(networks)
        for _ in range(steps):
            loss = ((generator(z) - target).abs() * known).mean((1, 2, 3)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                z.clamp_(-radius, radius)
        with torch.no_grad():
            return torch.where(known, target, generator(z))

    return complete


MASKS = ("center", "half", "random:0.8")
_FEATURED = 512  # images and samples whose features are compared
_COMPARED = 256  # samples whose distances and logits are taken
_CALIBRATED, _KINDS = 128, 5  # held-out images to calibrate by, and kinds of masks
# Of few images each has more masks, or some shares of missing pixels had no word.
_COMPLETIONS = _CALIBRATED * _KINDS
_COMPLETED = 64  # held-out images completed, under each mask
_SIDE = 32  # distances between images are taken at this side at most
_ALIVE, _COLLAPSED = 0.5, 0.25  # diversity that samples had, and the share of it that is none
_NEIGHBOUR_BYTES = 64 * 2**20  # of training images among which the nearest is sought


@dataclass(frozen=True)
class Scores:
    """One checkpoint's scores; None where there is nothing to score by.

    Attributes
    ----------
    features
        Of `kid`, `kid_held_out` and `fid`; scores of different features do not compare.
    kid, fid
        Between 512 samples and 512 training images.
    kid_held_out
        Between the samples and the held-out images.
    completion
        "encoder" or "search": what filled the holes.
    psnr, psnr_of_mean
        By mask: mean hole PSNR of held-out images in dB, and what the mean training image gives.
    nearest
        Mean distance of samples to their nearest training image over that of held-out images: far below 1, samples are copies.
    diversity
        Mean distance between samples over that between training images: far below 1, samples are alike.
    accuracy_training, accuracy_held_out, accuracy_samples
        Shares that D gets right.
    seconds
        That scoring took.
    """

    step: int
    images: int
    features: str
    kid: float
    fid: float
    diversity: float
    accuracy_training: float
    accuracy_samples: float
    accuracy_held_out: float | None = None
    kid_held_out: float | None = None
    nearest: float | None = None
    completion: str = ""
    psnr: dict[str, float] = field(default_factory=dict)
    psnr_of_mean: dict[str, float] = field(default_factory=dict)
    best: bool = False
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()

    @property
    def mean_psnr(self) -> float | None:
        """Mean over the masks, in dB."""
        return sum(self.psnr.values()) / len(self.psnr) if self.psnr else None


def better(scores: Scores, than: Scores | None) -> bool:
    """Whether a checkpoint is the better one: by held-out hole PSNR where an encoder completes, else by KID.

    A short search's PSNR says as much about the search as about the model, so it does not decide.
    """
    if than is None or (scores.features, scores.completion) != (than.features, than.completion):
        return True
    if scores.completion == "encoder":
        assert scores.mean_psnr is not None
        assert than.mean_psnr is not None
        return scores.mean_psnr > than.mean_psnr
    return scores.kid < than.kid


def collapse_of(scores: Scores, before: Sequence[Scores]) -> str:
    """Say in words that samples have become alike which were diverse at a checkpoint before; "" if they have not.

    Samples that never were diverse are those of a run that has only begun, or of settings that do not work: no checkpoint is better.
    """
    diverse = max(before, key=lambda each: each.diversity, default=scores)
    if diverse.diversity < _ALIVE or scores.diversity > _COLLAPSED * diverse.diversity:
        return ""
    return (
        f"step {scores.step}: the samples collapsed, their diversity is {scores.diversity:.2f} "
        f"where it was {diverse.diversity:.2f} at step {diverse.step}"
    )


def read_scores(path: Path) -> list[Scores]:
    """Read monitor.jsonl, passing over what is damaged."""
    if not path.exists():
        return []
    found = []
    known = {each.name for each in fields(Scores)}
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            held = {key: value for key, value in parse_json(line).items() if key in known}
            found.append(Scores(**{**held, "warnings": tuple(held.get("warnings", ()))}))
    return found


class Monitor:
    """Scores models against fixed images and fixed draws, so that checkpoints compare.

    Parameters
    ----------
    read
        Returns images uint8 [B, S, S, C] by their numbers.
    split
        Which images are trained on, which are held out.
    """

    def __init__(
        self,
        read: Callable[[Sequence[int] | NDArray[np.int64]], Pixels],
        split: Split,
        settings: TrainSettings,
        device: torch.device,
    ) -> None:
        self._settings, self._device = settings, device
        self._features = choose_features(device)
        training = _drawn(split.training, settings.seed, "training")
        held_out = _drawn(split.held_out, settings.seed, "held out")
        self._training = pixels_to_device(read, training[:_FEATURED], device)
        self._training_features = self._features(self._training)
        self._neighbours = self._neighbours_of(read, training)
        self._spread = mean_pairwise_distance(_small(self._training[:_COMPARED]))
        self._mean = self._training.mean(0, keepdim=True)
        self._held_out = pixels_to_device(read, held_out, device) if len(held_out) > 1 else None
        if self._held_out is not None:
            self._held_out_features = self._features(self._held_out)
            self._away = float(nearest_distances(_small(self._held_out), self._neighbours).mean())

    def score(self, model: DCGAN, *, step: int, images: int) -> Scores:
        """Return the scores of a model whose G, and encoder if there is one, are in evaluation mode."""
        started = time.monotonic()
        samples = self._samples(model)
        features = self._features(samples)
        small = _small(samples[:_COMPARED])
        values: dict[str, Any] = {
            "features": self._features.name,
            "kid": kernel_distance(features, self._training_features),
            "fid": frechet_distance(features, self._training_features),
            "diversity": mean_pairwise_distance(small) / max(self._spread, 1e-12),
        }
        with _evaluating(model.discriminator) as discriminator:
            values["accuracy_training"] = _share(discriminator(self._training[:_COMPARED]) > 0)
            values["accuracy_samples"] = _share(discriminator(samples[:_COMPARED]) < 0)
            if self._held_out is not None:
                found = discriminator(self._held_out[:_COMPARED])
                values["accuracy_held_out"] = _share(found > 0)
        if self._held_out is not None:
            away = float(nearest_distances(small, self._neighbours).mean())
            values["nearest"] = away / max(self._away, 1e-12)
            values["kid_held_out"] = kernel_distance(features, self._held_out_features)
            values |= self._completed(model)
        values = {key: _rounded(value) for key, value in values.items()}
        seconds = round(time.monotonic() - started, 3)
        scores = Scores(step=step, images=images, seconds=seconds, **values)
        return Scores(**{**vars(scores), "warnings": tuple(_warnings(scores))})

    def calibrate(self, model: DCGAN) -> Calibration | None:
        """Calibrate a model on up to 128 held-out images under masks of all kinds; None without them, or without an encoder to ask."""
        if self._held_out is None:
            return None
        images = self._held_out[:_CALIBRATED]
        draw = generator_for(self._settings.seed, "monitor", "masks")
        masks = _KINDS * math.ceil(_COMPLETIONS / (_KINDS * len(images)))
        known = sample_masks(masks * len(images), self._settings.size, draw).to(self._device)
        # The kinds of masks take turns, so that each image is seen under all of them.
        known = known.view(len(images), masks, *known.shape[1:]).transpose(0, 1)
        with _evaluating(model.discriminator):
            return calibrate(model, images, self._training, known)

    def _completed(self, model: DCGAN) -> dict[str, Any]:
        assert self._held_out is not None
        target = self._held_out[:_COMPLETED]
        size = self._settings.size
        fill = self._one_pass(model) or latent_search(
            model.generator, model.settings, seed=self._settings.seed
        )
        psnr, psnr_of_mean = {}, {}
        for spec in MASKS:
            mask = torch.from_numpy(make_mask(spec, size, size, seed=self._settings.seed).known)
            known = mask.to(self._device).expand(len(target), 1, -1, -1)
            psnr[spec] = float(hole_psnr(fill(target, known), target, known).mean())
            mean = self._mean.expand_as(target)
            psnr_of_mean[spec] = float(hole_psnr(mean, target, known).mean())
        completion = "search" if model.encoder is None else "encoder"
        return {"completion": completion, "psnr": psnr, "psnr_of_mean": psnr_of_mean}

    @staticmethod
    def _one_pass(model: DCGAN) -> Complete | None:
        if model.encoder is None:
            return None
        return lambda target, known: infer_mean(model, target, known.to(target.dtype))

    @torch.no_grad()
    def _samples(self, model: DCGAN) -> Tensor:
        draw = generator_for(self._settings.seed, "monitor", "samples")
        latents = sample_latents(model.settings, _FEATURED, draw).to(self._device)
        return torch.cat([model.generator(z) for z in torch.split(latents, 64)])

    def _neighbours_of(
        self,
        read: Callable[[Sequence[int] | NDArray[np.int64]], Pixels],
        training: NDArray[np.int64],
    ) -> Tensor:
        first = _small(self._training[:1])
        most = max(_FEATURED, _NEIGHBOUR_BYTES // (4 * first.shape[1]))
        parts = [
            _small(pixels_to_device(read, training[start : min(start + 256, most)], self._device))
            for start in range(0, min(len(training), most), 256)
        ]
        return torch.cat(parts)


def _drawn(indices: NDArray[np.int64], seed: int, side: str) -> NDArray[np.int64]:
    return array_generator_for(seed, "monitor", side).permutation(indices)


def _small(images: Tensor) -> Tensor:
    """Return images [B, C, S, S] as rows [B, D], at a side of 32 at most: what is alike there is alike to the eye."""
    side = min(_SIDE, images.shape[-1])
    return F.adaptive_avg_pool2d(images, side).flatten(1)


@contextlib.contextmanager
def _evaluating(discriminator: Discriminator) -> Iterator[Discriminator]:
    """Lend D in evaluation mode without gradients, and give it back in the mode that it was in."""
    before = discriminator.training
    discriminator.eval()
    try:
        with torch.no_grad():
            yield discriminator
    finally:
        discriminator.train(before)


def _share(right: Tensor) -> float:
    return float(right.float().mean())


def _rounded(value: Any) -> Any:  # noqa: ANN401 - a number, a text or a table of numbers
    if isinstance(value, dict):
        return {key: round(number, 3) for key, number in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _warnings(scores: Scores) -> list[str]:
    """Say what is wrong, in words, with something to try."""
    said = []
    if scores.diversity < 0.5:
        said.append(
            f"samples repeat: diversity {scores.diversity:.2f} of the training images'; "
            "try a smaller learning_rate, a larger batch_size or feature_matching = 0.05"
        )
    if scores.nearest is not None and scores.nearest < 0.5:
        said.append(
            f"samples copy training images: {scores.nearest:.2f} of the distance that unseen images have; "
            "try more images, fewer filters, or an earlier checkpoint"
        )
    held_out = scores.accuracy_held_out
    if held_out is not None and scores.accuracy_training - held_out > 0.3:
        said.append(
            f"D knows the training images by heart: it takes {scores.accuracy_training:.0%} of them for real, of unseen "
            f"ones {held_out:.0%}; try more images, fewer discriminator_filters, or best.safetensors"
        )
    elif min(scores.accuracy_training, scores.accuracy_samples) > 0.995:
        said.append(
            "D tells all samples from images: G learns little; try fewer discriminator_filters or a smaller learning_rate"
        )
    worse = [spec for spec, value in scores.psnr.items() if value < scores.psnr_of_mean[spec]]
    if len(worse) == len(MASKS):
        figures = ", ".join(
            f"{spec} {scores.psnr[spec]:.1f} against {scores.psnr_of_mean[spec]:.1f} dB"
            for spec in worse
        )
        said.append(
            f"completions are worse than the mean image ({figures}); train on, or on more images"
        )
    return said
