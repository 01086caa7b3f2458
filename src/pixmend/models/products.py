"""Strided convolutions of small maps as one matrix product, in bfloat16 on a CPU.

Matrix units of CPUs (AMX) multiply large bfloat16 matrices at several times the rate at which oneDNN convolves maps of 4 or 8
pixels a side. Each pixel's 4 x 4 neighbourhood is copied into a row (Chellapilla 2006), channels last:

    fine maps -> rows [B s s, 16 narrow], weights [wide, 16 narrow], coarse maps [B s s, wide]
    convolution coarse = rows weights', gradient of the weights coarse' rows, transposed convolution: coarse weights, summed
"""

import torch.nn.functional as F
from torch import Tensor

# Largest sides of the coarse maps where one product is faster than oneDNN, on a Xeon with AMX.
MAX_SIDE = 8
_MAX_CONVOLVED = 4


def convolve(fine: Tensor, weight: Tensor) -> Tensor:
    """Return the convolution [B, wide, s, s] of [B, narrow, 2 s, 2 s] with [wide, narrow, 4, 4]."""
    side = fine.shape[-1] // 2
    if side > _MAX_CONVOLVED:
        return F.conv2d(fine, weight, None, 2, 1)
    rows = F.linear(_neighbourhoods(fine), _flat(weight))
    return rows.view(len(fine), side, side, -1).permute(0, 3, 1, 2)


def transposed_convolve(weight: Tensor, coarse: Tensor) -> Tensor:
    """Return the transposed convolution [B, narrow, 2 s, 2 s] of [B, wide, s, s]."""
    side = coarse.shape[-1]
    if side > _MAX_CONVOLVED:
        return F.conv_transpose2d(coarse, weight, None, 2, 1)
    added = _rows(coarse) @ _flat(
        weight
    )  # what each coarse pixel adds to the 4 x 4 fine ones around it
    added = added.view(
        len(coarse), side, side, 2, 2, 2, 2, -1
    )  # [B, s, s, block, row, block, column, narrow]
    blocks = added.new_zeros(len(coarse), side + 1, 2, side + 1, 2, added.shape[-1])
    for down in range(2):
        for right in range(2):
            part = blocks[:, down : down + side, :, right : right + side]
            part += added[:, :, :, down, :, right].transpose(2, 3)
    fine = blocks.view(len(coarse), 2 * side + 2, 2 * side + 2, -1)[:, 1:-1, 1:-1]
    return fine.contiguous().permute(0, 3, 1, 2)


def weight_gradient(fine: Tensor, coarse: Tensor) -> Tensor:
    """Return d sum(coarse * convolve(fine, w)) / dw, [wide, narrow, 4, 4]."""
    gradient = _rows(coarse).T @ _neighbourhoods(fine)
    return gradient.view(coarse.shape[1], 4, 4, fine.shape[1]).permute(0, 3, 1, 2)


def _neighbourhoods(fine: Tensor) -> Tensor:
    """Return the 4 x 4 pixels under each coarse one, [B s s, 16 narrow]."""
    padded = F.pad(fine.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    image, row, column, _ = padded.stride()
    side, narrow = fine.shape[-1] // 2, fine.shape[1]
    strides = (image, 2 * row, 2 * column, row, column, 1)
    rows = padded.as_strided((len(fine), side, side, 4, 4, narrow), strides)
    return rows.reshape(-1, 16 * narrow)


def _flat(weight: Tensor) -> Tensor:
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _rows(coarse: Tensor) -> Tensor:
    return coarse.permute(0, 2, 3, 1).reshape(-1, coarse.shape[1])
