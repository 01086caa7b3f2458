"""The strided convolutions of a DCGAN, faster on a CPU while they are trained; values, weights and names are torch's own.

A kernel of 4 with stride 2 over C channels is a kernel of 2 with stride 1 over the 4 C channels of 2 x 2 blocks of pixels, and
two neighbouring outputs of a kernel (g0, g1) of 2 need three products instead of four (Winograd 1980; Lavin and Gray 2016,
F(2, 2)):

    y0 = d0 g0 + d1 g1 = (d0 - d1) g0 + d1 (g0 + g1)
    y1 = d1 g0 + d2 g1 = d1 (g0 + g1) + (d2 - d1) g1

Along both axes that is 9 matrix products instead of 16, on tiles of 2 x 2 outputs:

    V [9, tiles, 4 narrow] of the fine maps, U [9, wide, 4 narrow] of the weights, M [9, tiles, wide] of the coarse maps
    halving: M = V U'        doubling: V = M U        gradient of the weights: U = M' V

Each way between maps or weights and V, U, M is the transpose of the way back. All factors are 0, 1 and -1, so rounding stays
that of sums a few terms longer. The last doubling, to an image of a few channels, is one matrix product and a fold.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

__all__ = ["Doubling", "Halving", "Projection"]

# Found by measuring: below these, torch's own kernels are as fast.
_LEAST_CHANNELS = 64  # of the fine maps, for the gradient of the weights
_LEAST_CHANNELS_MAPS = 128  # of the fine maps, for the maps themselves
_LEAST_TILES = 128  # in a batch, or the way from weights to U is not worth it
_MOST_COLOURS = 4
_COLUMNS = 8  # a block of a matrix kernel's, of float32
_PIECE = (
    2**22
)  # numbers of V made at a time: 16 MiB stay in a CPU's cache and in the allocator's hands


class Projection(nn.Linear):
    """z [B, latent_dim] -> [B, maps], without a bias; in evaluation mode a row's numbers, and its gradient, are its own.

    In a product with fewer columns than a kernel's block, as the gradient's is of 5 to 7 or 9 to 11 latents, the order of a row's sums
    depends on where in the batch it is. z and weights are filled up with zeros, which change no sum.
    """

    def __init__(self, latent_dim: int, maps: int) -> None:
        super().__init__(latent_dim, maps, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """Return the maps, flat."""
        further = -self.in_features % _COLUMNS
        if self.training or not further:
            return super().forward(z)
        return F.linear(F.pad(z, (0, further)), F.pad(self.weight, (0, further)))


class Halving(nn.Conv2d):
    """Convolution of stride 2: [B, narrow, 2 s, 2 s] -> [B, wide, s, s]."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of half the side."""
        many = self.in_channels >= _LEAST_CHANNELS and self.bias is None
        if not (many and _pays(self, maps, maps.shape[-1] // 2)):
            return super().forward(maps)
        halved: Tensor = _Halve.apply(maps, self.weight)  # type: ignore[no-untyped-call]
        return halved


class Doubling(nn.ConvTranspose2d):
    """Transposed convolution of stride 2: [B, wide, s, s] -> [B, narrow, 2 s, 2 s]."""

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return maps of twice the side."""
        many = self.out_channels >= _LEAST_CHANNELS or self.out_channels <= _MOST_COLOURS
        if output_size is not None or not (many and _pays(self, maps, maps.shape[-1])):
            return super().forward(maps, output_size)
        doubled: Tensor = _Double.apply(maps, self.weight)  # type: ignore[no-untyped-call]
        return doubled if self.bias is None else doubled + self.bias.view(-1, 1, 1)


def _pays(layer: Halving | Doubling, maps: Tensor, side: int) -> bool:
    # Never in evaluation mode: there not a bit may depend on an image's batch mates.
    return (
        layer.training
        and layer.kernel_size == (4, 4)
        and maps.device.type == "cpu"
        and maps.dtype == layer.weight.dtype
        and not torch.is_autocast_enabled("cpu")
        and side % 2 == 0
        and len(maps) * (side // 2) ** 2 >= _LEAST_TILES
    )


# The three functions below are bilinear and each is a derivative of the others, so that gradients of gradients work too.


class _Halve(torch.autograd.Function):
    """Fine maps [B, narrow, 2 s, 2 s], weights [wide, narrow, 4, 4] -> coarse maps [B, wide, s, s]."""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        ctx.save_for_backward(fine, weight)
        return halve(fine, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        fine, weight = ctx.saved_tensors
        return (
            _Double.apply(grad, weight) if ctx.needs_input_grad[0] else None,  # type: ignore[no-untyped-call]
            _Weigh.apply(fine, grad) if ctx.needs_input_grad[1] else None,  # type: ignore[no-untyped-call]
        )


class _Double(torch.autograd.Function):
    """Coarse maps, weights -> fine maps."""

    @staticmethod
    def forward(ctx: Any, coarse: Tensor, weight: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(coarse, weight)
        return double(coarse, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        coarse, weight = ctx.saved_tensors
        return (
            _Halve.apply(grad, weight) if ctx.needs_input_grad[0] else None,  # type: ignore[no-untyped-call]
            _Weigh.apply(grad, coarse) if ctx.needs_input_grad[1] else None,  # type: ignore[no-untyped-call]
        )


class _Weigh(torch.autograd.Function):
    """Fine maps, coarse maps -> the gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, fine: Tensor, coarse: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(fine, coarse)
        return weigh(fine, coarse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # noqa: ANN401
        fine, coarse = ctx.saved_tensors
        return (
            _Double.apply(coarse, grad) if ctx.needs_input_grad[0] else None,  # type: ignore[no-untyped-call]
            _Halve.apply(fine, grad) if ctx.needs_input_grad[1] else None,  # type: ignore[no-untyped-call]
        )


def halve(fine: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution [B, wide, s, s] of [B, narrow, 2 s, 2 s] with [wide, narrow, 4, 4]."""
    if weight.shape[1] < _LEAST_CHANNELS_MAPS:
        return F.conv2d(fine, weight, None, 2, 1)
    factors = _from_weight(weight).mT
    pieces = [
        _to_coarse(torch.bmm(_from_fine(part), factors), len(part), part.shape[-1] // 4)
        for part in fine.chunk(_pieces(fine))
    ]
    return _joined(pieces)


def double(coarse: Tensor, weight: Tensor) -> Tensor:
    """Return the transposed convolution [B, narrow, 2 s, 2 s] of [B, wide, s, s] with [wide, narrow, 4, 4]."""
    wide, narrow = weight.shape[:2]
    batch, side = len(coarse), coarse.shape[-1]
    if narrow <= _MOST_COLOURS:
        # [16 narrow, wide] x [B, wide, s s]: what each coarse pixel adds to the 4 x 4 fine ones around it.
        added = weight.reshape(wide, -1).mT @ coarse.reshape(batch, wide, -1)
        return F.fold(added, (2 * side, 2 * side), 4, padding=1, stride=2).contiguous(
            memory_format=torch.channels_last
        )
    if narrow < _LEAST_CHANNELS_MAPS:
        return F.conv_transpose2d(coarse, weight, None, 2, 1)
    factors = _from_weight(weight)
    count = -(-batch * side**2 * 9 * narrow // _PIECE)
    pieces = [
        _to_fine(torch.bmm(_from_coarse(part), factors), len(part), side // 2)
        for part in coarse.chunk(count)
    ]
    return _joined(pieces)


def weigh(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return d sum(coarse * halve(fine, w)) / dw, [wide, narrow, 4, 4]."""
    narrow, wide = fine.shape[1], coarse.shape[1]
    if narrow < _LEAST_CHANNELS:
        shape = (wide, narrow, 4, 4)
        gradient: Tensor = conv2d_weight(fine, shape, coarse, 2, 1)  # type: ignore[no-untyped-call]
        return gradient
    total = fine.new_zeros(9, wide, 4 * narrow)
    count = _pieces(fine)
    for part, other in zip(fine.chunk(count), coarse.chunk(count), strict=True):
        total.baddbmm_(_from_coarse(other).mT, _from_fine(part))
    return _to_weight(total, narrow)


def _pieces(fine: Tensor) -> int:
    return -(-fine.numel() * 9 // 4 // _PIECE)


def _joined(pieces: list[Tensor]) -> Tensor:
    """Join [b, H, W, C] along the batch and return it as [B, C, H, W] with channels innermost."""
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).permute(0, 3, 1, 2)


def _from_fine(fine: Tensor) -> Tensor:
    """Return V [9, tiles, 4 narrow]: along each axis, of blocks d0, d1, d2 of pixels: d0 - d1, d1, d2 - d1."""
    batch, narrow, side, _ = fine.shape
    tiles = side // 4
    padded = F.pad(fine.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    # Blocks begin at even pixels of the padded maps: [B, blocks, 2, blocks, 2 narrow].
    blocks = padded.view(batch, 2 * tiles + 1, 2, 2 * tiles + 1, 2 * narrow)
    even, odd = blocks[:, 0::2], blocks[:, 1::2]
    v = fine.new_empty(3, 3, batch, tiles, tiles, 2, 2 * narrow)
    for row, part in zip(v, (even[:, :-1] - odd, odd, even[:, 1:] - odd), strict=True):
        across = part.transpose(2, 3)  # [B, tiles, blocks, 2, 2 narrow]
        even_across, odd_across = across[:, :, 0::2], across[:, :, 1::2]
        torch.sub(even_across[:, :, :-1], odd_across, out=row[0])
        row[1] = odd_across
        torch.sub(even_across[:, :, 1:], odd_across, out=row[2])
    return v.view(9, batch * tiles**2, 4 * narrow)


def _to_fine(v: Tensor, batch: int, tiles: int) -> Tensor:
    """Return fine maps [B, 4 tiles, 4 tiles, narrow]: the transpose of `_from_fine`."""
    narrow, blocks = v.shape[-1] // 4, 2 * tiles + 1
    v = v.view(3, 3, batch, tiles, tiles, 2, 2 * narrow)
    rows = v.new_empty(3, batch, tiles, blocks, 2, 2 * narrow)
    even, odd = rows[:, :, :, 0::2], rows[:, :, :, 1::2]
    even[:, :, :, :-1] = v[:, 0]
    even[:, :, :, -1] = 0
    even[:, :, :, 1:] += v[:, 2]
    torch.sub(v[:, 1], v[:, 0], out=odd).sub_(v[:, 2])
    rows = rows.transpose(3, 4)
    fine = v.new_empty(batch, blocks, 2, blocks, 2 * narrow)
    even, odd = fine[:, 0::2], fine[:, 1::2]
    even[:, :-1] = rows[0]
    even[:, -1] = 0
    even[:, 1:] += rows[2]
    torch.sub(rows[1], rows[0], out=odd).sub_(rows[2])
    return fine.view(batch, 2 * blocks, 2 * blocks, narrow)[:, 1:-1, 1:-1]


def _from_weight(weight: Tensor) -> Tensor:
    """Return U [9, wide, 4 narrow]: along each axis, of a kernel g0, g1 of blocks: g0, g0 + g1, g1."""
    wide, narrow = weight.shape[:2]
    kernel = weight.permute(2, 0, 3, 1).view(2, 2, wide, 2, 2, narrow)
    u = weight.new_empty(3, 3, wide, 2, 2, narrow)
    for row, part in zip(u, (kernel[0], kernel[0] + kernel[1], kernel[1]), strict=True):
        block = part.permute(2, 1, 0, 3, 4)  # [2, wide, 2, 2, narrow]
        row[0], row[2] = block[0], block[1]
        torch.add(block[0], block[1], out=row[1])
    return u.view(9, wide, 4 * narrow)


def _to_weight(u: Tensor, narrow: int) -> Tensor:
    """Return weights [wide, narrow, 4, 4]: the transpose of `_from_weight`."""
    wide = u.shape[1]
    u = u.view(3, 3, wide, 2, 2, narrow)
    kernel = u.new_empty(wide, 2, 2, 2, 2, narrow)  # [wide, block, row, block, column, narrow]
    for number, part in enumerate((u[0] + u[1], u[1] + u[2])):
        torch.add(part[0], part[1], out=kernel[:, number, :, 0])
        torch.add(part[1], part[2], out=kernel[:, number, :, 1])
    return kernel.view(wide, 4, 4, narrow).permute(0, 3, 1, 2)


def _to_coarse(m: Tensor, batch: int, tiles: int) -> Tensor:
    """Return coarse maps [B, 2 tiles, 2 tiles, wide]: along each axis y0 = m0 + m1, y1 = m1 + m2."""
    wide = m.shape[-1]
    m = m.view(3, 3, batch, tiles, tiles, wide)
    coarse = m.new_empty(batch, tiles, 2, tiles, 2, wide)
    for number, part in enumerate((m[0] + m[1], m[1] + m[2])):
        torch.add(part[0], part[1], out=coarse[:, :, number, :, 0])
        torch.add(part[1], part[2], out=coarse[:, :, number, :, 1])
    return coarse.view(batch, 2 * tiles, 2 * tiles, wide)


def _from_coarse(coarse: Tensor) -> Tensor:
    """Return M [9, tiles, wide]: the transpose of `_to_coarse`."""
    batch, wide, side, _ = coarse.shape
    tiles = side // 2
    pairs = coarse.permute(0, 2, 3, 1).reshape(batch, tiles, 2, tiles, 2, wide)
    first, second = pairs[:, :, 0], pairs[:, :, 1]
    m = coarse.new_empty(3, 3, batch, tiles, tiles, wide)
    for row, part in zip(m, (first, first + second, second), strict=True):
        row[0], row[2] = part[:, :, :, 0], part[:, :, :, 1]
        torch.add(part[:, :, :, 0], part[:, :, :, 1], out=row[1])
    return m.view(9, batch * tiles**2, wide)
