"""Losses of G, D and E, per image where not stated otherwise.

The adversarial losses take D's logits s, with D(x) = sigmoid(s): softplus(-s) = -log D(x) and
softplus(s) = -log(1 - D(x)).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.models import PixelPosterior, kl_to_prior
from pixmend.training.masking import Generated
from pixmend.training.settings import LossName, TrainSettings

_KNOWN_WEIGHT = 0.25  # completions keep the known pixels, but G must agree with them


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


def completion_loss(generated: Generated, settings: TrainSettings) -> Tensor:
    """Return weighted L1 + KL beyond the free nats + loss of the pixel posterior, [N].

    The evidence lower bound (Kingma and Welling 2014, equation 10), with free bits (Kingma 2016,
    appendix C.8). The L1 is a mean over values as in pix2pix (Isola 2017, equation 3), weighted
    towards the hole.
    """
    masked, encoding = generated.masked, generated.encoding
    assert masked is not None
    assert encoding is not None
    assert encoding.pixel_posterior is not None
    weights = torch.where(masked.known > 0, _KNOWN_WEIGHT, 1.0)  # [N, 1, S, S]
    error = (generated.images[: len(masked)] - masked.images).abs().mean(1, keepdim=True)
    reconstruction = (weights * error).flatten(1).sum(1) / weights.flatten(1).sum(1)
    kl = (kl_to_prior(encoding) - settings.free_nats).clamp_min(0)
    loss = settings.reconstruction_weight * reconstruction + settings.kl_weight * kl
    posterior = pixel_posterior_loss(encoding.pixel_posterior, masked.images, weights)
    return loss + settings.estimate_weight * posterior


def pixel_posterior_loss(posterior: PixelPosterior, images: Tensor, weights: Tensor) -> Tensor:
    """Return squared error + 0.01 of its negative log-likelihood, [N].

    Both are means weighted by [N, 1, S, S]; likelihood as in Kendall and Gal 2017, equation 5.
    """
    squared = (posterior.mean - images).square().mean(1, keepdim=True)
    # Detached: through the likelihood, the mean would learn least where it errs most.
    precision = (-posterior.log_variance).exp()
    likelihood = posterior.log_variance + squared.detach() * precision
    loss = weights * (squared + 0.01 * likelihood)
    return loss.flatten(1).sum(1) / weights.flatten(1).sum(1)
