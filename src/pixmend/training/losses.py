"""The losses of the two players, per image, on D's logits.

With s the logit and sigma(s) = D(x), softplus(-s) = -log D(x) and softplus(s) = -log(1 - D(x)).
"""

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

LossName = Literal["nonsaturating", "minimax", "hinge"]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return -log D(x) - log(1 - D(G(z))), [B] from two [B] (Goodfellow 2014, equation 1, as a loss of D)."""
    return F.softplus(-real_logits) + F.softplus(fake_logits)


def nonsaturating(fake_logits: Tensor) -> Tensor:
    """Return -log D(G(z)), [B] (Goodfellow 2014, section 3: strong gradients while D wins)."""
    return F.softplus(-fake_logits)


def minimax(fake_logits: Tensor) -> Tensor:
    """Return log(1 - D(G(z))), [B] (Goodfellow 2014, Algorithm 1)."""
    return -F.softplus(fake_logits)


def hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return max(0, 1 - D(x)) + max(0, 1 + D(G(z))), [B] from two [B] (Lim & Ye 2017; D(x) is the logit itself)."""
    return F.relu(1 - real_logits) + F.relu(1 + fake_logits)


def critic(fake_logits: Tensor) -> Tensor:
    """Return -D(G(z)), [B]: G's part of the game whose D has the hinge (Lim & Ye 2017)."""
    return -fake_logits


def feature_matching(
    real_features: Tensor,
    fake_features: Tensor,
    *,
    over_batch: Callable[[Tensor], Tensor] = lambda part: part,
) -> Tensor:
    """Return ||E f(x) - E f(G(z))||^2, a scalar of two [B, C, H, W] (Salimans 2016, section 3.1).

    It is a statistic of the batch by definition, so it is the one loss that is not per image; ``over_batch`` makes the mean over the
    batch of the mean over the part of it that is here.
    """
    return over_batch(real_features.mean(0) - fake_features.mean(0)).square().sum()


DISCRIMINATOR_LOSSES: dict[LossName, Callable[[Tensor, Tensor], Tensor]] = {
    "nonsaturating": discriminator_loss,
    "minimax": discriminator_loss,
    "hinge": hinge,
}
GENERATOR_LOSSES: dict[LossName, Callable[[Tensor], Tensor]] = {
    "nonsaturating": nonsaturating,
    "minimax": minimax,
    "hinge": critic,
}
