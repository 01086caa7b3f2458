"""The DCGAN of Radford, Metz and Chintala (2015): a generator and a discriminator that mirror each other.

    z [B, latent_dim] --Generator--> image [B, C, H, W] in [-1, 1] --Discriminator--> logit [B]

The paper's rules (section 3): strided convolutions instead of pooling, batch norm everywhere but at G's output and D's input, no hidden
fully connected layers, ReLU in G with tanh at its end, LeakyReLU 0.2 in D, weights drawn from N(0, 0.02). D ends in
a logit: the losses take the sigmoid where it is numerically safe.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from pixmend.images import MAX_PIXELS, Channels, channel_count
from pixmend.models.layers import Downsample, Projection, Upsample

_WIDEST = 1024  # of the paper's figure 1; deeper nets than the paper's do not grow past it


class DCGANSettings(BaseModel):
    """What makes one DCGAN another; with `filters` 128 and `kernel` 5 it is the paper's figure 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: Literal[16, 32, 64, 96, 128, 256] = Field(
        64, description="side of the square image, in pixels"
    )
    channels: Channels = Field("RGB", description="L, RGB or RGBA")
    filters: int = Field(64, ge=4, le=1024, description="feature maps of G's last hidden layer")
    discriminator_filters: int | None = Field(
        None, ge=4, le=1024, description="feature maps of D's first layer; as G's if not given"
    )
    kernel: Literal[4, 5] = Field(4, description="side of the (transposed) convolutions' kernels")
    latent_dim: int = Field(100, ge=2, le=4096, description="numbers in z")
    latent_prior: Literal["normal", "uniform"] = Field(
        "normal", description="z drawn from N(0, 1) or from U(-1, 1)"
    )
    encoder: Literal["off", "conditional"] = Field(
        "off", description="encoder of masked images: none, or one that conditions G"
    )
    encoder_filters: int | None = Field(
        None,
        ge=4,
        le=1024,
        description="feature maps of the encoder's first layer; as G's if not given",
    )
    hole_init: Literal["grey", "harmonic"] = Field(
        "grey",
        description="what the encoder sees in the hole: mid-grey, or a smooth guess that it then corrects",
    )
    retrieval_images: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="training images that the model file holds for the encoder to look at; 0 = none",
    )

    @model_validator(mode="after")
    def _encoder_fits(self) -> Self:
        if self.encoder != "off" and self.latent_prior != "normal":
            raise ValueError(
                f"encoder = {self.encoder!r} needs latent_prior = 'normal': its posterior is measured against N(0, I)"
            )
        most = MAX_PIXELS // self.size**2
        if self.retrieval_images > most:
            raise ValueError(
                f"retrieval_images = {self.retrieval_images} is more than a model file can be read with: at most {most} at {self.size} px"
            )
        if self.retrieval_images and self.encoder == "off":
            raise ValueError("memory is looked at by the encoder: set encoder = 'conditional' too")
        return self

    @property
    def start(self) -> int:
        """Side of the smallest feature maps: 4, or 6 for 96 px (6 x 2^4 = 96)."""
        return 6 if self.size == 96 else 4

    def widths(self, filters: int) -> list[int]:
        """Feature maps from the widest layer (at `start` pixels) to the one next to the image."""
        doublings = (self.size // self.start).bit_length() - 1
        return [
            min(filters * 2**depth, max(_WIDEST, filters)) for depth in reversed(range(doublings))
        ]


@dataclass(frozen=True)
class Condition:
    """What G is told of an image besides z, by an encoder; of a prior sample nothing.

    Attributes
    ----------
    maps
        Added before the ReLU of each layer of G: [B, widths[i], s, s] for s = start, 2 start, ..., size / 2.
    residual
        Added before its tanh, [B, C, size, size].
    """

    maps: list[Tensor]
    residual: Tensor

    def take(self, rows: Tensor) -> "Condition":
        """Return what is told of the images numbered ``rows`` [N]."""
        return Condition([each[rows] for each in self.maps], self.residual[rows])


class Generator(nn.Module):
    """G: z [B, latent_dim] -> image [B, C, size, size] in [-1, 1] (Radford 2015, figure 1).

    z is projected to `start` x `start` maps; each transposed convolution doubles the side and halves the maps.
    """

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        widths = settings.widths(settings.filters)
        self.start = settings.start
        # [B, latent_dim] -> [B, widths[0] * start * start]
        self.project = Projection(settings.latent_dim, widths[0] * self.start**2)
        self.project_norm = nn.BatchNorm2d(widths[0])
        # [B, widths[i], s, s] -> [B, widths[i + 1], 2 s, 2 s]
        self.ups = nn.ModuleList(
            self._up(wide, narrow, settings.kernel) for wide, narrow in pairwise(widths)
        )
        # [B, filters, size / 2, size / 2] -> [B, C, size, size]
        self.to_image = doubling(
            widths[-1], channel_count(settings.channels), settings.kernel, bias=True
        )

    def forward(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Return G(z), of the first rows as ``condition`` says more of them; the others are prior samples."""
        maps = self.project(z).unflatten(1, (-1, self.start, self.start))
        maps = self.project_norm(maps)
        if condition is None:
            maps = torch.relu(maps)
            for up in self.ups:
                maps = up(maps)
            return torch.tanh(self.to_image(maps))
        maps = torch.relu(add_condition(maps, condition.maps[0]))
        for up, told in zip(self.ups, condition.maps[1:], strict=True):
            assert isinstance(up, nn.Sequential)
            convolve, norm, activate = up
            maps = activate(add_condition(norm(convolve(maps)), told))
        return torch.tanh(add_condition(self.to_image(maps), condition.residual))

    def _up(self, wide: int, narrow: int, kernel: int) -> nn.Module:
        return nn.Sequential(
            doubling(wide, narrow, kernel, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
        )


class Discriminator(nn.Module):
    """D: image [B, C, size, size] in [-1, 1] -> logit [B], high = real (Radford 2015, section 3)."""

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        widths = settings.widths(settings.discriminator_filters or settings.filters)[::-1]
        colours = channel_count(settings.channels)
        # [B, C, size, size] -> [B, filters, size / 2, size / 2]; no batch norm at D's input
        first = halving(colours, widths[0], settings.kernel, bias=True)
        layers: list[nn.Module] = [nn.Sequential(first, leaky())]
        # [B, widths[i], s, s] -> [B, widths[i + 1], s / 2, s / 2]
        layers += [self._down(narrow, wide, settings.kernel) for narrow, wide in pairwise(widths)]
        self.downs = nn.ModuleList(layers)
        # [B, widths[-1], start, start] -> [B, 1, 1, 1]
        self.to_logit = nn.Conv2d(widths[-1], 1, settings.start)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logit of each image, [B]."""
        return self.logit(self.features(images)[-1])

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the maps after each layer, from [B, filters, size / 2, size / 2] to [B, widest, start, start]."""
        maps = [images]
        for down in self.downs:
            maps.append(down(maps[-1]))
        return maps[1:]

    def logit(self, last: Tensor) -> Tensor:
        """Return the logits [B] of the last of `features`."""
        logits: Tensor = self.to_logit(last)
        return logits.flatten()

    def _down(self, narrow: int, wide: int, kernel: int) -> nn.Module:
        halved = halving(narrow, wide, kernel, bias=False)
        return nn.Sequential(halved, nn.BatchNorm2d(wide), leaky())


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Draw weights from N(0, 0.02), batch-norm gains from N(1, 0.02), and set biases to 0 (Radford 2015, section 4)."""
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
    """Draw z [count, latent_dim] from the prior the model is trained on."""
    if settings.latent_prior == "normal":
        return torch.randn(count, settings.latent_dim, generator=generator)
    return torch.rand(count, settings.latent_dim, generator=generator) * 2 - 1


def clip_radius(settings: DCGANSettings) -> float:
    """Return the |z_i| that the prior hardly ever exceeds: 1 for U(-1, 1), 3 for N(0, 1)."""
    return 1.0 if settings.latent_prior == "uniform" else 3.0


def add_condition(maps: Tensor, told: Tensor) -> Tensor:
    """Add to the first rows what is told of them."""
    if len(told) == len(maps):
        return maps + told
    first, others = maps.tensor_split([len(told)])
    return torch.cat([first + told, others])


def doubling(wide: int, narrow: int, kernel: int, *, bias: bool) -> Upsample:
    """Make a layer [B, wide, s, s] -> [B, narrow, 2 s, 2 s]."""
    # Output side: (s - 1) * 2 - 2 * padding + kernel + output_padding = 2 s, for both kernels.
    padding, extra = (1, 0) if kernel == 4 else (2, 1)
    return Upsample(wide, narrow, kernel, 2, padding, extra, bias=bias)


def halving(narrow: int, wide: int, kernel: int, *, bias: bool) -> Downsample:
    """Make a layer [B, narrow, 2 s, 2 s] -> [B, wide, s, s]."""
    return Downsample(narrow, wide, kernel, 2, 1 if kernel == 4 else 2, bias=bias)


def leaky() -> nn.LeakyReLU:
    """Make D's activation."""
    return nn.LeakyReLU(0.2, inplace=True)
