"""`arch = "residual"`: G and D of residual blocks, with the faces of the DCGAN's.

    z --project--> maps --block--> maps --block--> ... --to_image--> image
                    |               |                       |
                    +--to_colours-->+--to_colours--> ... --(+)    an image of each size, enlarged and added up

Each block adds two convolutions to a path that leads past them (He 2016; of GANs Gulrajani 2017 and Miyato 2018, appendix B). G's
image is the sum of what is drawn at each size, the "output skips" that were the best of the generators compared by Karras 2020
(StyleGAN2, section 4.1 and table 2), there too against a residual D.

The 3 x 3 convolution is at the smaller size and changes the number of maps, the strided one keeps it: 9 * 2 n n + 16 n n = 34 n n
products a coarse pixel, where the DCGAN's one layer from 2 n to n maps has 32 n n. So the depth doubles and the cost hardly
rises. Batch norm stays as in the DCGAN, so that no further setting has to keep D in check.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models.dcgan import (
    Condition,
    DCGANSettings,
    Discriminator,
    Generator,
    add_condition,
    doubling,
    halving,
    leaky,
)


def make_generator(settings: DCGANSettings) -> Generator:
    """Return the G that the settings describe, its weights not yet drawn."""
    return ResidualGenerator(settings) if settings.arch == "residual" else Generator(settings)


def make_discriminator(settings: DCGANSettings) -> Discriminator:
    """Return the D that the settings describe, its weights not yet drawn."""
    if settings.arch == "residual":
        return ResidualDiscriminator(settings)
    return Discriminator(settings)


class ResidualGenerator(Generator):
    """G whose doublings are residual blocks and whose image is a sum of images of all sizes (Karras 2020, figure 7b)."""

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__(settings)
        colours = channel_count(settings.channels)
        # [B, widths[i], s, s] -> [B, C, s, s]; the last maps `to_image` takes straight to full size
        # Of 3 x 3, as the sums of torch's 1 x 1 to a few channels depend, on a CPU, on the number of images.
        self.to_colours = nn.ModuleList(
            nn.Conv2d(width, colours, 3, padding=1)
            for width, _ in pairwise(settings.widths(settings.filters))
        )

    def forward(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Return G(z), of the first rows as ``condition`` says more of them; the others are prior samples."""
        told = [None] * (1 + len(self.ups)) if condition is None else condition.maps
        maps = self.project(z).unflatten(1, (-1, self.start, self.start))
        maps = _activate(self.project_norm(maps), told[0])
        image: Tensor | None = None
        for up, to_colours, more in zip(self.ups, self.to_colours, told[1:], strict=True):
            seen = to_colours(maps)
            image = seen if image is None else _enlarge(image) + seen
            maps = _activate(up(maps), more)
        assert image is not None  # the least size is two doublings from its start
        # `to_image` doubles too; what was drawn at a quarter of the size has both to go.
        drawn = self.to_image(maps) + _enlarge(_enlarge(image))
        return torch.tanh(drawn if condition is None else add_condition(drawn, condition.residual))

    def _up(self, wide: int, narrow: int, kernel: int) -> nn.Module:
        return _Up(wide, narrow, kernel)


class ResidualDiscriminator(Discriminator):
    """D whose halvings, but for the first, are residual blocks (Karras 2020, figure 7c)."""

    def _down(self, narrow: int, wide: int, kernel: int) -> nn.Module:
        return _Down(narrow, wide, kernel)


class _Up(nn.Module):
    """[B, wide, s, s] -> [B, narrow, 2 s, 2 s], before the ReLU.

    The path past the convolutions has no weights: every pixel is doubled, and the maps beyond the first ``narrow`` are dropped
    (Brock 2019, BigGAN-deep, appendix B).
    """

    def __init__(self, wide: int, narrow: int, kernel: int) -> None:
        super().__init__()
        self.narrow = narrow
        self.change = nn.Sequential(
            nn.Conv2d(wide, narrow, 3, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            doubling(narrow, narrow, kernel, bias=False),
            nn.BatchNorm2d(narrow),
        )

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = self.change(maps)
        return changed + F.interpolate(maps[:, : self.narrow], scale_factor=2.0, mode="nearest")


class _Down(nn.Module):
    """[B, narrow, 2 s, 2 s] -> [B, wide, s, s], after the LeakyReLU.

    The path past the convolutions has no weights: the mean over 2 x 2 pixels, and maps of 0 to make up the number (He 2016, option A).
    """

    def __init__(self, narrow: int, wide: int, kernel: int) -> None:
        super().__init__()
        self.further = wide - narrow
        self.change = nn.Sequential(
            halving(narrow, narrow, kernel, bias=False),
            nn.BatchNorm2d(narrow),
            leaky(),
            nn.Conv2d(narrow, wide, 3, padding=1, bias=False),
            nn.BatchNorm2d(wide),
        )
        self.activate = leaky()

    def forward(self, maps: Tensor) -> Tensor:
        past = F.pad(F.avg_pool2d(maps, 2), (0, 0, 0, 0, 0, self.further))
        activated: Tensor = self.activate(self.change(maps) + past)
        return activated


def _activate(maps: Tensor, told: Tensor | None) -> Tensor:
    return torch.relu(maps if told is None else add_condition(maps, told))


def _enlarge(images: Tensor) -> Tensor:
    return F.interpolate(images, scale_factor=2.0, mode="bilinear", align_corners=False)
