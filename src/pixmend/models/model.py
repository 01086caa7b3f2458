"""A trained model, and completion in one pass of its encoder and generator."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pixmend.models.dcgan import Discriminator, Generator
from pixmend.models.encoder import Encoder, Encoding
from pixmend.models.retrieval import Retrieval
from pixmend.models.settings import DCGANSettings


@dataclass(frozen=True)
class DCGAN:
    """Trained networks, in evaluation mode with frozen batch statistics.

    Attributes
    ----------
    card
        Facts for people, such as training data, duration and scores. JSON values only.
    encoder
        None if `settings.encoder` is "off".
    retrieval
        Training images that the encoder retrieves from; None if `settings.retrieval_images` is 0.
    """

    settings: DCGANSettings
    generator: Generator
    discriminator: Discriminator
    card: dict[str, Any] = field(default_factory=dict)
    encoder: Encoder | None = None
    retrieval: Retrieval | None = None


def encode(
    model: DCGAN, target: Tensor, known: Tensor, neighbour: Tensor | None = None
) -> Encoding:
    """Encode images with holes; see `Encoder.forward`. The neighbour is retrieved by default."""
    assert model.encoder is not None
    if model.retrieval is not None and neighbour is None:
        neighbour = model.retrieval.take(model.retrieval.nearest(target, known)[:, 0])
    return model.encoder(target, known, neighbour)  # type: ignore[no-any-return]


@torch.no_grad()
def infer(model: DCGAN, target: Tensor, known: Tensor) -> Tensor:
    """Return G's whole images at the posterior means, [B, C, S, S]."""
    encoding = encode(model, target, known)
    images: Tensor = model.generator(encoding.mean, encoding.condition)
    return images


@torch.no_grad()
def infer_mean(model: DCGAN, target: Tensor, known: Tensor) -> Tensor:
    """Return the mean of `infer` and the pixel posterior: the least squared error in one pass."""
    encoding = encode(model, target, known)
    images: Tensor = model.generator(encoding.mean, encoding.condition)
    pixels = encoding.pixel_posterior
    return images if pixels is None else (images + pixels.mean) / 2
