"""Alignment of retrieved images: each is scaled and shifted to where it fits the known pixels best, and the best are kept."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_SCALES = (1.0, 0.92, 1.08, 0.85, 1.18)
_SHIFTS = (0, -1, 1)  # pixels
# A warp must lower the squared difference by more than this, for each pixel of shift or 8 % of scale: of two that fit
# alike, the lesser one continues better into the hole.
_WARP_PENALTY = 0.05
_EVERY = 2  # rows and columns are compared, of images of `_COARSE` pixels or more
_COARSE = 32
# Grey levels are compared in sixteenths: so sums in float64 are exact. Rounded at an odd place, where few values lie,
# they do not depend on the last bits of what a resizing or a decoder gives.
LEVELS, ROUNDED_AT = 16, 0.29
WARPED = 12  # candidates that are then compared on all pixels


@dataclass(frozen=True)
class Axis:
    """The warps of rows, or columns: what position of an image each of S positions shows.

    A scale is about the middle; beyond the edges, edges are repeated. The first warp changes nothing.
    """

    positions: Tensor  # [A, S], float64
    nearest: Tensor  # [A, L], int64: the nearest whole positions, for every S / L-th
    deviation: Tensor  # [A], of the warp from none

    @staticmethod
    @lru_cache(8)
    def of(size: int) -> "Axis":
        """Return the warps of images of a size."""
        middle, place = (size - 1) / 2, torch.arange(size, dtype=torch.float64)
        warps = list(itertools.product(_SCALES, _SHIFTS))
        rows = [(place - middle) / scale + middle + shift for scale, shift in warps]
        positions = torch.stack(rows).clamp(0, size - 1)
        deviations = [abs(math.log(scale)) / 0.08 + abs(shift) for scale, shift in warps]
        every = max(_EVERY, size // _COARSE) if size >= _COARSE else 1
        return Axis(
            positions,
            # Halves, as of a scale of 1 about the middle of an even size, do not occur.
            (positions[:, ::every] + 0.5).floor().long().clamp_max(size - 1),
            torch.tensor(deviations, dtype=torch.float64),
        )

    @property
    def every(self) -> int:
        """The distance of the positions that are compared."""
        return self.positions.shape[1] // self.nearest.shape[1]

    def penalty(self) -> Tensor:
        """Return the factors of the squared differences of warps of rows and columns, float64 [A, A]."""
        return 1 + _WARP_PENALTY * (self.deviation[:, None] + self.deviation)

    def selection(self) -> Tensor:
        """Return `nearest` as matrices [A, L, S] of zeros and ones, float64."""
        return torch.nn.functional.one_hot(self.nearest, self.positions.shape[1]).double()


def align(
    images: Tensor,
    target: Tensor,
    known: Tensor,
    count: int,
    *,
    excluded: Tensor | None = None,
    exact: bool = True,
) -> tuple[Tensor, Tensor]:
    """Warp each candidate [B, N, C, S, S], uint8, to where it differs least on the known pixels; return the ``count`` best.

    ``target`` is [B, C, S, S] in [-1, 1], ``known`` [B, 1, S, S]. An image that is the target but for its brightness
    takes that too: it is scaled, by least squares on the known pixels, if this removes more than half of what remains.
    Candidates that are ``excluded``, bool [B, N], come last.

    Returns
    -------
    tuple of Tensor
        The aligned images, [B, count, C, S, S] in [-1, 1], best first, and their sums of squared differences on the
        known pixels, float64 [B, count].
    """
    axis, dtype = Axis.of(images.shape[-1]), torch.float64 if exact else torch.float32
    pixels = ((target + 1) * (127.5 * LEVELS) + ROUNDED_AT).floor().sum(1) / LEVELS
    planes = images.to(dtype).sum(2)
    found = [_warps(*each, axis) for each in zip(planes, pixels, known[:, 0], strict=True)]
    least, warps = (torch.stack(each) for each in zip(*found, strict=True))
    if excluded is not None:
        least = least.masked_fill(excluded, torch.inf)
    first = least.argsort(dim=1, stable=True)[:, : max(count, WARPED)]
    rows = torch.arange(len(images), device=images.device)[:, None]
    warps, total = warps[rows, first], len(axis.positions)
    shown = _warped(images[rows, first], warps // total, warps % total, axis) / 127.5 - 1
    shown, squared = _fit_gain(shown, target, known)
    compared = squared.masked_fill(least.gather(1, first).isinf(), torch.inf)
    order = compared.argsort(dim=1, stable=True)[:, :count]
    return shown[rows, order], squared[rows, order]


def _warps(images: Tensor, pixels: Tensor, known: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """Return the least penalised squared difference of each image [N, S, S], [N], and its warp, int64 [N].

    Channels are summed, in grey levels; whole positions are compared. By the binomial formula, columns are warped in
    ``pixels`` [S, S], once for all images.
    """
    every, count, selection = axis.every, len(axis.nearest), axis.selection().to(images)
    known, seen = (each[::every, ::every].to(images) for each in (known, pixels))
    squares = (known @ selection).flatten(1)  # [A, L * S]
    products = ((known * seen) @ selection).flatten(1)
    rows = images[:, axis.nearest].flatten(2)  # [N, A, L * S]
    total = rows.square() @ squares.T - 2 * (rows @ products.T) + (known * seen.square()).sum()
    total = total.clamp_min(0) * axis.penalty().to(images)  # [N, A, A]
    least = total.view(len(images), count * count).min(1)
    return least.values, least.indices


def _warped(images: Tensor, rows: Tensor, columns: Tensor, axis: Axis) -> Tensor:
    """Warp images [B, K, C, S, S] bilinearly by the numbers of warps, [B, K]; return float32."""
    shown = images.to(torch.float32)
    for dim, warps in ((3, rows), (4, columns)):
        position = axis.positions.to(warps.device)[warps]  # [B, K, S]
        low = position.floor().clamp_max(images.shape[-1] - 2)
        shape: Sequence[int] = [*position.shape[:2], 1, *(-1 if d == dim else 1 for d in (3, 4))]
        part = (position - low).to(torch.float32).view(shape)
        index = low.long().view(shape).expand_as(shown)
        before, after = shown.gather(dim, index), shown.gather(dim, index + 1)
        shown = before + (after - before) * part
    return shown


def _fit_gain(images: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    least, light = _squared(images, target, known), images + 1  # 0 = black
    seen = known[:, None] * (target + 1)[:, None]
    energy = (known[:, None] * light.square()).flatten(2).sum(2).clamp_min(1e-6)
    gain = (seen * light).flatten(2).sum(2) / energy
    scaled = (gain[:, :, None, None, None] * light - 1).clamp(-1, 1)
    squared = _squared(scaled, target, known)
    explained = squared < least / 2
    images = torch.where(explained[:, :, None, None, None], scaled, images)
    return images, torch.where(explained, squared, least)


def _squared(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    return (known[:, None] * (images - target[:, None]).square()).flatten(2).double().sum(2)
