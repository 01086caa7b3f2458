"""Parts that rivals share: a U-Net steered by a code, convolutions that halve, and a step."""

from itertools import pairwise

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Three scales of two residual blocks each, with self-attention at the smallest.

    Maps images [B, ``inputs``, S, S], S a multiple of 4, and codes [B, ``code``] to images.
    """

    def __init__(self, inputs: int, outputs: int, filters: int, code: int) -> None:
        super().__init__()
        widths = (filters, 2 * filters, 2 * filters)
        features = 4 * filters
        self.embed = nn.Sequential(nn.Linear(code, features), nn.SiLU())
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

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Return [B, ``outputs``, S, S]."""
        embedding = self.embed(code)
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
    """A residual block, modulated by the embedding of the code."""

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


def widths_to_four_pixels(filters: int, size: int) -> list[int]:
    """Return the channels of the convolutions of `halve` that leave 4 px of a power of two."""
    return [filters * 2**n for n in range(size.bit_length() - 3)]


def halve(channels: int, widths: list[int], *, norm: bool = True) -> list[nn.Module]:
    """Return 4 x 4 convolutions of stride 2; the first has no batch norm."""
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2)]
    for narrow, wide in pairwise(widths):
        convolution = nn.Conv2d(narrow, wide, 4, 2, 1)
        layers += [convolution, *[nn.BatchNorm2d(wide)] * norm, nn.LeakyReLU(0.2)]
    return layers


def update(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """Take one step down the gradient of the loss."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
