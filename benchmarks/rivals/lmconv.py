"""Locally masked convolutions (Jain, Abbeel, Pathak 2020): hidden pixels one after the other.

A network predicts the level of each hidden pixel from all known pixels and from the hidden ones
before it. Its 3 x 3 convolutions mask their inputs at each place by the image's own order (section
3): known pixels first, then rows. In training images are turned by 0 to 270 degrees, which is four
orders. Levels are quantised; channels of a pixel are independent. A sample computes the features of
each pixel once and keeps them.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.rivals.networks import update

RATE = 1e-3
LEVELS = 16
DILATIONS = (1, 1, 2, 4, 8, 2, 1)  # 19 px to each side


class LocallyMasked(nn.Module):
    """A sampler of completions, pixel by pixel."""

    stochastic = True

    def __init__(self, images: Tensor, filters: int) -> None:
        """Prepare to train on images uint8 [N, C, S, S]."""
        super().__init__()
        self.channels = images.shape[1]
        inputs = [self.channels + 1] + [filters] * (len(DILATIONS) - 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(count, filters, 3, padding=dilation, dilation=dilation)
            for count, dilation in zip(inputs, DILATIONS, strict=True)
        )
        self.last = nn.Conv2d(filters, self.channels * LEVELS, 1)
        self.learns = torch.optim.Adam(self.parameters(), RATE)
        # Only the first layer sees pixels; the others see features, which lack their own pixel.
        self.register_buffer("before", torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]))
        self.register_buffer("until", torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]]))

    def learn(self, real: Tensor, known: Tensor, autocast: torch.autocast) -> float:
        """Take one step; return the cross entropy in nats of a hidden level."""
        turns = int(torch.randint(4, ()))
        levels, known = quantise(real).rot90(turns, (2, 3)), known.rot90(turns, (2, 3))
        with autocast:
            logits = self.logits(levels, known).float()
        hidden = (1 - known).expand_as(real)
        loss = (F.cross_entropy(logits, levels, reduction="none") * hidden).sum() / hidden.sum()
        update(self.learns, loss)
        return float(loss.detach())

    def logits(self, levels: Tensor, known: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        """Return [B, LEVELS, C, S, S] of levels [B, C, S, S]; keep the inputs of each layer."""
        hidden = 1 - known

        def convolve(number: int, x: Tensor) -> Tensor:
            if kept is not None:
                kept.append(x.flatten(2))
            layer, space = self.layers[number], DILATIONS[number]
            # The order splits each masked convolution into two plain ones.
            seen = F.conv2d(x * known, layer.weight, layer.bias, 1, space, space)
            weight = layer.weight * self._order(number)
            return seen + hidden * F.conv2d(x * hidden, weight, None, 1, space, space)

        return self._run(torch.cat([dequantise(levels), known], 1), convolve)

    def complete(self, images: Tensor, known: Tensor) -> Tensor:
        """Sample completions of images in [-1, 1]; ``known`` is 1 or 0."""
        each, size = torch.arange(len(images), device=images.device), images.shape[-1]
        shown, kept = known.flatten(1) > 0, list[Tensor]()
        self.logits(quantise(images * known), known, kept)
        values = kept[0][:, : self.channels]
        values *= shown[:, None]
        order = shown.long().argsort(dim=1, descending=True, stable=True)
        # Images with fewer hidden pixels begin with known ones, which do not change.
        for place in order[:, int(shown.sum(1).min()) :].T:

            def convolve(number: int, x: Tensor, place: Tensor = place) -> Tensor:
                kept[number][each, :, place] = x[..., 0, 0].to(kept[number].dtype)
                around, inside = neighbours(place, size, DILATIONS[number])
                near = kept[number][each[:, None], :, around].transpose(1, 2)  # [B, W, 9]
                late = ~shown[each, place][:, None] & (self._order(number).flatten() > 0)
                seen = inside & (shown[each[:, None], around] | late)
                layer = self.layers[number]
                columns = (near * seen[:, None]).flatten(1)
                return F.linear(columns, layer.weight.flatten(1), layer.bias)[..., None, None]

            logits = self._run(kept[0][each, :, place][..., None, None], convolve)
            own, drawn = values[each, :, place], dequantise(self.draw(logits[..., 0, 0]))
            values[each, :, place] = torch.where(shown[each, place][:, None], own, drawn)
        return torch.where(known > 0, images, values.view_as(images))

    def draw(self, logits: Tensor) -> Tensor:
        """Return levels [B, C] drawn by logits [B, LEVELS, C]."""
        chances = logits.float().softmax(1).transpose(1, 2)
        return chances.flatten(0, 1).multinomial(1).view(len(chances), -1)

    def _order(self, number: int) -> Tensor:
        return self.until if number else self.before

    def _run(self, x: Tensor, convolve: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Return logits [B, LEVELS, C, H, W] by the masked convolution of each layer."""
        x = convolve(0, x)
        for number in range(1, len(self.layers)):
            x = x + convolve(number, F.silu(F.normalize(x, dim=1) * x.shape[1] ** 0.5))
        return self.last(F.silu(x)).unflatten(1, (LEVELS, self.channels))


def neighbours(place: Tensor, size: int, dilation: int) -> tuple[Tensor, Tensor]:
    """Return the nine places [B, 9] around each of [B], and whether they are inside the image."""
    steps = torch.arange(-1, 2, device=place.device) * dilation
    down = (place // size)[:, None] + steps.repeat_interleave(3)
    right = (place % size)[:, None] + steps.repeat(3)
    inside = (down >= 0) & (down < size) & (right >= 0) & (right < size)
    return torch.where(inside, down * size + right, 0), inside


def quantise(images: Tensor) -> Tensor:
    """Return the levels of images in [-1, 1], int64."""
    return ((images + 1) / 2 * (LEVELS - 1)).round().long()


def dequantise(levels: Tensor) -> Tensor:
    """Return levels in [-1, 1]."""
    return levels.float() / (LEVELS - 1) * 2 - 1
