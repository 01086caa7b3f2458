"""Conditional flow matching (Lipman et al. 2023) with a small U-Net, in 20 Euler steps.

The net sees the noisy image x_t = (1 - t) noise + t image, the masked image, the mask and t, and
predicts the velocity image - noise (Liu et al. 2023, equation 1); the loss is its squared error
over the hole. Answers come from the exponential moving average of the weights.
"""

import copy
import math

import torch
from torch import Tensor, nn

from benchmarks.rivals.networks import UNet, update

RATE, DECAY = 5e-4, 0.999
STEPS = 20
FREQUENCIES = 32  # of the embedding of t


class FlowMatching(nn.Module):
    """A sampler of completions."""

    stochastic = True

    def __init__(self, images: Tensor, filters: int) -> None:
        """Prepare to train on images uint8 [N, C, S, S] of a multiple of 4 px."""
        super().__init__()
        channels = images.shape[1]
        self.net = UNet(2 * channels + 1, channels, filters, 2 * FREQUENCIES)
        self.ema = copy.deepcopy(self.net)
        self.steps = 0
        self.learns = torch.optim.Adam(self.net.parameters(), RATE)

    def learn(self, real: Tensor, known: Tensor, autocast: torch.autocast) -> float:
        """Take one step; return the squared error of the velocity over the holes."""
        noise, t = torch.randn_like(real), torch.rand(len(real), 1, 1, 1, device=real.device)
        noisy = (1 - t) * noise + t * real
        hole = (1 - known).expand_as(real)
        with autocast:
            velocity = self.net(torch.cat([noisy, real * known, known], 1), encode(t))
        loss = ((velocity.float() - (real - noise)).square() * hole).sum() / hole.sum()
        update(self.learns, loss)
        self.steps += 1
        decay = min(DECAY, self.steps / (self.steps + 10))  # short runs keep no initial weights
        with torch.no_grad():
            for average, weight in zip(self.ema.parameters(), self.net.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
        return float(loss.detach())

    def complete(self, images: Tensor, known: Tensor) -> Tensor:
        """Sample completions of images in [-1, 1]; ``known`` is 1 or 0."""
        x = torch.randn_like(images)
        for step in range(STEPS):
            t = torch.full((len(x), 1, 1, 1), step / STEPS, device=x.device)
            x = x + self.ema(torch.cat([x, images * known, known], 1), encode(t)).float() / STEPS
        return torch.where(known > 0, images, x.clamp(-1, 1))


def encode(t: Tensor) -> Tensor:
    """Return sines and cosines of times [B, 1, 1, 1] in [0, 1]: [B, 2 * FREQUENCIES]."""
    exponents = torch.linspace(0, math.log(1000), FREQUENCIES, device=t.device)
    angles = t.view(-1, 1) * exponents.exp()
    return torch.cat([angles.sin(), angles.cos()], 1)
