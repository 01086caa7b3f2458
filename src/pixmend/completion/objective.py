"""The objective of completion, per image (Yeh et al. 2017, equations 3 to 5).

    z* = argmin_z  L_c(z | y, M) + lambda L_p(z) + further terms

Every function returns [B]: the loss of an image does not depend on its batch mates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.models import Discriminator, Generator

Contextual = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images, target [B, C, H, W] and weights [B, 1, H, W] to [B]."""
Perceptual = Callable[[Tensor], Tensor]
"""From D's logits [B] to [B]."""


class Losses(NamedTuple):
    """The objective at one z per image, each [B]."""

    total: Tensor  # contextual_weight * contextual + lambda_perceptual * perceptual + further terms
    contextual: Tensor  # before weighting
    perceptual: Tensor  # likewise; with a weight of 0 it is not computed, and is 0

    def detach(self) -> "Losses":
        return Losses(*(part.detach() for part in self))

    def where(self, condition: Tensor, other: "Losses") -> "Losses":
        """Return these losses where ``condition`` [B], and the other elsewhere."""
        pairs = zip(self, other, strict=True)
        return Losses(*(torch.where(condition, ours, theirs) for ours, theirs in pairs))

    def put(self, rows: Tensor, new: "Losses") -> "Losses":
        """Return these losses with row numbers ``rows`` [N] replaced by ``new`` [N]."""
        pairs = zip(self, new, strict=True)
        return Losses(*(old.index_put((rows,), some) for old, some in pairs))


@dataclass(frozen=True)
class Objective:
    """The objective of one batch of searches; calling it with z [B, latent_dim] gives `Losses`.

    The networks are in evaluation mode: with batch statistics, images would depend on each other.
    """

    generator: Generator
    discriminator: Discriminator
    target: Tensor  # [B, C, H, W] in [-1, 1]; values in the hole are ignored
    known: Tensor  # share of each pixel that is known, [B, 1, H, W]
    weights: Tensor  # of the contextual loss, [B, 1, H, W], 0 in the hole
    contextual: Contextual
    perceptual: Perceptual
    contextual_weight: float
    lambda_perceptual: float
    terms: "Sequence[tuple[Term, float]]" = ()  # each with its weight

    def __call__(self, z: Tensor) -> Losses:
        """Return the losses of z [B, latent_dim]."""
        return self.of_images(self.draw(z), z)

    def draw(self, z: Tensor) -> Tensor:
        """Return G(z), [B, C, H, W]."""
        images: Tensor = self.generator(z)
        return images

    def of_images(self, images: Tensor, z: Tensor | None = None) -> Losses:
        """Return the losses of images G(z), [B, C, H, W]; without z, those of the images alone."""
        contextual = self.contextual(images, self.target, self.weights)
        perceptual = self.prior(images)
        total = self.contextual_weight * contextual + self.lambda_perceptual * perceptual
        if z is not None:
            for term, weight in self.terms:
                total = total + weight * term(self, z, images)
        return Losses(total, contextual, perceptual)

    def prior(self, images: Tensor) -> Tensor:
        """Return the perceptual loss of images, [B]."""
        if self.lambda_perceptual == 0:
            return images.new_zeros(len(images))
        return self.perceptual(self.discriminator(images))

    def take(self, rows: Tensor) -> "Objective":
        """Return the objective of the images numbered ``rows`` [N]."""
        target, known, weights = self.target[rows], self.known[rows], self.weights[rows]
        return replace(self, target=target, known=known, weights=weights)


Term = Callable[[Objective, Tensor, Tensor], Tensor]
"""A further term: from the objective, z [B, latent_dim] and G(z) [B, C, H, W] to [B]."""


def contextual_weights(known: Tensor, window: int = 7, floor: float = 0.0) -> Tensor:
    """Weight each known pixel of M = ``known`` [B, 1, H, W] by the share of missing pixels around it.

    W_i = floor + sum over j in N(i) of (1 - M_j) / |N(i)| where M_i = 1, and 0 in the hole (Yeh
    2017, equation 3, with floor 0). N(i) is a square of the odd side ``window``, cut at the image's
    edge; window 0 weights all known pixels by the floor.
    """
    if window == 0:
        return known * floor
    missing = F.avg_pool2d(1 - known, window, 1, window // 2, count_include_pad=False)
    return (floor + missing) * known


def contextual_l1(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return ||W * (G(z) - y)||_1, [B] (Yeh 2017, equation 4)."""
    return (weights * (images - target)).abs().flatten(1).sum(1)


def contextual_squared(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return sum W * (G(z) - y)^2, [B]; with W = M the squared error over the known pixels."""
    return (weights * (images - target).square()).flatten(1).sum(1)


def contextual_mean_squared(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of (G(z) - y)^2 by weight, [B]: with W = M over the known pixels (Bora 2017, equation 2, A = the mask)."""
    share = images.shape[1] * weights.flatten(1).sum(1)
    return contextual_squared(images, target, weights) / share.clamp_min(1e-6)


def yeh_prior(logits: Tensor) -> Tensor:
    """Return log(1 - D(G(z))), [B], from D's logits (Yeh 2017, equation 5)."""
    # Not softplus: torch rounds its last rows of a batch by other code than the first.
    return F.logsigmoid(-logits)


def nonsaturating_prior(logits: Tensor) -> Tensor:
    """Return -log D(G(z)), [B], as public ports of Yeh's method do (G's loss in Goodfellow 2014, section 3)."""
    return -F.logsigmoid(logits)


def negative_logit(logits: Tensor) -> Tensor:
    """Return -D(G(z)) from logits, [B], the prior of the classic method."""
    return -logits


def latent_norm(objective: Objective, z: Tensor, images: Tensor) -> Tensor:
    """Return ||z||^2, [B]: twice the negative log density of N(0, I) up to a constant (Bora 2017, section 4)."""
    del objective, images
    return z.square().sum(1)
