"""How far completions can be trusted, by what the model's training measured on held-out images."""

import torch
from torch import Tensor

from pixmend.models import DCGAN, Trust, known_error

__all__ = ["assess"]


@torch.no_grad()
def assess(
    model: DCGAN,
    trust: Trust | None,
    drawn: Tensor,
    target: Tensor,
    known: Tensor,
    variance: Tensor,
) -> tuple[list[float | None], list[list[str]]]:
    """Return the confidence in each answer, and what speaks against its image's being of the model's domain.

    Parameters
    ----------
    trust
        What was measured; without it there is nothing to tell.
    drawn, target
        Answers and what they complete, [B, C, S, S] in [-1, 1].
    known, variance
        [B, 1, S, S].
    """
    if trust is None:
        return [None] * len(drawn), [[] for _ in drawn]
    errors = known_error(drawn, target, known).tolist()
    completed = known * target + (1 - known) * drawn
    distances = trust.distances(model.discriminator, completed).tolist()
    doubts = [trust.doubts(*pair) for pair in zip(errors, distances, strict=True)]
    return [*trust.confidence(variance, known)], doubts
