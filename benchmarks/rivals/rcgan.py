"""The regularised conditional GAN (Bendel, Ahmad, Schniter 2023) with a small U-Net.

The generator sees the masked image, the mask and a normal code, which steers every block as in the
paper's inpainting. The critic of WGAN-GP (Gulrajani et al. 2017) sees the completed image and the
mask. The generator's loss over P = 2 samples of each image is L1 of their mean, less a reward for
their standard deviation (section 3), plus the critic's: diverse, and right on average. The reward's
weight is the one for normal posteriors; the paper also adapts it during training, this does not.
"""

import math

import torch
from torch import Tensor, nn

from benchmarks.rivals.networks import UNet, halve, update, widths_to_four_pixels

RATE, BETAS = 1e-3, (0.0, 0.99)
ADVERSARIAL = 1e-2
PENALTY, DRIFT = 10.0, 1e-3  # of the critic's slope and of its values (Karras et al. 2018)
CODE, SAMPLES = 64, 2
REWARD = math.sqrt(2 / (math.pi * SAMPLES * (SAMPLES + 1)))  # proposition 3.1
DEVIATION = math.sqrt(math.pi / (2 * SAMPLES * (SAMPLES - 1)))  # sum of |x - mean| to deviation


class RegularizedGAN(nn.Module):
    """A sampler of completions, in one pass."""

    stochastic = True

    def __init__(self, images: Tensor, filters: int) -> None:
        """Prepare to train on images uint8 [N, C, S, S] of a power of two."""
        super().__init__()
        channels, size = images.shape[1:3]
        self.net = UNet(channels + 1, channels, filters, CODE)
        widths = widths_to_four_pixels(filters, size)
        critic = halve(channels + 1, widths, norm=False)  # the penalty is of single images
        self.critic = nn.Sequential(*critic, nn.Conv2d(widths[-1], 1, 4), nn.Flatten(0))
        self.learns = torch.optim.Adam(self.net.parameters(), RATE, BETAS)
        self.judges = torch.optim.Adam(self.critic.parameters(), RATE, BETAS)

    def complete(self, images: Tensor, known: Tensor) -> Tensor:
        """Sample completions of images in [-1, 1]; ``known`` is 1 or 0."""
        code = torch.randn(len(images), CODE, device=images.device)
        drawn = self.net(torch.cat([images * known, known], 1), code).tanh()
        return torch.where(known > 0, images, drawn.float())

    def learn(self, real: Tensor, known: Tensor, autocast: torch.autocast) -> float:
        """Take one step of both networks; return L1 of the mean over the holes."""
        count = len(real)
        with autocast:
            drawn = self.complete(real.repeat(SAMPLES, 1, 1, 1), known.repeat(SAMPLES, 1, 1, 1))
            samples = drawn.unflatten(0, (SAMPLES, count))
            fake = samples[0].detach()
            values = self.critic(torch.cat([torch.cat([fake, real]), known.repeat(2, 1, 1, 1)], 1))
        on_fake, on_real = values.float().chunk(2)
        slope = self._penalty(real, fake, known, autocast)
        drift = DRIFT * on_real.square().mean()
        update(self.judges, (on_fake - on_real).mean() + PENALTY * slope + drift)
        with autocast:
            fooled = self.critic(torch.cat([drawn, known.repeat(SAMPLES, 1, 1, 1)], 1)).float()
        pixels = (1 - known).sum() * real.shape[1]
        mean = samples.mean(0)
        error = (mean - real).abs().sum() / pixels  # known pixels are equal
        deviation = DEVIATION * (samples - mean).abs().sum() / pixels
        update(self.learns, error - REWARD * deviation - ADVERSARIAL * fooled.mean())
        return float(error.detach())

    def _penalty(
        self, real: Tensor, fake: Tensor, known: Tensor, autocast: torch.autocast
    ) -> Tensor:
        """Return the mean of (|slope| - 1)^2 between real and completed images."""
        mixture = torch.rand(len(real), 1, 1, 1, device=real.device)
        between = real.lerp(fake, mixture).requires_grad_()
        with autocast:
            values = self.critic(torch.cat([between, known], 1))
        (slopes,) = torch.autograd.grad(values.float().sum(), between, create_graph=True)
        return (slopes.flatten(1).norm(dim=1) - 1).square().mean()
