"""How far a completion can be trusted: calibrated on held-out images in training, asked at completion.

Two questions. How much of the hole will be right: what the variance of each pixel says of it, set against what came true on held-out
images, by isotonic regression (Zadrozny and Elkan 2002). And whether the image is of the model's domain at all: how far off the
model draws what is known of it, and how far its features in D lie from those of training images.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.models.dcgan import Discriminator
from pixmend.models.file import DCGAN
from pixmend.models.inference import encode

CORRECT_TOLERANCE = 0.2  # a pixel is right when it is off by no more than a tenth of the range [-1, 1]: 25 grey levels
_PART = 64
_LEAST_SPREAD = 1e-3
_FIFTHS, _FEWEST = 5, 16  # of the missing share, and values that a fence is drawn from


@dataclass(frozen=True)
class Calibration:
    """What was measured on held-out images, JSON values only: it travels in the model's card under "calibration".

    Attributes
    ----------
    predicted, observed
        Of groups of held-out completions, ascending: the share of pixels that the variances said would be right, and that was.
    known_error
        Error on known pixels from which on an image is unlike the held-out ones, in grey levels: Tukey's far-out fence (1977, section 2C),
        three times the interquartile range above the upper quartile, as a strange family among the few held out must not move it.
    centre, spread
        Mean and standard deviation of D's features over training images, [F] each.
    known_errors
        The same by fifths of the missing share, ascending: of an image of which little is known, that little is drawn worse. Empty in older
        files.
    distance
        Distance from there, root mean square of F standard scores, from which on an image is unlike the held-out ones, by the same fence.
    """

    predicted: list[float]
    observed: list[float]
    known_error: float
    centre: list[float]
    spread: list[float]
    distance: float
    known_errors: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, card: dict[str, Any]) -> Self | None:
        """Read it from a model's card; None where there is none."""
        try:
            return cls(**card["calibration"])
        except (KeyError, TypeError):
            return None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    def confidence(self, variance: Tensor, known: Tensor) -> list[float]:
        """Return for each image the share of its missing pixels that will be right, by the calibration.

        Parameters
        ----------
        variance, known
            [B, 1, S, S].
        """
        said = predicted_correct(variance, known)
        return [float(np.interp(each, self.predicted, self.observed)) for each in said.tolist()]

    def distances(self, discriminator: Discriminator, images: Tensor) -> Tensor:
        """Return how far images [B, C, S, S] lie from training images in D's features, [B]."""
        centre, spread = images.new_tensor(self.centre), images.new_tensor(self.spread)
        return ((_features(discriminator, images) - centre) / spread).square().mean(1).sqrt()

    def reasons(self, error: float, distance: float, missing: float) -> list[str]:
        """Return in words what speaks against an image's being of the model's domain.

        Parameters
        ----------
        error, distance
            `known_error` of the image, and its distance.
        missing
            The share of its pixels that is missing.
        """
        said = []
        fence = self.known_errors[_fifth(missing)] if self.known_errors else self.known_error
        if error > fence:
            said.append(
                f"what is known of it is drawn {error:.0f} grey levels off (held-out images: below {fence:.0f})"
            )
        if distance > self.distance:
            said.append(
                f"its features are {distance:.1f} standard deviations off (held-out images: below {self.distance:.1f})"
            )
        return said


def predicted_correct(variance: Tensor, known: Tensor) -> Tensor:
    """Return the share of missing pixels that will be right if errors are normal with these variances, [B]; [B, 1, S, S] both."""
    missing = (1 - known).flatten(1)
    chance = torch.erf(CORRECT_TOLERANCE / (2 * variance.flatten(1)).clamp_min(1e-12).sqrt())
    return (chance * missing).sum(1) / missing.sum(1).clamp_min(1e-6)


