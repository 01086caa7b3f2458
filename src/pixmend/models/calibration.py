"""Calibration of completions on held-out images, measured in training and used at completion.

Confidence: the share of missing pixels that will be correct, from each pixel's variance by isotonic regression (Zadrozny
and Elkan 2002). Domain: the distance of D's features from those of training images.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.models.dcgan import Discriminator
from pixmend.models.model import DCGAN

CORRECT_TOLERANCE = 0.2  # largest error of a correct pixel, a tenth of [-1, 1]: 25 grey levels
_BATCH = 64
_MIN_SPREAD = 1e-3


@dataclass(frozen=True)
class Calibration:
    """Measurements on held-out images as JSON values, "calibration" in the model card.

    Thresholds are Tukey's far-out fences (1977, section 2C), the upper quartile plus three
    interquartile ranges: a few unusual held-out images do not move them.
    """

    predicted: list[float]  # share of correct pixels by the variances, in groups of completions
    observed: list[float]  # that share in fact; both ascend
    centre: list[float]  # mean of D's features over training images, [F]
    spread: list[float]  # their standard deviation, [F]
    distance: float  # threshold of `distances`, the root mean square of F standard scores

    def __post_init__(self) -> None:
        curves = np.array([self.predicted, self.observed], np.float64)
        features = np.array([self.centre, self.spread], np.float64)
        values = (curves, features, np.array([self.distance], np.float64))
        if not all(each.size and np.isfinite(each).all() for each in values):
            raise ValueError("calibration with values that are missing, NaN or infinite")
        if (curves.ndim, features.ndim, np.ndim(self.distance)) != (2, 2, 0):
            raise ValueError("calibration with lists of other shapes")

    @classmethod
    def of(cls, card: dict[str, Any]) -> Self | None:
        """Read the calibration of a model card; None if there is none that this version knows."""
        try:
            return cls(**card["calibration"])
        except (KeyError, TypeError):
            return None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def confidence(self, variance: Tensor, known: Tensor) -> list[float]:
        """Return the calibrated share of correct missing pixels; [B, 1, S, S] both."""
        predicted = predicted_correct(variance, known).tolist()
        return [float(np.interp(share, self.predicted, self.observed)) for share in predicted]

    def distances(self, discriminator: Discriminator, images: Tensor) -> Tensor:
        """Return the distance of images [B, C, S, S] from training images in D's features, [B]."""
        centre, spread = images.new_tensor(self.centre), images.new_tensor(self.spread)
        return ((_features(discriminator, images) - centre) / spread).square().mean(1).sqrt()

    def reasons(self, distance: float) -> list[str]:
        """Return why an image with this distance of D's features seems not to be of the domain."""
        if distance <= self.distance:
            return []
        return [
            f"its features are {distance:.1f} standard deviations off (held-out images: below {self.distance:.1f})"
        ]


def predicted_correct(variance: Tensor, known: Tensor) -> Tensor:
    """Return the expected share of correct missing pixels, [B], for normal errors."""
    missing = (1 - known).flatten(1)
    chance = torch.erf(CORRECT_TOLERANCE / (2 * variance.flatten(1)).clamp_min(1e-12).sqrt())
    return (chance * missing).sum(1) / missing.sum(1).clamp_min(1e-6)


def observed_correct(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the share of correct missing pixels, [B], by the mean over the channels."""
    missing = (1 - known).flatten(1)
    correct = ((images - target).abs().mean(1) <= CORRECT_TOLERANCE).flatten(1).to(missing.dtype)
    return (correct * missing).sum(1) / missing.sum(1).clamp_min(1e-6)


@torch.no_grad()
def calibrate(
    model: DCGAN, held_out: Tensor, training: Tensor, known: Tensor
) -> Calibration | None:
    """Calibrate a model on held-out images; None without an inpainter.

    ``held_out`` [N, C, S, S] and ``training`` [M, C, S, S] are in [-1, 1], ``known`` [K, N, 1, S,
    S] are K masks an image.
    """
    if model.inpainter is None:
        return None
    batches = torch.split(training, _BATCH)
    features = torch.cat([_features(model.discriminator, batch) for batch in batches])
    centre, spread = features.mean(0), features.std(0, correction=min(1, len(features) - 1))
    spread = spread.clamp_min(_MIN_SPREAD)  # 0 for one image, and for equal ones
    predicted, observed, completed = [], [], []
    for masks in known:
        pairs = zip(torch.split(held_out, _BATCH), torch.split(masks, _BATCH), strict=True)
        for target, mask in pairs:
            answer = model.inpaint(target, mask)
            predicted.append(predicted_correct(answer.log_variance.exp(), mask))
            observed.append(observed_correct(answer.estimate, target, mask))
            completed.append(torch.where(mask > 0, target, answer.estimate))
    calibration = Calibration(
        *_isotonic(torch.cat(predicted).cpu().numpy(), torch.cat(observed).cpu().numpy()),
        centre=_short(centre),
        spread=_short(spread),
        distance=0.0,
    )
    distances = [calibration.distances(model.discriminator, batch) for batch in completed]
    return replace(calibration, distance=_threshold(torch.cat(distances)))


def _isotonic(
    predicted: NDArray[np.float32], observed: NDArray[np.float32]
) -> tuple[list[float], list[float]]:
    """Return the means of the groups in which ``observed`` rises with ``predicted``."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(predicted, kind="stable")
    fit = isotonic_regression(observed[order])
    starts, sizes = fit.blocks[:-1], np.diff(fit.blocks)
    groups = np.add.reduceat(predicted[order].astype(np.float64), starts) / sizes
    return groups.round(5).tolist(), fit.x[starts].round(5).tolist()


@torch.no_grad()
def _features(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return the spatial means of D's last maps, [B, F]."""
    return discriminator.features(images)[-1].mean((2, 3))


def _threshold(values: Tensor) -> float:
    lower, upper = torch.quantile(values, values.new_tensor([0.25, 0.75])).tolist()
    return float(round(upper + 3 * (upper - lower), 4))


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]
