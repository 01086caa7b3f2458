"""Strided convolutions by minimal filtering, in float32 on a CPU.

A kernel of 4 with stride 2 over C channels is a kernel of 2 with stride 1 over the 4 C channels of
2 x 2 blocks of pixels. Two neighbouring outputs of a kernel (g0, g1) take three products instead of
four (Winograd 1980; Lavin and Gray 2016, F(2, 2)):

    y0 = d0 g0 + d1 g1 = (d0 - d1) g0 + d1 (g0 + g1)
    y1 = d1 g0 + d2 g1 = d1 (g0 + g1) + (d2 - d1) g1

Along both axes, 9 matrix products replace 16, on tiles of 2 x 2 outputs:

    fine maps V [9, tiles, 4 narrow], weights U [9, wide, 4 narrow], coarse maps M [9, tiles, wide]
    convolution M = V U', transposed convolution V = M U, gradient of the weights U = M' V

The transforms back are the transposes. All factors are 0, 1 and -1, so rounding errors stay those
of slightly longer sums. The last layer of G, with few channels, is one matrix product and a fold.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight

# Thresholds by measurement: below them, torch's own kernels are as fast.
MIN_CHANNELS = 128  # of the fine maps
MAX_COLOURS = 4
_CHUNK_SIZE = 2**22  # numbers of V at a time: 16 MiB fit a CPU's cache
_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and bool(
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
)


def convolve(fine: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution [B, wide, s, s] of [B, narrow, 2 s, 2 s] with [wide, narrow, 4, 4]."""
    wide, narrow = weight.shape[:2]
    if narrow < MIN_CHANNELS:
        return F.conv2d(fine, weight, None, 2, 1)
    batch, side = len(fine), fine.shape[-1] // 2
    factors = [part.mT for part in _weight_to_u(weight)]
    coarse = fine.new_empty(batch, side, side, wide)
    count = _chunk_count(fine)
    for part, out in zip(fine.chunk(count), coarse.chunk(count), strict=True):
        _sum_pairs(_products(_fine_to_v(part), factors), _tile_pairs(out))
    return coarse.permute(0, 3, 1, 2)


def transposed_convolve(weight: Tensor, coarse: Tensor) -> Tensor:
    """Return the transposed convolution [B, narrow, 2 s, 2 s] of [B, wide, s, s]."""
    wide, narrow = weight.shape[:2]
    batch, side = len(coarse), coarse.shape[-1]
    if narrow <= MAX_COLOURS:
        # [16 narrow, wide] x [B, wide, s, s]: what each coarse pixel adds to the 4 x 4 fine ones
        # around it.
        added = weight.reshape(wide, -1).mT @ coarse.reshape(batch, wide, -1)
        return F.fold(added, (2 * side, 2 * side), 4, padding=1, stride=2).contiguous(
            memory_format=torch.channels_last
        )
    if narrow < MIN_CHANNELS:
        return F.conv_transpose2d(coarse, weight, None, 2, 1)
    factors = _weight_to_u(weight)
    fine = coarse.new_empty(batch, 2 * side, 2 * side, narrow)
    count = _chunk_count(fine)
    for part, out in zip(coarse.chunk(count), fine.chunk(count), strict=True):
        _v_to_fine(_products(_coarse_to_m(part), factors), out)
    return fine.permute(0, 3, 1, 2)