def observed_correct(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the share of missing pixels that are right, [B]; of colours, the mean absolute error counts."""
    missing = (1 - known).flatten(1)
    right = ((images - target).abs().mean(1) <= CORRECT_TOLERANCE).flatten(1).to(missing.dtype)
    return (right * missing).sum(1) / missing.sum(1).clamp_min(1e-6)


def known_error(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the root mean square error over the known pixels, [B], in grey levels."""
    squared = (images - target).square().mean(1, keepdim=True) * known
    mean = squared.flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1e-6)
    return mean.sqrt() * 127.5


@torch.no_grad()
def calibrate(
    model: DCGAN, held_out: Tensor, training: Tensor, known: Tensor
) -> Calibration | None:
    """Measure what the model's variances are worth on held-out images; None for a model that makes no estimates.

    Parameters
    ----------
    held_out, training
        [N, C, S, S] and [M, C, S, S] in [-1, 1].
    known
        Masks of the held-out images, several each: [K, N, 1, S, S].
    """
    if model.encoder is None or not model.encoder.conditional:
        return None
    features = torch.cat(
        [_features(model.discriminator, part) for part in torch.split(training, _PART)]
    )
    centre, spread = features.mean(0), features.std(0).clamp_min(_LEAST_SPREAD)
    said, right, errors, completed = [], [], [], []
    for masks in known:
        for target, mask in zip(
            torch.split(held_out, _PART), torch.split(masks, _PART), strict=True
        ):
            encoding = encode(model, target, mask)
            assert encoding.pixel_posterior is not None
            said.append(predicted_correct(encoding.pixel_posterior.log_variance.exp(), mask))
            right.append(observed_correct(encoding.pixel_posterior.mean, target, mask))
            drawn = model.generator(encoding.mean, encoding.condition)
            errors.append(known_error(drawn, target, mask))
            completed.append(torch.where(mask > 0, target, drawn))
    calibration = Calibration(
        *_isotonic(torch.cat(said).cpu().numpy(), torch.cat(right).cpu().numpy()),
        known_error=_fence(torch.cat(errors)),
        centre=_short(centre),
        spread=_short(spread),
        distance=0.0,
        known_errors=_fences(torch.cat(errors), 1 - known.flatten(0, 1).mean((1, 2, 3))),
    )
    distances = [calibration.distances(model.discriminator, part) for part in completed]
    return Calibration(**{**calibration.to_json(), "distance": _fence(torch.cat(distances))})


def _isotonic(
    said: NDArray[np.float32], right: NDArray[np.float32]
) -> tuple[list[float], list[float]]:
    """Return the means of the groups in which ``right`` rises with ``said``."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(said, kind="stable")
    fit = isotonic_regression(right[order])
    starts, sizes = fit.blocks[:-1], np.diff(fit.blocks)
    groups = np.add.reduceat(said[order].astype(np.float64), starts) / sizes
    return groups.round(5).tolist(), fit.x[starts].round(5).tolist()


@torch.no_grad()
def _features(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Return D's last maps, their means over the image: [B, F]."""
    return discriminator.features(images)[-1].mean((2, 3))


def _fence(values: Tensor) -> float:
    lower, upper = torch.quantile(values, values.new_tensor([0.25, 0.75])).tolist()
    return float(round(upper + 3 * (upper - lower), 4))


def _fences(values: Tensor, missing: Tensor) -> list[float]:
    """Return the fence of each fifth of the missing share, never below that of a smaller share, nor of fewer than 16 values."""
    fifths = [_fifth(share) for share in missing.tolist()]
    found, fence = [], 0.0
    for fifth in range(_FIFTHS):
        here = values[[number for number, each in enumerate(fifths) if each == fifth]]
        fence = max(fence, _fence(here) if len(here) >= _FEWEST else 0.0)
        found.append(fence)
    # Where a fifth has no fence and none below it has, the next one's is the nearest that is known.
    least = next((each for each in found if each), _fence(values))
    return [each or least for each in found]


def _fifth(share: float) -> int:
    return min(int(share * _FIFTHS), _FIFTHS - 1)


def _short(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]
