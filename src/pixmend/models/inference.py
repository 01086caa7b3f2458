"""Completing in one pass: what the encoder sees, and what G makes of it."""

import torch
from torch import Tensor

from pixmend.models.encoder import Encoding
from pixmend.models.file import DCGAN


def encode(
    model: DCGAN, target: Tensor, known: Tensor, neighbour: Tensor | None = None
) -> Encoding:
    """Encode images with holes, [B, C, S, S] and [B, 1, S, S]; the neighbour is looked up if the model has a memory and none is given."""
    assert model.encoder is not None
    if model.retrieval is not None and neighbour is None:
        neighbour = model.retrieval.take(model.retrieval.nearest(target, known)[:, 0])
    return model.encoder(target, known, neighbour)  # type: ignore[no-any-return]


@torch.no_grad()
def infer(model: DCGAN, target: Tensor, known: Tensor, neighbour: Tensor | None = None) -> Tensor:
    """Return G's image at the posterior's mean, [B, C, S, S]: the whole image, hole and all, in one pass."""
    encoding = encode(model, target, known, neighbour)
    images: Tensor = model.generator(encoding.mean, encoding.condition)
    return images


@torch.no_grad()
def infer_mean(model: DCGAN, target: Tensor, known: Tensor) -> Tensor:
    """Return the mean of `infer` and of E's estimate, where E makes one: in one pass, what comes nearest to the truth."""
    encoding = encode(model, target, known)
    images: Tensor = model.generator(encoding.mean, encoding.condition)
    return (
        images if encoding.pixel_posterior is None else (images + encoding.pixel_posterior.mean) / 2
    )
