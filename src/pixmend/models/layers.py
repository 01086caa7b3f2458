"""Strided convolutions, faster in training on a CPU; weights and values are torch's.

In float32 by minimal filtering, in bfloat16 by matrix products where the CPU has a unit for these.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.hardware import has_matrix_unit
from pixmend.models import minimal_filtering, products

_MIN_TILES = 128  # in a batch: with fewer, minimal filtering is not faster
_COLUMNS = 8  # float32 columns in a block of a matrix kernel


class Projection(nn.Linear):
    """z [B, latent_dim] -> [B, maps]; in evaluation mode no row or gradient depends on others.

    With a partial block of columns, the order of a row's sums depends on its position in the batch.
    Zero padding of z and weights to whole blocks avoids this and changes no sum.
    """

    def __init__(self, latent_dim: int, maps: int) -> None:
        super().__init__(latent_dim, maps, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the maps, flat."""
        padding = -self.in_features % _COLUMNS
        if self.training or not padding:
            return super().forward(z)
        return F.linear(F.pad(z, (0, padding)), F.pad(self.weight, (0, padding)))


class Downsample(nn.Conv2d):
    """Convolution of stride 2: [B, narrow, 2 s, 2 s] -> [B, wide, s, s]."""

    def __init__(self, narrow: int, wide: int, kernel: int, *, bias: bool = True) -> None:
        super().__init__(narrow, wide, kernel, 2, 1 if kernel == 4 else 2, bias=bias)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of half the side."""
        if _multiplies(self, maps, maps.shape[-1] // 2):
            return _apply("coarse", maps.bfloat16(), self.weight.bfloat16(), None)
        eligible = self.in_channels >= minimal_filtering.MIN_CHANNELS and self.bias is None
        if not (eligible and _is_faster(self, maps, maps.shape[-1] // 2)):
            return super().forward(maps)
        return _apply("coarse", maps, self.weight, None)


class Upsample(nn.ConvTranspose2d):
    """Transposed convolution of stride 2: [B, wide, s, s] -> [B, narrow, 2 s, 2 s]."""

    def __init__(self, wide: int, narrow: int, kernel: int, *, bias: bool = True) -> None:
        # Side of the output: (s - 1) * 2 - 2 * padding + kernel + output_padding = 2 s.
        padding, output_padding = (1, 0) if kernel == 4 else (2, 1)
        super().__init__(wide, narrow, kernel, 2, padding, output_padding, bias=bias)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return maps of twice the side."""
        if _multiplies(self, maps, maps.shape[-1]):
            return _apply("fine", None, self.weight.bfloat16(), maps.bfloat16())
        wide = self.out_channels >= minimal_filtering.MIN_CHANNELS
        eligible = wide or self.out_channels <= minimal_filtering.MAX_COLOURS
        if output_size is not None or not (eligible and _is_faster(self, maps, maps.shape[-1])):
            return super().forward(maps, output_size)
        fine = _apply("fine", None, self.weight, maps)
        return fine if self.bias is None else fine + self.bias.view(-1, 1, 1)


def _is_faster(layer: Downsample | Upsample, maps: Tensor, side: int) -> bool:
    # Never in evaluation mode: there no bit may depend on the other images of a batch.
    return (
        layer.training
        and layer.kernel_size == (4, 4)
        and maps.device.type == "cpu"
        and maps.dtype == layer.weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and side % 2 == 0
        and len(maps) * (side // 2) ** 2 >= _MIN_TILES
    )


def _multiplies(layer: Downsample | Upsample, maps: Tensor, side: int) -> bool:
    """Whether a layer in bfloat16 is one of those that `products` computes."""
    return (
        layer.training
        and layer.kernel_size == (4, 4)
        and layer.bias is None
        and maps.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and side <= products.MAX_SIDE
        and has_matrix_unit()
    )


class _Gradient(torch.autograd.Function):
    """Gradient of sum(coarse * convolve(fine, weight)) by one operand, given the other two.

    The form is linear in each operand, so the gradient by ``fine`` is the transposed convolution
    and the gradient by ``coarse`` the convolution; and gradients of gradients are of the same form.
    """

    @staticmethod
    def forward(ctx: Any, by: str, *operands: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.by = by
        ctx.save_for_backward(*operands)
        given = [each for each in operands if each is not None]
        kernels = products if given[0].dtype == torch.bfloat16 else minimal_filtering
        if by == "fine":
            result: Tensor = kernels.transposed_convolve(*given)
        else:
            result = kernels.convolve(*given) if by == "coarse" else kernels.weight_gradient(*given)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        names = ("fine", "weight", "coarse")
        operands = dict(zip(names, ctx.saved_tensors, strict=True)) | {ctx.by: grad}
        return None, *(
            _apply(name, **operands | {name: None}) if needed else None
            for name, needed in zip(names, ctx.needs_input_grad[1:], strict=True)
        )


def _apply(by: str, fine: Tensor | None, weight: Tensor | None, coarse: Tensor | None) -> Tensor:
    gradient: Tensor = _Gradient.apply(by, fine, weight, coarse)  # type: ignore[no-untyped-call]
    return gradient
