"""What the search minimises, per image (Yeh et al. 2017, equations 3 to 5).

    z* = argmin_z  L_c(z | y, M) + lambda L_p(z)

Every function returns [B]: image i's loss is its own, whatever the others in the batch are.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from pixmend.models import Condition, Discriminator, Generator

__all__ = [
    "Losses",
    "Objective",
    "Perceptual",
    "contextual_l1",
    "contextual_squared",
    "contextual_weights",
    "negative_logit",
    "yeh_prior",
]

Contextual = Callable[[Tensor, Tensor, Tensor], Tensor]
Perceptual = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Losses:
    """The objective at one z per image, each [B].

    Attributes
    ----------
    total
        contextual_weight * contextual + prior_weight * perceptual.
    contextual, perceptual
        Before weighting.
    """

    total: Tensor
    contextual: Tensor
    perceptual: Tensor


@dataclass(frozen=True)
class Objective:
    """The objective of one batch of searches; calling it with z [B, latent_dim] gives `Losses`.

    Attributes
    ----------
    generator, discriminator
        In evaluation mode, statistics frozen, so that images do not meet in batch norm.
    target
        The images to complete, [B, C, H, W] in [-1, 1]; values in the hole do not matter.
    weights
        [B, 1, H, W], 0 in the hole.
    contextual, perceptual
        The two losses and their weights in the sum.
    condition
        What G is told of each image besides z, for a model with a conditional encoder.
    """

    generator: Generator
    discriminator: Discriminator
    target: Tensor
    weights: Tensor
    contextual: Contextual
    perceptual: Perceptual
    contextual_weight: float
    prior_weight: float
    condition: Condition | None = None

    def __call__(self, z: Tensor) -> Losses:
        """Return the losses at z."""
        return self.of_images(self.generator(z, self.condition))

    def of_images(self, images: Tensor) -> Losses:
        """Return the losses of images G(z), [B, C, H, W]."""
        contextual = self.contextual(images, self.target, self.weights)
        perceptual = self.perceptual(self.discriminator(images))
        total = self.contextual_weight * contextual + self.prior_weight * perceptual
        return Losses(total, contextual, perceptual)


def contextual_weights(known: Tensor, window: int = 7, floor: float = 0.0) -> Tensor:
    """Weigh each known pixel by the share of missing pixels around it, and all known pixels by ``floor`` besides.

    W_i = floor + sum over j in N(i) of (1 - M_j) / |N(i)| where M_i = 1, and 0 in the hole (Yeh 2017, equation 3, with
    floor 0). With floor 0 what is known far from the hole has no say; with window 0 all known pixels count alike.

    Parameters
    ----------
    known
        M, float [B, 1, H, W], 1 = known; between 0 and 1 where a pixel stands for some known ones and some missing.
    window
        Side of the square neighbourhood N(i), odd; at the image's edge only pixels inside it count. 0 = none.
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


def yeh_prior(logits: Tensor) -> Tensor:
    """Return log(1 - D(G(z))), [B], from D's logits (Yeh 2017, equation 5)."""
    # softplus(l) is the same number, but torch rounds it by other code in the last rows of a batch than in the first.
    return F.logsigmoid(-logits)


def negative_logit(logits: Tensor) -> Tensor:
    """Return D's output with the sign that makes realistic images cheap, [B] (the seed system's prior)."""
    return -logits
