"""Losses of G, D and the inpainter, per image where not stated otherwise.

The adversarial losses take D's logits s, with D(x) = sigmoid(s): softplus(-s) = -log D(x) and
softplus(s) = -log(1 - D(x)).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.training.settings import LossName


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return -log D(x) - log(1 - D(G(z))), [B] (Goodfellow 2014, equation 1, as a loss of D)."""
    return F.softplus(-real_logits) + F.softplus(fake_logits)


def nonsaturating(fake_logits: Tensor) -> Tensor:
    """Return -log D(G(z)), [B] (Goodfellow 2014, section 3: strong gradients while D wins)."""
    return F.softplus(-fake_logits)


def minimax(fake_logits: Tensor) -> Tensor:
    """Return log(1 - D(G(z))), [B] (Goodfellow 2014, Algorithm 1)."""
    return -F.softplus(fake_logits)


def hinge(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return max(0, 1 - s(x)) + max(0, 1 + s(G(z))), [B] (Lim & Ye 2017)."""
    return F.relu(1 - real_logits) + F.relu(1 + fake_logits)


def critic(fake_logits: Tensor) -> Tensor:
    """Return -s(G(z)), [B]: the loss of G against a D with the hinge loss (Lim & Ye 2017)."""
    return -fake_logits


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


def relativistic(ahead: Tensor, behind: Tensor) -> Tensor:
    """Return -log sigmoid(s - s'), [B], for logits s ``ahead`` and s' ``behind`` (Jolicoeur-Martineau 2019, equation 3).

    D puts originals ahead of completions; the inpainter, completions ahead of originals.
    """
    return F.softplus(behind - ahead)


def feature_matching(
    real_features: Tensor,
    fake_features: Tensor,
    *,
    over_batch: Callable[[Tensor], Tensor] = lambda mean: mean,
) -> Tensor:
    """Return ||E f(x) - E f(G(z))||^2, a scalar of two [B, C, H, W] (Salimans 2016, section 3.1).

    ``over_batch`` averages the mean of this process's share over all processes.
    """
    return over_batch(real_features.mean(0) - fake_features.mean(0)).square().sum()


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Return ||grad_x s(x)||^2, [B], of logits [B] and their inputs [B, C, H, W]; differentiable.

    R1 is gamma / 2 times its mean over real images (Mescheder 2018, equation 9). With batch norm in
    D, a logit depends on the whole batch, so the gradient is that of the sum of the logits.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def estimate_loss(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return e + 0.1 log(e + 0.001), [N], with e the mean squared error over the hole.

    The logarithm weighs images alike, however hard they are. ``known`` is [N, 1, S, S], 1 = known.
    """
    squared = _hole_mean((images - target).square(), known)
    return squared + 0.1 * torch.log(squared + 1e-3)


def draw_loss(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return `estimate_loss` with half the mean absolute error as its first term, [N]: it blurs less."""
    error = images - target
    squared = _hole_mean(error.square(), known)
    return 0.5 * _hole_mean(error.abs(), known) + 0.1 * torch.log(squared + 1e-3)


def _hole_mean(values: Tensor, known: Tensor) -> Tensor:
    missing = 1 - known
    count = missing.flatten(1).sum(1) * values.shape[1]
    return (values * missing).flatten(1).sum(1) / count.clamp_min(1)


def variance_loss(log_variance: Tensor, images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the negative log-likelihood of the missing pixels, [N] (Kendall and Gal 2017, equation 5).

    Only the variance learns by it: through the likelihood, images would learn least where they err most.
    """
    missing = 1 - known
    squared = (images.detach() - target).square().mean(1, keepdim=True)
    likelihood = log_variance + squared * (-log_variance).exp()
    return (missing * likelihood).flatten(1).sum(1) / missing.flatten(1).sum(1).clamp_min(1)
