"""What the search minimises, per image (Yeh et al. 2017, equations 3 to 5).

    z* = argmin_z  L_c(z | y, M) + lambda L_p(z) + further terms

Every function returns [B]: image i's loss is its own, whatever the others in the batch are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from pixmend.models import Condition, Discriminator, Generator

Contextual = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From images, target [B, C, H, W] and weights [B, 1, H, W] to [B]."""
Perceptual = Callable[[Tensor], Tensor]
"""From D's logits [B] to [B]."""


@dataclass(frozen=True)
class Losses:
    """The objective at one z per image, each [B].

    Attributes
    ----------
    total
        contextual_weight * contextual + lambda_perceptual * perceptual, and the further terms.
    contextual, perceptual
        Before weighting. Where the perceptual loss weighs nothing D is not asked, and it is 0.
    """

    total: Tensor
    contextual: Tensor
    perceptual: Tensor

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return total, contextual and perceptual."""
        return self.total, self.contextual, self.perceptual


@dataclass(frozen=True)
class Objective:
    """The objective of one batch of searches; calling it with z [B, latent_dim] gives `Losses`.

    Attributes
    ----------
    generator, discriminator
        In evaluation mode, statistics frozen, so that images do not meet in batch norm.
    target
        The images to complete, [B, C, H, W] in [-1, 1]; values in the hole do not matter.
    known
        [B, 1, H, W], 1 = known, 0 = missing, between for a pixel that stands for some of both.
    weights
        [B, 1, H, W], 0 in the hole.
    contextual, perceptual
        The two losses and their weights in the sum.
    condition
        What G is told of each image besides z, for a model with a conditional encoder.
    terms
        Further terms, each with its weight in the sum.
    """

    generator: Generator
    discriminator: Discriminator
    target: Tensor
    known: Tensor
    weights: Tensor
    contextual: Contextual
    perceptual: Perceptual
    contextual_weight: float
    lambda_perceptual: float
    condition: Condition | None = None
    terms: "Sequence[tuple[Term, float]]" = ()

    def __call__(self, z: Tensor) -> Losses:
        """Return the losses of z [B, latent_dim]."""
        return self.of_images(self.draw(z), z)

    def draw(self, z: Tensor) -> Tensor:
        """Return G(z), [B, C, H, W]."""
        images: Tensor = self.generator(z, self.condition)
        return images

    def of_images(self, images: Tensor, z: Tensor | None = None) -> Losses:
        """Return the losses of images G(z), [B, C, H, W]; of images that no z draws, without the further terms."""
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
        return replace(
            self,
            target=self.target[rows],
            known=self.known[rows],
            weights=self.weights[rows],
            condition=None if self.condition is None else self.condition.take(rows),
        )


Term = Callable[[Objective, Tensor, Tensor], Tensor]
"""A further term: from the objective, z [B, latent_dim] and G(z) [B, C, H, W] to [B]."""


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


def contextual_mean_squared(images: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of (G(z) - y)^2 by weight, [B]: with W = M over the known pixels (Bora 2017, equation 2, A = the mask)."""
    share = images.shape[1] * weights.flatten(1).sum(1)
    return contextual_squared(images, target, weights) / share.clamp_min(1e-6)


def yeh_prior(logits: Tensor) -> Tensor:
    """Return log(1 - D(G(z))), [B], from D's logits (Yeh 2017, equation 5)."""
    # softplus(l) is the same number, but torch rounds it by other code in the last rows of a batch than in the first.
    return F.logsigmoid(-logits)


def nonsaturating_prior(logits: Tensor) -> Tensor:
    """Return -log D(G(z)), [B], the prior of the public ports of Yeh's method (G's loss in Goodfellow 2014, section 3)."""
    return -F.logsigmoid(logits)


def negative_logit(logits: Tensor) -> Tensor:
    """Return D's output with the sign that makes realistic images cheap, [B] (the seed system's prior)."""
    return -logits


def gaussian_norm(z: Tensor) -> Tensor:
    """Return ||z||^2, [B]: twice the negative log density of N(0, I) but for a constant (Bora 2017, section 4)."""
    return z.square().sum(1)


def latent_norm(objective: Objective, z: Tensor, images: Tensor) -> Tensor:
    """Return `gaussian_norm` as a term."""
    del objective, images
    return gaussian_norm(z)
