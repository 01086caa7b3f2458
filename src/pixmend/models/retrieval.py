"""Retrieval: training images in the model file, compared with an image on its known pixels.

`Retrieval` finds the most similar training images for the inpainter; `OutOfDomain` scores how far an image is from all of them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.errors import ImageError, ModelFileError
from pixmend.images import MAX_PIXELS, decode_image, encode_png

_CHUNK = 2048  # images compared at a time; bounds the memory of a look-up
_EXACT_CHUNK = 128  # images compared exactly at a time, within a CPU's cache
_CACHE_BYTES = 2**29  # up to this, float32 images and squares are cached between look-ups
_SEARCHED_SIZE = 32  # pixels: larger images are searched by means of blocks first
# Images compared in full after that. The four nearest of 36,864 characters of 64 px were among the first 200 by means.
_SHORTLIST = 256
_TRAINING_SHORTLIST = 64  # of which one of the four nearest is missing now and then
_SHIFT = 1  # pixels by which neighbours are aligned
_ROUNDOFF = 2.0**-24  # of float32
_MAX_SAMPLE, _MIN_SAMPLE = 1024, 16  # training images in `OutOfDomain`
_MIN_VARIANCE = 1.0  # squared grey levels


@dataclass(frozen=True)
class Retrieval:
    """Training images, uint8 [N, C, S, S]; the model file contains and declares them."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def nearest(
        self,
        target: Tensor,
        known: Tensor,
        count: int = 1,
        *,
        excluded: Tensor | None = None,
        exact: bool = True,
    ) -> Tensor:
        """Return the numbers of the ``count`` images that differ least on the known pixels, int64 [B, count].

        Nearest first; of equal ones the lower number. Images above 32 px are first compared at 32 px or so, and the 256 nearest
        then in full. A float32 search yields the candidates that its rounding error leaves open, and float64, exact for
        8-bit images, decides. So no image's neighbours depend on the rest of the batch. ``target`` is [B, C, S, S] in
        [-1, 1], ``known`` [B, 1, S, S], 1 = known. Images that are ``excluded``, bool [B, N], come last. Without ``exact`` the
        float32 searches decide.
        """
        weights = known.expand_as(target)
        pixels = ((target.double() + 1) * 127.5).round()
        shortest = _SHORTLIST if exact else _TRAINING_SHORTLIST
        shortest = count if self._block == 1 else min(len(self), max(count, shortest))
        pooled = _Pooled.of(pixels, weights, self._block)
        approximate = self._approximate_distances(pooled)  # [B, N]
        if excluded is not None:
            approximate = approximate.masked_fill(excluded, float("inf"))
        least = torch.topk(approximate, shortest, dim=1, largest=False)
        if not exact:
            if self._block == 1:
                return least.indices
            rows = []
            for row, numbers in enumerate(least.indices):
                image, shares = pixels[row].flatten().float(), weights[row].flatten()
                squared = self._squared_distances(numbers, image, shares)
                squared = squared.masked_fill(least.values[row].isinf(), float("inf"))
                rows.append(numbers[torch.topk(squared, count, largest=False).indices])
            return torch.stack(rows)
        # The exact distance of the last one of the list differs from the approximate one by at most the error bound, and so
        # do those of all others: what lies further below is on the exact list, what lies further above is not.
        limits, margin = least.values[:, -1:].double(), 2 * pooled.rounding_error()[:, None]
        sure = approximate.double() < limits - margin  # [B, N]
        open_ = (approximate.double() <= limits + margin) & ~sure
        rows = []
        for number, (image, shares) in enumerate(
            zip(pixels.flatten(1), weights.flatten(1), strict=True)
        ):
            numbers, rest = torch.nonzero(sure[number])[:, 0], torch.nonzero(open_[number])[:, 0]
            if self._block > 1:
                rest = self._nearest_means(rest, pooled.row(number), shortest - len(numbers))
            rows.append(self._rank(torch.cat([numbers, rest]).sort().values, image, shares, count))
        return torch.stack(rows)

    @property
    def _block(self) -> int:
        """The side of the blocks of pixels of which a first search compares the means."""
        return max(1, self.images.shape[-1] // _SEARCHED_SIZE)

    def distances(self, target: Tensor, known: Tensor, *, exact: bool = True) -> Tensor:
        """Return sum M (y - m)^2 - sum M y^2 for each image m, [B, N], in squared grey levels.

        The term left out is the same for all m. With ``exact``, sums are in float64, exact for
        8-bit images.
        """
        dtype = torch.float64 if exact else torch.float32
        weights = known.expand_as(target).flatten(1).to(dtype)  # [B, P]
        pixels = ((target.to(dtype) + 1) * 127.5).flatten(1)
        weighted = (pixels.round() if exact else pixels) * weights
        chunks = []
        for images in torch.split(self.images, _CHUNK):
            values = images.flatten(1).to(dtype)  # [N, P]
            chunks.append(weights @ values.square().T - 2 * (weighted @ values.T))
        return torch.cat(chunks, 1)

    def _approximate_distances(self, seen: "_Pooled") -> Tensor:
        """Return `distances` of block means in float32, [B, N]; equal masks are multiplied once."""
        masks, mask_of = torch.unique(seen.weights.float(), dim=0, return_inverse=True)
        weighted = 2 * seen.weighted.float()
        return torch.cat(
            [
                (masks @ squares.T)[mask_of] - weighted @ values.T
                for values, squares in self._chunks()
            ],
            1,
        )

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for numbers in torch.split(torch.arange(len(self)), _CHUNK):
            yield self._means(slice(int(numbers[0]), int(numbers[-1]) + 1))

    def _means(self, numbers: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Return the block means of images, and of their squares, float32 [n, P]."""
        if self._cached_means is None:
            return self._compute_means(self.images[numbers])
        values, squares = self._cached_means
        return values[numbers], squares[numbers]

    @cached_property
    def _cached_means(self) -> tuple[Tensor, Tensor] | None:
        if 8 * self.images.numel() // self._block**2 > _CACHE_BYTES:
            return None
        parts = [self._compute_means(images) for images in torch.split(self.images, _CHUNK)]
        values, squares = (torch.cat(each) for each in zip(*parts, strict=True))
        return values, squares

    def _compute_means(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute `_means`: exact, as 2^24 holds the sums."""
        values = images.float()
        if self._block == 1:
            return values.flatten(1), values.square().flatten(1)
        squares = F.avg_pool2d(values.square(), self._block)
        return F.avg_pool2d(values, self._block).flatten(1), squares.flatten(1)

    def _nearest_means(self, numbers: Tensor, seen: "_Pooled", count: int) -> Tensor:
        """Return the ``count`` of these ascending numbers that are nearest by block means, in float64."""
        distances = []
        for chunk in torch.split(numbers, _EXACT_CHUNK):
            values, squares = self._means(chunk)
            distances.append((seen.weights * squares - 2 * seen.weighted * values).sum(1))
        return numbers[torch.argsort(torch.cat(distances), stable=True)[:count]]

    def _rank(self, numbers: Tensor, pixels: Tensor, weights: Tensor, count: int) -> Tensor:
        """Return the ``count`` nearest of the images of these ascending ``numbers``.

        By float32, and by float64 where that errs by more than the difference. Row sums: the order of sums in a
        matrix product may depend on the number of rows.
        """
        if len(numbers) == 1:
            return numbers
        single = self._squared_distances(numbers, pixels.float(), weights)
        last = torch.topk(single, count, largest=False).values[-1]
        numbers = numbers[single <= last * (1 + 4 * _relative_error(len(pixels)))]
        distances = self._squared_distances(numbers, pixels.float(), weights.double())
        return numbers[torch.argsort(distances, stable=True)[:count]]

    def _squared_distances(self, numbers: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
        distances = []
        for chunk in torch.split(numbers, _EXACT_CHUNK):
            squares = self.images[chunk].flatten(1).float().sub_(pixels).square_()  # exact
            distances.append((squares * weights).sum(1))
        return torch.cat(distances)

    @cached_property
    def domain(self) -> "OutOfDomain | None":
        """The domain of these images; None if they are too few."""
        return OutOfDomain.of(self.images)

    def take(self, indices: Tensor) -> Tensor:
        """Return the images numbered ``indices`` [B] as float [B, C, S, S] in [-1, 1]."""
        return self.images[indices].to(torch.float32) / 127.5 - 1

    def encode(self) -> list[Tensor]:
        """Return the images as PNGs of many stacked in a column each: uint8 [bytes]."""
        parts = torch.split(self.images, _images_in_png(self.images.shape[-1]))
        columns = (each.permute(0, 2, 3, 1).flatten(0, 1).cpu().numpy() for each in parts)
        return [
            torch.frombuffer(bytearray(encode_png(each)), dtype=torch.uint8) for each in columns
        ]

    @classmethod
    def decode(cls, pngs: Sequence[Tensor], *, count: int, channels: int, side: int) -> Self:
        """Read the result of `encode`; a ModelFileError refuses other content."""
        try:
            columns = [decode_image(png.numpy().tobytes()).pixels for png in pngs]
        except ImageError as error:
            raise ModelFileError(f"its retrieval images are damaged ({error})") from error
        most = _images_in_png(side)
        counts = [min(most, count - start) for start in range(0, count, most)]
        shapes = [(each * side, side, channels) for each in counts]
        if [each.shape for each in columns] != shapes or {each.dtype.str for each in columns} != {
            "|u1"
        }:
            raise ModelFileError(f"its retrieval images are not {count} of {side} px in 8 bits")
        pixels = np.concatenate(columns)
        images = torch.from_numpy(pixels).view(count, side, side, channels)
        return cls(images.permute(0, 3, 1, 2).contiguous())


def _images_in_png(side: int) -> int:
    return MAX_PIXELS // side**2


@dataclass(frozen=True)
class OutOfDomain:
    """Distances to the nearest of a sample of training images, with a threshold.

    Attributes
    ----------
    images
        In grey levels, [N, P] with P = C * S * S.
    variance
        Mean squared difference of each pixel from the nearest training image, [P], at least the
        mean over pixels, as the known pixels may be the varied or the uniform part of an image.
    threshold
        Largest root mean square difference, in units of ``variance``, of an image of the domain.
        It is Tukey's far-out fence (1977, section 2C): the upper quartile of training images plus
        three interquartile ranges. It is at least twice that quartile: very similar training images
        are narrower than their domain.
    """

    images: Tensor
    variance: Tensor
    threshold: float

    @classmethod
    def of(cls, images: Tensor) -> Self | None:
        """Compare a sample of training images, uint8 [N, C, S, S], with as many others, if any."""
        count = min(_MAX_SAMPLE, len(images) // 2)
        if count < _MIN_SAMPLE:
            return None
        spread = torch.linspace(0, len(images) - 1, 2 * count, device=images.device).long()
        sample = images[spread].flatten(1).float()
        references, others = sample[::2], sample[1::2]
        nearest = references[_nearest(references, others, torch.ones_like(others))]
        gaps = (others - nearest).square()
        variance = gaps.mean(0).clamp_min(max(float(gaps.mean()), _MIN_VARIANCE))
        scores = (gaps.sum(1) / variance.sum()).sqrt()
        lower, upper = torch.quantile(scores, scores.new_tensor([0.25, 0.75])).tolist()
        return cls(references, variance, max(upper + 3 * (upper - lower), 2 * upper))

    def anomaly_score(self, target: Tensor, known: Tensor) -> Tensor:
        """Return the distance to the nearest image on the known pixels, [B]; 1 = threshold."""
        weights = known.expand_as(target).flatten(1)
        pixels = (target.flatten(1) + 1) * 127.5
        gaps = (pixels - self.images[_nearest(self.images, pixels, weights)]).square()
        variance = (weights * self.variance).sum(1).clamp_min(1e-6)
        return ((weights * gaps).sum(1) / variance).sqrt() / max(self.threshold, 1e-6)


def align(neighbours: Tensor, target: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Shift each neighbour [B, K, C, S, S] by up to a pixel, to where it differs least on the known pixels.

    ``target`` is [B, C, S, S], ``known`` [B, 1, S, S]. Edges are replicated; of equal shifts the unshifted one is taken. A
    neighbour that is the target but for its brightness takes that too: it is scaled, by least squares on the known pixels, if
    this removes more than half of what remains.

    Returns
    -------
    tuple of Tensor
        The aligned neighbours, and their sums of squared differences on the known pixels, float64 [B, K].
    """
    side = target.shape[-1]
    padded = F.pad(neighbours.flatten(1, 2), (_SHIFT,) * 4, mode="replicate")
    padded = padded.view(*neighbours.shape[:3], *padded.shape[2:])
    best, least = neighbours, _squared(neighbours, target, known)
    for top in range(2 * _SHIFT + 1):
        for left in range(2 * _SHIFT + 1):
            shifted = padded[..., top : top + side, left : left + side]
            squared = _squared(shifted, target, known)
            closer = squared < least
            best = torch.where(closer[:, :, None, None, None], shifted, best)
            least = torch.where(closer, squared, least)
    light, seen = best + 1, known[:, None] * (target + 1)[:, None]  # 0 = black
    gain = (seen * light).flatten(2).sum(2) / (known[:, None] * light.square()).flatten(2).sum(
        2
    ).clamp_min(1e-6)
    scaled = (gain[:, :, None, None, None] * light - 1).clamp(-1, 1)
    squared = _squared(scaled, target, known)
    explained = squared < least / 2
    best = torch.where(explained[:, :, None, None, None], scaled, best)
    return best, torch.where(explained, squared, least)


def _squared(neighbours: Tensor, target: Tensor, known: Tensor) -> Tensor:
    return (known[:, None] * (neighbours - target[:, None]).square()).flatten(2).double().sum(2)


def _nearest(images: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """Return the image [N, P] that differs least from each row of ``pixels`` [B, P], [B]."""
    return (weights @ images.square().T - 2 * (weights * pixels) @ images.T).argmin(1)


def _relative_error(count: int) -> float:
    return (count + 3) * _ROUNDOFF / (1 - (count + 3) * _ROUNDOFF)


@dataclass(frozen=True)
class _Pooled:
    """Known pixels by blocks: sums of shares, and of shares times grey levels, float64 [B, P]."""

    weights: Tensor
    weighted: Tensor

    @classmethod
    def of(cls, pixels: Tensor, weights: Tensor, block: int) -> Self:
        shares = weights.double()
        sums = [F.avg_pool2d(each, block) * block**2 for each in (shares, shares * pixels)]
        return cls(*(each.flatten(1) for each in sums))

    def row(self, number: int) -> "_Pooled":
        return _Pooled(self.weights[number], self.weighted[number])

    def rounding_error(self) -> Tensor:
        """Return a bound on the error of `Retrieval._approximate_distances`, [B].

        A sum of P products in any order errs by at most n u / (1 - n u) of the sum of absolute values,
        with n = P + 2 roundings a product (Higham 2002, section 3.1), and one more for the difference
        of both sums. Values are at most 255.
        """
        growth = _relative_error(self.weights.shape[1])
        largest = 255 * (255 * self.weights.sum(1) + 2 * self.weighted.abs().sum(1))
        return growth * (1 + growth) * largest
