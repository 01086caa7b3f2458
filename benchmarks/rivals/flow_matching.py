"""Conditional flow matching (Lipman et al. 2023) with a small U-Net, in 20 Euler steps.

The net sees the noisy image x_t = (1 - t) noise + t image, the masked image, the mask and t, and
predicts the velocity image - noise (Liu et al. 2023, equation 1); the loss is its squared error
over the hole. Answers come from the exponential moving average of the weights.
"""

import copy
import math

import torch
from torch import Tensor, nn

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
        self.net = UNet(2 * channels + 1, channels, filters)
        self.ema = copy.deepcopy(self.net)
        self.steps = 0
        self.learns = torch.optim.Adam(self.net.parameters(), RATE)

    def learn(self, real: Tensor, known: Tensor, autocast: torch.autocast) -> float:
        """Take one step; return the squared error of the velocity over the holes."""
        noise, t = torch.randn_like(real), torch.rand(len(real), 1, 1, 1, device=real.device)
        noisy = (1 - t) * noise + t * real
        hole = (1 - known).expand_as(real)
        with autocast:
            velocity = self.net(torch.cat([noisy, real * known, known], 1), t)
        loss = ((velocity.float() - (real - noise)).square() * hole).sum() / hole.sum()
        self.learns.zero_grad()
        loss.backward()
        self.learns.step()
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
            x = x + self.ema(torch.cat([x, images * known, known], 1), t).float() / STEPS
        return torch.where(known > 0, images, x.clamp(-1, 1))


class UNet(nn.Module):
    """Three scales of two residual blocks each, with self-attention at the smallest."""

    def __init__(self, inputs: int, outputs: int, filters: int) -> None:
        super().__init__()
        widths = (filters, 2 * filters, 2 * filters)
        features = 4 * filters
        self.embed = nn.Sequential(nn.Linear(2 * FREQUENCIES, features), nn.SiLU())
        self.first = nn.Conv2d(inputs, filters, 3, 1, 1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        narrow = filters
        for wide in widths:
            self.down.append(Block(narrow, wide, features))
            narrow = wide
        self.middle = Block(narrow, narrow, features)
        self.attention = nn.MultiheadAttention(narrow, 4, batch_first=True)
        for wide in widths[::-1]:
            self.up.append(Block(narrow + wide, wide, features))
            narrow = wide
        self.last = nn.Conv2d(filters, outputs, 3, 1, 1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity [B, C, S, S] at times t [B, 1, 1, 1] in [0, 1]."""
        exponents = torch.linspace(0, math.log(1000), FREQUENCIES, device=x.device)
        angles = t.view(-1, 1) * exponents.exp()
        embedding = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        x, skips = self.first(x), []
        for number, block in enumerate(self.down):
            x = block(nn.functional.avg_pool2d(x, 2) if number else x, embedding)
            skips.append(x)
        x = self.middle(x, embedding)
        tokens = x.flatten(2).transpose(1, 2)  # [B, S * S / 16, W]
        attended = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        x = x + attended.transpose(1, 2).reshape(x.shape)
        for number, block in enumerate(self.up):
            if number:
                x = nn.functional.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([x, skips.pop()], 1), embedding)
        return self.last(x)


class Block(nn.Module):
    """A residual block, modulated by the embedding of t."""

    def __init__(self, narrow: int, wide: int, features: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, narrow)
        self.one = nn.Conv2d(narrow, wide, 3, 1, 1)
        self.shift = nn.Linear(features, wide)
        self.two = nn.Sequential(nn.GroupNorm(4, wide), nn.SiLU(), nn.Conv2d(wide, wide, 3, 1, 1))
        self.skip = nn.Conv2d(narrow, wide, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return [B, W, S, S]."""
        maps = self.one(nn.functional.silu(self.norm(x)))
        return self.skip(x) + self.two(maps + self.shift(embedding)[..., None, None])
