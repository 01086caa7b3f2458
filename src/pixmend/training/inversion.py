"""Inversion-aware training: real images with holes, and what E and G together make of them.

A part of each batch that G draws are completions: z from E's posterior, and G told what E saw. The rest are prior samples.
D judges both alike, so G stays a generator of the domain while E learns to invert it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pixmend.models import Encoder, Encoding, Generator, PixelPosterior, kl_to_prior

_KNOWN_WEIGHT = 0.25  # of known pixels in the reconstruction: they are pasted at completion, but G must agree with them


@dataclass(frozen=True)
class MaskedBatch:
    """Real images with holes.

    Attributes
    ----------
    images, known
        [N, C, S, S] in [-1, 1], and [N, 1, S, S], 1 = known.
    neighbour
        The training image nearest on the known pixels, [N, C, S, S], for a model with a memory.
    noise
        Of the draw of z, [N, latent_dim] from N(0, 1).
    """

    images: Tensor
    known: Tensor
    neighbour: Tensor | None
    noise: Tensor

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Drawn:
    """What G draws for one batch.

    Attributes
    ----------
    images
        [N + M, C, S, S]: completions of the N ``holed`` images, if any, before M samples of the prior.
    holed, encoding
        What is completed, and what E makes of it; None where all are prior samples.
    """

    images: Tensor
    holed: MaskedBatch | None = None
    encoding: Encoding | None = None

    @property
    def completions(self) -> int:
        """How many of the images are completions."""
        return 0 if self.holed is None else len(self.holed)

    def exact(self) -> "Drawn":
        """Return all that losses are made of in float32."""
        images = self.images.float()
        return Drawn(images, self.holed, None if self.encoding is None else self.encoding.exact())


def draw(
    generator: Generator, encoder: Encoder | None, holed: MaskedBatch | None, z: Tensor
) -> Drawn:
    """Complete ``holed`` images, if any, and sample at the prior's ``z`` [M, latent_dim].

    One pass for both: G's batch statistics, while it trains and when they are frozen, are those of the mixture.
    """
    if holed is None:
        return Drawn(generator(z))
    assert encoder is not None
    encoding = encoder(holed.images, holed.known, holed.neighbour)
    latents = torch.cat([encoding.draw(holed.noise), z])
    return Drawn(generator(latents, encoding.condition), holed, encoding)


def completion_loss(
    drawn: Drawn,
    *,
    reconstruction_weight: float,
    estimate_weight: float,
    kl_weight: float,
    free_nats: float,
) -> Tensor:
    """Return weighted L1 + KL beyond ``free_nats``, [N] (Kingma and Welling 2014, equation 10; free bits: Kingma 2016, appendix C.8).

    The L1 is a weighted mean over values, as in pix2pix (Isola 2017, equation 3), missing pixels before known ones. So is the loss of
    E's estimate, where it makes one: squared error of the mean, and likelihood of that error under the variance.
    """
    holed, encoding = drawn.holed, drawn.encoding
    assert holed is not None
    assert encoding is not None
    weights = torch.where(holed.known > 0, _KNOWN_WEIGHT, 1.0)  # [N, 1, S, S]
    error = (drawn.images[: len(holed)] - holed.images).abs().mean(1, keepdim=True)
    reconstruction = (weights * error).flatten(1).sum(1) / weights.flatten(1).sum(1)
    kl = (kl_to_prior(encoding) - free_nats).clamp_min(0)
    loss = reconstruction_weight * reconstruction + kl_weight * kl
    if encoding.pixel_posterior is None:
        return loss
    return loss + estimate_weight * estimate_loss(encoding.pixel_posterior, holed.images, weights)


def estimate_loss(estimate: PixelPosterior, images: Tensor, weights: Tensor) -> Tensor:
    """Return squared error + 0.01 of the negative log-likelihood of that error, weighted means over pixels, [N]."""
    squared = (estimate.mean - images).square().mean(1, keepdim=True)
    # The error is a fact for the variance to tell: through it, the mean would learn least where it errs most.
    likelihood = estimate.log_variance + squared.detach() * (-estimate.log_variance).exp()
    loss = weights * (squared + 0.01 * likelihood)
    return loss.flatten(1).sum(1) / weights.flatten(1).sum(1)


def sample_masks(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw masks of all kinds, float [count, 1, size, size], 1 = known: image i's kind is i mod 5.

    The centre; a random 10 to 95 % of the pixels; a random box; a random half; blobs over 10 to 50 %, as strokes and stains are.
    """
    uniform = torch.rand(count, 5, generator=generator)
    noise = torch.rand(count, size, size, generator=generator)
    coarse = torch.rand(count, 1, 3 + size // 8, 3 + size // 8, generator=generator)
    rows, columns = torch.arange(size)[None, :, None], torch.arange(size)[None, None, :]
    share = uniform[:, 0, None, None]
    scattered = noise < 0.1 + 0.85 * share
    box_height = (0.2 + 0.6 * uniform[:, 1]) * size
    box_width = (0.2 + 0.6 * uniform[:, 2]) * size
    top, left = uniform[:, 3] * (size - box_height), uniform[:, 4] * (size - box_width)
    box = _within(rows, top, box_height) & _within(columns, left, box_width)
    middle = torch.full((count,), size / 4), torch.full((count,), size / 2)
    centre = _within(rows, *middle) & _within(columns, *middle)
    side = (uniform[:, 1] * 4).long()[:, None, None]
    across, half = torch.where(side % 2 == 0, rows, columns), size // 2
    halves = torch.where(side < 2, across < half, across >= half)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[:, 0]
    ordered = smooth.flatten(1).sort(1).values  # [count, size * size]
    threshold = ordered.gather(1, ((0.1 + 0.4 * share[:, 0]) * size**2).long())
    blobs = smooth < threshold[:, :, None]
    kinds = torch.stack([centre, scattered, box, halves, blobs])  # [5, count, size, size]
    number = torch.arange(count)
    return (~kinds[number % 5, number]).float()[:, None]


def _within(positions: Tensor, start: Tensor, length: Tensor) -> Tensor:
    offset = positions - start[:, None, None]
    return (offset >= -0.5) & (offset < length[:, None, None] - 0.5)
