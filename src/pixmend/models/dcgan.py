"""The DCGAN of Radford, Metz and Chintala (2015): generator G and discriminator D.

    z [B, latent_dim] --G--> image [B, C, size, size] in [-1, 1] --D--> logit [B]

Rules of section 3: strided convolutions instead of pooling, batch norm except at G's output and D's
input, no hidden fully connected layers, ReLU and a final tanh in G, LeakyReLU 0.2 in D. D returns
logits: the losses apply the sigmoid where it is numerically stable.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models.layers import Downsample, Projection, Upsample
from pixmend.models.settings import DCGANSettings


class Generator(nn.Module):
    """G: a projection of z, then transposed convolutions (Radford 2015, figure 1)."""

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        widths, kernel = settings.widths(settings.filters), settings.kernel
        self.start = settings.start
        # [B, latent_dim] -> [B, widths[0] * start * start]
        self.project = Projection(settings.latent_dim, widths[0] * self.start**2)
        self.project_norm = nn.BatchNorm2d(widths[0])
        # [B, widths[i], s, s] -> [B, widths[i + 1], 2 s, 2 s]
        self.ups = nn.ModuleList(
            nn.Sequential(
                Upsample(wide, narrow, kernel, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(inplace=True),
            )
            for wide, narrow in pairwise(widths)
        )
        # [B, filters, size / 2, size / 2] -> [B, C, size, size]
        self.to_image = Upsample(widths[-1], channel_count(settings.channels), kernel)

    def forward(self, z: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return images [B, C, size, size] in [-1, 1]; ``offset`` is added to the first maps before their ReLU."""
        maps = self.project_norm(self.project(z).unflatten(1, (-1, self.start, self.start)))
        maps = torch.relu(maps if offset is None else maps + offset)
        for up in self.ups:
            maps = up(maps)
        return torch.tanh(self.to_image(maps))


class Discriminator(nn.Module):
    """D: strided convolutions to one logit an image, high = real (Radford 2015, section 3)."""

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        widths = settings.widths(settings.discriminator_filters or settings.filters)[::-1]
        first = Downsample(channel_count(settings.channels), widths[0], settings.kernel)
        # [B, C, size, size] -> [B, filters, size / 2, size / 2], then
        # [B, widths[i], s, s] -> [B, widths[i + 1], s / 2, s / 2]
        self.downs = nn.ModuleList([nn.Sequential(first, nn.LeakyReLU(0.2, inplace=True))])
        self.downs.extend(down(*pair, settings.kernel) for pair in pairwise(widths))
        # [B, widths[-1], start, start] -> [B, 1, 1, 1]
        self.to_logit = nn.Conv2d(widths[-1], 1, settings.start)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logit of each image, [B]."""
        return self.logit(self.features(images)[-1])

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps after each layer, the last [B, widths[-1], start, start]."""
        maps = [images]
        for layer in self.downs:
            maps.append(layer(maps[-1]))
        return maps[1:]

    def logit(self, maps: Tensor) -> Tensor:
        """Return the logits [B] of the last maps of `features`."""
        logits: Tensor = self.to_logit(maps)
        return logits.flatten()


def down(narrow: int, wide: int, kernel: int) -> nn.Sequential:
    """Return D's layer: [B, narrow, 2 s, 2 s] -> [B, wide, s, s]."""
    return nn.Sequential(
        Downsample(narrow, wide, kernel, bias=False),
        nn.BatchNorm2d(wide),
        nn.LeakyReLU(0.2, inplace=True),
    )


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw weights from N(0, 0.02), batch-norm gains from N(1, 0.02) (Radford 2015, section 4)."""
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                part.weight.normal_(0, 0.02, generator=generator)
            elif isinstance(part, nn.BatchNorm2d):
                part.weight.normal_(1, 0.02, generator=generator)
            else:
                continue
            if part.bias is not None:
                part.bias.zero_()


def sample_latents(settings: DCGANSettings, count: int, generator: torch.Generator) -> Tensor:
    """Draw z [count, latent_dim] from the prior of training."""
    if settings.latent_prior == "normal":
        return torch.randn(count, settings.latent_dim, generator=generator)
    return torch.rand(count, settings.latent_dim, generator=generator) * 2 - 1


def clip_radius(settings: DCGANSettings) -> float:
    """Return the |z_i| that prior samples rarely exceed: 1 for U(-1, 1), 3 for N(0, 1)."""
    return 1.0 if settings.latent_prior == "uniform" else 3.0
