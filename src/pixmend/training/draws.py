"""Training the draws of the inpainter: the best of several is trained, against a discriminator that knows the hole."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models import DCGANSettings, Inpainter
from pixmend.training.losses import draw_loss, gradient_penalty, relativistic
from pixmend.training.masking import MaskedBatch

_ADVERSARIAL_WEIGHT = 0.1
# Of the gradient penalty, as R1 and R2 in Huang 2024. With a gamma of 0.5 the discriminator learns next to nothing.
_PENALTY_EVERY, _GAMMA = 8, 0.02


class HoleDiscriminator(nn.Module):
    """Distinguishes completed images from originals; it sees the mask too, and has no norm (Huang 2024, section 3)."""

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        depth = (settings.size // settings.start).bit_length() - 1
        narrow = settings.inpainter_filters
        widths = [narrow * min(2**level, 8) for level in range(depth)]
        inputs = [channel_count(settings.channels) + 1, *widths]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1) for before, after in zip(inputs, widths, strict=False)
        )
        self.logit = nn.Conv2d(widths[-1], 1, settings.start)
        self.patch_logits = nn.Conv2d(widths[-2], 1, 3, padding=1)

    def forward(self, images: Tensor, known: Tensor) -> Tensor:
        """Return logits [B] of images [B, C, S, S] with known shares [B, 1, S, S]: of the whole, plus the mean over patches."""
        maps = [torch.cat([images, known - 0.5], 1)]
        for convolution in self.convolutions:
            maps.append(F.leaky_relu(convolution(maps[-1]), 0.2))
        whole, patches = self.logit(maps[-1]), self.patch_logits(maps[-2])
        logits: Tensor = (whole.flatten(1) + patches.flatten(1).mean(1, keepdim=True))[:, 0]
        return logits.float()


def draw_losses(
    inpainter: Inpainter,
    discriminator: HoleDiscriminator,
    maps: Sequence[Tensor],
    batch: MaskedBatch,
) -> tuple[Tensor, Tensor]:
    """Return the loss of the best of several draws of each image, a scalar, and these draws with the known pixels pasted.

    Only the best is trained (implicit maximum likelihood estimation, Li and Malik 2018): the others stay free to be other
    plausible completions, as their neighbours are. ``maps`` pass no gradient: what sharpens a
    draw must not blur the estimate.
    """
    evidence, target, known = batch.evidence, batch.images, batch.evidence.known
    begun = inpainter.drawer.begin([each.detach() for each in maps])
    with torch.no_grad():
        trials = [inpainter.draw(begun, z, evidence) for z in batch.latents]
        best = torch.stack([draw_loss(each, target, known) for each in trials]).argmin(0)
    rows = torch.arange(len(target), device=best.device)
    images = inpainter.draw(begun, batch.latents[best, rows], evidence)
    draws = torch.lerp(images, target, known)
    discriminator.requires_grad_(False)
    adversarial = relativistic(discriminator(draws, known), discriminator(target, known))
    discriminator.requires_grad_(True)
    loss = draw_loss(images, target, known) + _ADVERSARIAL_WEIGHT * adversarial
    return loss.mean(), draws.detach()


def is_penalised(step: int) -> bool:
    """Return whether the gradient penalty is due."""
    return step % _PENALTY_EVERY == 0


def hole_discriminator_losses(
    discriminator: HoleDiscriminator, batch: MaskedBatch, draws: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """Return the relativistic losses of a discriminator, [B], and their mean with, every few steps, the gradient penalty."""
    penalised, known = is_penalised(step), batch.evidence.known
    real = batch.images.detach().requires_grad_(penalised)
    fake = draws.detach().requires_grad_(penalised)
    real_logits, fake_logits = discriminator(real, known), discriminator(fake, known)
    losses = relativistic(real_logits, fake_logits)
    total = losses.mean()
    if penalised:
        penalty = gradient_penalty(real_logits, real) + gradient_penalty(fake_logits, fake)
        total = total + _PENALTY_EVERY * _GAMMA / 2 * penalty.mean()
    return losses, total
