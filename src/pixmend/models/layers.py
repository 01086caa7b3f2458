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

from collections.abc import Iterable, Iterator
from functools import reduce
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

# Found by measuring: below these, torch's own kernels are as fast.
_LEAST_CHANNELS = 128  # of the fine maps
_LEAST_TILES = 128  # in a batch, or the way from weights to U is not worth it
_MOST_COLOURS = 4
_COLUMNS = 8  # a block of a matrix kernel's, of float32
# Numbers of V made at a time: 16 MiB stay in a CPU's cache and in the allocator's hands.
_PIECE = 2**22
# Numbers of fine maps turned at a time: what is made of them is a few times as large.
_IN_CACHE = 2**20
_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and bool(
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
)


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


class Downsample(nn.Conv2d):
    """Convolution of stride 2: [B, narrow, 2 s, 2 s] -> [B, wide, s, s]."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps of half the side."""
        many = self.in_channels >= _LEAST_CHANNELS and self.bias is None
        if not (many and _pays(self, maps, maps.shape[-1] // 2)):
            return super().forward(maps)
        halved: Tensor = _Halve.apply(maps, self.weight)  # type: ignore[no-untyped-call]
        return halved


class Upsample(nn.ConvTranspose2d):
    """Transposed convolution of stride 2: [B, wide, s, s] -> [B, narrow, 2 s, 2 s]."""

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return maps of twice the side."""
        many = self.out_channels >= _LEAST_CHANNELS or self.out_channels <= _MOST_COLOURS
        if output_size is not None or not (many and _pays(self, maps, maps.shape[-1])):
            return super().forward(maps, output_size)
        doubled: Tensor = _Double.apply(maps, self.weight)  # type: ignore[no-untyped-call]
        return doubled if self.bias is None else doubled + self.bias.view(-1, 1, 1)


def _pays(layer: Downsample | Upsample, maps: Tensor, side: int) -> bool:
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
    wide, narrow = weight.shape[:2]
    if narrow < _LEAST_CHANNELS:
        return F.conv2d(fine, weight, None, 2, 1)
    batch, side = len(fine), fine.shape[-1] // 2
    factors = _transposed(_from_weight(weight))
    coarse = fine.new_empty(batch, side, side, wide)
    count = _pieces(fine)
    for part, out in zip(fine.chunk(count), coarse.chunk(count), strict=True):
        _to_coarse(_products(_from_fine(part), factors), out)
    return coarse.permute(0, 3, 1, 2)


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
    if narrow < _LEAST_CHANNELS:
        return F.conv_transpose2d(coarse, weight, None, 2, 1)
    factors = _from_weight(weight)
    fine = coarse.new_empty(batch, 2 * side, 2 * side, narrow)
    count = _pieces(fine)
    for part, out in zip(coarse.chunk(count), fine.chunk(count), strict=True):
        _to_fine(_products(_from_coarse(part), factors), out)
    return fine.permute(0, 3, 1, 2)


def weigh(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return d sum(coarse * halve(fine, w)) / dw, [wide, narrow, 4, 4]."""
    narrow, wide = fine.shape[1], coarse.shape[1]
    if narrow < _LEAST_CHANNELS:
        shape = (wide, narrow, 4, 4)
        gradient: Tensor = conv2d_weight(fine, shape, coarse, 2, 1)  # type: ignore[no-untyped-call]
        return gradient
    count = _pieces(fine)
    parts = zip(fine.chunk(count), coarse.chunk(count), strict=True)
    each = (_products(_transposed(_from_coarse(other)), _from_fine(part)) for part, other in parts)
    return _to_weight(reduce(_added, each))


def _pieces(fine: Tensor) -> int:
    return -(-fine.numel() * 9 // 4 // _PIECE)


def _products(left: Iterable[Tensor], right: Iterable[Tensor]) -> list[Tensor]:
    """Return the nine products of [m, k] and [k, n]."""
    return [_product(one, other) for one, other in zip(left, right, strict=True)]


def _product(left: Tensor, right: Tensor) -> Tensor:
    if not (_ONEDNN and left.dtype == torch.float32):
        return left @ right
    # torch's own product is MKL's, which on a CPU of another maker is slower, up to half as fast, than the kernels of
    # oneDNN that torch's convolutions use. This operator is the way to them.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.mT, None, "none", [], "")
    return product


def _transposed(parts: Iterable[Tensor]) -> list[Tensor]:
    return [part.mT for part in parts]


def _added(total: list[Tensor], more: list[Tensor]) -> list[Tensor]:
    return [one.add_(other) for one, other in zip(total, more, strict=True)]


def _from_fine(fine: Tensor) -> Tensor:
    """Return V [9, tiles, 4 narrow]: along each axis, of blocks d0, d1, d2 of pixels: d0 - d1, d1, d2 - d1.

    A tile's blocks are the 6 x 6 pixels around its 4 x 4; those beyond the maps are 0.
    """
    batch, narrow, side, _ = fine.shape
    tiles = side // 4
    v = fine.new_empty(3, 3, batch, tiles, tiles, 2, 2 * narrow)
    for few in _few(fine):
        lines = fine[few].permute(0, 2, 3, 1).view(-1, tiles, 4, side, narrow)
        rows = fine.new_empty(3, len(lines), tiles, 2, side + 2, narrow)
        rows[..., 0, :] = 0
        rows[..., -1, :] = 0
        first, middle, last = rows[..., 1:-1, :]
        middle.copy_(lines[:, :, 1:3])
        torch.neg(lines[:, 0, 1], out=first[:, 0, 0])
        torch.sub(lines[:, :-1, 3], lines[:, 1:, 1], out=first[:, 1:, 0])
        torch.sub(lines[:, :, 0], lines[:, :, 2], out=first[:, :, 1])
        torch.sub(lines[:, :, 3], lines[:, :, 1], out=last[:, :, 0])
        torch.sub(lines[:, 1:, 0], lines[:, :-1, 2], out=last[:, :-1, 1])
        torch.neg(lines[:, -1, 2], out=last[:, -1, 1])
        blocks = rows.view(3, -1, tiles, 2, 2 * tiles + 1, 2 * narrow).transpose(3, 4)
        even, odd = blocks[:, :, :, 0::2], blocks[:, :, :, 1::2]
        torch.sub(even[:, :, :, :-1], odd, out=v[:, 0, few])
        v[:, 1, few] = odd
        torch.sub(even[:, :, :, 1:], odd, out=v[:, 2, few])
    return v.view(9, batch * tiles**2, 4 * narrow)


def _to_fine(v: list[Tensor], fine: Tensor) -> None:
    """Write fine maps [B, 2 s, 2 s, narrow]: the transpose of `_from_fine`."""
    batch, side, _, narrow = fine.shape
    tiles = side // 4
    grid = [part.view(batch, tiles, tiles, 2, 2 * narrow).transpose(2, 3) for part in v]
    for few in _few(fine):
        lines = fine[few].view(-1, tiles, 4, side, narrow)
        rows = fine.new_empty(3, len(lines), tiles, 2, 2 * tiles + 1, 2 * narrow)
        for number, row in enumerate(rows):
            first, middle, last = (part[few] for part in grid[3 * number : 3 * number + 3])
            even, odd = row[:, :, :, 0::2], row[:, :, :, 1::2]
            even[:, :, :, 0] = first[:, :, :, 0]
            torch.add(first[:, :, :, 1:], last[:, :, :, :-1], out=even[:, :, :, 1:-1])
            even[:, :, :, -1] = last[:, :, :, -1]
            torch.sub(middle, first, out=odd).sub_(last)
        first, middle, last = rows.view(3, -1, tiles, 2, side + 2, narrow)[..., 1:-1, :]
        lines[:, 0, 0] = first[:, 0, 1]
        torch.add(first[:, 1:, 1], last[:, :-1, 1], out=lines[:, 1:, 0])
        torch.sub(middle, first, out=lines[:, :, 1:3]).sub_(last)
        torch.add(first[:, 1:, 0], last[:, :-1, 0], out=lines[:, :-1, 3])
        lines[:, -1, 3] = last[:, -1, 0]


def _few(maps: Tensor) -> Iterator[slice]:
    """Yield slices of a batch of so few images that what is made of them stays in a core's cache."""
    few = max(1, _IN_CACHE * len(maps) // maps.numel())
    for number in range(0, len(maps), few):
        yield slice(number, number + few)


def _from_weight(weight: Tensor) -> list[Tensor]:
    """Return U, nine of [wide, 4 narrow]: along each axis, of a kernel g0, g1 of blocks: g0, g0 + g1, g1."""
    wide, narrow = weight.shape[:2]
    blocks = weight.permute(0, 2, 3, 1).view(wide, 2, 2, 2, 2, narrow)
    first, last = blocks[:, 0], blocks[:, 1]  # [wide, row, block, column, narrow]
    u = [weight.new_empty(wide, 2, 2, narrow) for _ in range(9)]
    for number, part in enumerate((first, first + last, last)):
        u[3 * number].copy_(part[:, :, 0])
        torch.add(part[:, :, 0], part[:, :, 1], out=u[3 * number + 1])
        u[3 * number + 2].copy_(part[:, :, 1])
    return [part.view(wide, 4 * narrow) for part in u]


def _to_weight(u: list[Tensor]) -> Tensor:
    """Return weights [wide, narrow, 4, 4]: the transpose of `_from_weight`."""
    wide, narrow = len(u[0]), u[0].shape[-1] // 4
    u = [part.view(wide, 2, 2, narrow) for part in u]
    kernel = u[0].new_empty(wide, 2, 2, 2, 2, narrow)  # [wide, block, row, block, column, narrow]
    for number, part in enumerate(_pairs(u)):
        torch.add(part[0], part[1], out=kernel[:, number, :, 0])
        torch.add(part[1], part[2], out=kernel[:, number, :, 1])
    return kernel.view(wide, 4, 4, narrow).permute(0, 3, 1, 2)


def _to_coarse(m: list[Tensor], coarse: Tensor) -> None:
    """Write coarse maps [B, s, s, wide]: along each axis y0 = m0 + m1, y1 = m1 + m2."""
    batch, side, _, wide = coarse.shape
    m = [part.view(batch, side // 2, side // 2, wide) for part in m]
    tiles = coarse.view(batch, side // 2, 2, side // 2, 2, wide)
    for number, part in enumerate(_pairs(m)):
        torch.add(part[0], part[1], out=tiles[:, :, number, :, 0])
        torch.add(part[1], part[2], out=tiles[:, :, number, :, 1])


def _pairs(parts: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the sums of rows 0 and 1 and of rows 1 and 2 of 3 x 3."""
    rows = parts[:3], parts[3:6], parts[6:]
    first, second = (
        [one + other for one, other in zip(*pair, strict=True)] for pair in pairwise(rows)
    )
    return first, second


def _from_coarse(coarse: Tensor) -> list[Tensor]:
    """Return M, nine of [tiles, wide]: the transpose of `_to_coarse`."""
    batch, wide, side, _ = coarse.shape
    tiles = side // 2
    pairs = coarse.permute(0, 2, 3, 1).reshape(batch, tiles, 2, tiles, 2, wide)
    first, last = pairs[:, :, 0], pairs[:, :, 1]  # [batch, tiles, tiles, 2, wide]
    m = [coarse.new_empty(batch, tiles, tiles, wide) for _ in range(9)]
    for number, part in enumerate((first, first + last, last)):
        m[3 * number].copy_(part[:, :, :, 0])
        torch.add(part[:, :, :, 0], part[:, :, :, 1], out=m[3 * number + 1])
        m[3 * number + 2].copy_(part[:, :, :, 1])
    return [part.view(batch * tiles**2, wide) for part in m]
