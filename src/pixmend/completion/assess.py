"""How far completions can be trusted, by what was measured on held-out images in training and on training images the model holds."""

import torch
from torch import Tensor

from pixmend.models import DCGAN, Calibration, known_error


@torch.no_grad()
def assess(
    model: DCGAN,
    calibration: Calibration | None,
    drawn: Tensor,
    target: Tensor,
    known: Tensor,
    variance: Tensor,
) -> tuple[list[float | None], list[list[str]]]:
    """Return the confidence in each answer, and what speaks against its image's being of the model's domain.

    Parameters
    ----------
    calibration
        What was measured; without it there is nothing to tell.
    drawn, target
        Answers and what they complete, [B, C, S, S] in [-1, 1].
    known, variance
        [B, 1, S, S].
    """
    if calibration is None:
        return [None] * len(drawn), [[] for _ in drawn]
    errors = known_error(drawn, target, known).tolist()
    completed = known * target + (1 - known) * drawn
    distances = calibration.distances(model.discriminator, completed).tolist()
    missing = (1 - known).mean((1, 2, 3)).tolist()
    reasons = [
        [*strange, *calibration.reasons(*facts)]
        for strange, *facts in zip(
            _strange(model, target, known), errors, distances, missing, strict=True
        )
    ]
    return [*calibration.confidence(variance, known)], reasons


def _strange(model: DCGAN, target: Tensor, known: Tensor) -> list[list[str]]:
    """Return of each image in words whether it is far from all training images of the model's memory."""
    domain = None if model.retrieval is None else model.retrieval.domain
    if domain is None:
        return [[] for _ in target]
    return [
        [
            f"its known pixels lie {times:.1f} times as far from the nearest training image as any should"
        ]
        if times > 1
        else []
        for times in domain.anomaly_score(target, known).tolist()
    ]