def weight_gradient(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return d sum(coarse * convolve(fine, w)) / dw, [wide, narrow, 4, 4]."""
    narrow, wide = fine.shape[1], coarse.shape[1]
    if narrow < MIN_CHANNELS:
        shape = (wide, narrow, 4, 4)
        gradient: Tensor = conv2d_weight(fine, shape, coarse, 2, 1)  # type: ignore[no-untyped-call]
        return gradient
    count = _chunk_count(fine)
    chunks = zip(fine.chunk(count), coarse.chunk(count), strict=True)
    parts = (_products((m.mT for m in _coarse_to_m(two)), _fine_to_v(one)) for one, two in chunks)
    u = next(parts)
    for part in parts:
        for total, more in zip(u, part, strict=True):
            total.add_(more)
    blocks = fine.new_empty(wide, 2, 2, 2, 2, narrow)  # [wide, block, row, block, column, narrow]
    _sum_pairs(u, blocks.permute(1, 3, 0, 2, 4, 5))
    return blocks.view(wide, 4, 4, narrow).permute(0, 3, 1, 2)


def _chunk_count(fine: Tensor) -> int:
    return -(-fine.numel() * 9 // 4 // _CHUNK_SIZE)


def _products(left: Iterable[Tensor], right: Iterable[Tensor]) -> list[Tensor]:
    """Return the nine products of [m, k] and [k, n]."""
    return [_product(one, other) for one, other in zip(left, right, strict=True)]


def _product(left: Tensor, right: Tensor) -> Tensor:
    if not (_ONEDNN and left.dtype == torch.float32):
        return left @ right
    # torch's own product is MKL's, up to half as fast on CPUs of other makers as oneDNN's kernels,
    # which torch uses in convolutions. No public function of torch multiplies matrices by oneDNN;
    # without this one, the line above serves.
    product: Tensor = torch.ops.mkldnn._linear_pointwise(left, right.mT, None, "none", [], "")
    return product


def _fine_to_v(fine: Tensor) -> Tensor:
    """Return V [9, tiles, 4 narrow]: along both axes d0 - d1, d1, d2 - d1 of blocks of pixels.

    A tile's blocks are the 6 x 6 pixels around its 4 x 4; pixels beyond the maps are 0.
    """
    batch, narrow, side, _ = fine.shape
    tiles = side // 4
    padded = F.pad(fine.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    rows = fine.new_empty(3, batch, tiles, 2, 2 * tiles + 1, 2 * narrow)
    _subtract(padded.view(-1, 2 * tiles + 1, *rows.shape[3:]).transpose(0, 1), rows.transpose(1, 2))
    v = fine.new_empty(3, 3, batch, tiles, tiles, 2, 2 * narrow)
    for row, out in zip(rows, v, strict=True):
        _subtract(row.permute(3, 0, 1, 2, 4), out.permute(0, 3, 1, 2, 4, 5))
    return v.view(9, batch * tiles**2, 4 * narrow)


def _v_to_fine(v: list[Tensor], fine: Tensor) -> None:
    """Write fine maps [B, 2 s, 2 s, narrow]: the transpose of `_fine_to_v`."""
    batch, side, _, narrow = fine.shape
    tiles = side // 4
    grid = [part.view(batch, tiles, tiles, 2, 2 * narrow).permute(2, 0, 1, 3, 4) for part in v]
    rows = fine.new_empty(3, batch, tiles, 2, 2 * tiles + 1, 2 * narrow)
    for number, row in enumerate(rows):
        _add(grid[3 * number : 3 * number + 3], row.permute(3, 0, 1, 2, 4))
    padded = fine.new_empty(batch, side + 2, side + 2, narrow)
    _add(rows.transpose(1, 2), padded.view(-1, 2 * tiles + 1, *rows.shape[3:]).transpose(0, 1))
    fine.copy_(padded[:, 1:-1, 1:-1])


def _subtract(blocks: Tensor, out: Tensor) -> None:
    """Write d0 - d1, d1, d2 - d1 [3, tiles, ...] of blocks [2 tiles + 1, ...]."""
    even, odd = blocks[0::2], blocks[1::2]
    torch.sub(even[:-1], odd, out=out[0])
    out[1] = odd
    torch.sub(even[1:], odd, out=out[2])


def _add(parts: Sequence[Tensor] | Tensor, blocks: Tensor) -> None:
    """Write blocks [2 tiles + 1, ...] of three [tiles, ...]: the transpose of `_subtract`."""
    first, middle, last = parts
    even, odd = blocks[0::2], blocks[1::2]
    even[0] = first[0]
    torch.add(first[1:], last[:-1], out=even[1:-1])
    even[-1] = last[-1]
    torch.sub(middle, first, out=odd).sub_(last)


def _weight_to_u(weight: Tensor) -> list[Tensor]:
    """Return U, nine of [wide, 4 narrow]: along both axes g0, g0 + g1, g1."""
    wide, narrow = weight.shape[:2]
    blocks = weight.permute(0, 2, 3, 1).view(wide, 2, 2, 2, 2, narrow)
    return [u.view(wide, 4 * narrow) for u in _expand_pairs(blocks.permute(1, 3, 0, 2, 4, 5))]


def _coarse_to_m(coarse: Tensor) -> list[Tensor]:
    """Return M, nine of [tiles, wide]: the transpose of y0 = m0 + m1, y1 = m1 + m2."""
    pairs = _tile_pairs(coarse.permute(0, 2, 3, 1))
    return [m.view(-1, coarse.shape[1]) for m in _expand_pairs(pairs)]


def _tile_pairs(coarse: Tensor) -> Tensor:
    """View [B, s, s, wide] as rows and columns of tiles, [2, 2, B, s / 2, s / 2, wide]."""
    batch, side, _, wide = coarse.shape
    tiles = coarse.view(batch, side // 2, 2, side // 2, 2, wide)
    return tiles.permute(2, 4, 0, 1, 3, 5)


def _expand_pairs(pairs: Tensor) -> list[Tensor]:
    """Return nine tensors of shape [...] of [2, 2, ...]: along both axes p0, p0 + p1, p1."""
    expanded = [pairs.new_empty(pairs.shape[2:]) for _ in range(9)]
    first, last = pairs
    for number, part in enumerate((first, first + last, last)):
        expanded[3 * number].copy_(part[0])
        torch.add(part[0], part[1], out=expanded[3 * number + 1])
        expanded[3 * number + 2].copy_(part[1])
    return expanded


def _sum_pairs(expanded: list[Tensor], pairs: Tensor) -> None:
    """Write [2, 2, ...] of nine tensors, viewed as its [...]: the transpose of `_expand_pairs`."""
    rows = expanded[:3], expanded[3:6], expanded[6:]
    for number, (upper, lower) in enumerate(pairwise(rows)):
        first, middle, last = (
            (one + other).view(pairs.shape[2:]) for one, other in zip(upper, lower, strict=True)
        )
        torch.add(first, middle, out=pairs[number, 0])
        torch.add(middle, last, out=pairs[number, 1])
