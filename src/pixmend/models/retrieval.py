"""Retrieval: training images in the model file, compared with an image on its known pixels.

`Retrieval` finds the most similar training images for the inpainter; `OutOfDomain` scores how far an image is from all of them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.errors import ImageError, ModelFileError
from pixmend.images import MAX_PIXELS, decode_image, encode_png

_CHUNK = 128  # images compared at a time, within a CPU's cache
_CACHE_BYTES = 2**29  # up to this, float32 means are cached between look-ups, and images by pixel
_SEARCHED_SIZE = 32  # pixels: larger images are searched by means of blocks first
_FIRST = 64  # images compared in full after that; training, where one of the nearest may be missing, looks no further
_MOST = 8  # of more than one image in so many, means decide too little
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

        Nearest first; of equal ones the lower number. Float32 searches yield the candidates that bounds leave open, and
        float64, exact for 8-bit images, decides. So no image's neighbours depend on the rest of the batch. ``target`` is
        [B, C, S, S] in [-1, 1], ``known`` [B, 1, S, S], 1 = known. Without ``exact``, images above 32 px are compared at 32 px
        or so, and the 64 nearest then in full, in float32; images that are ``excluded``, bool [B, N], come last.
        """
        weights = known.expand_as(target)
        pixels = ((target.double() + 1) * 127.5).round()
        if not exact:
            return self._nearest_by_means(pixels, weights, count, excluded)
        assert excluded is None
        candidates = self._open_by_means(pixels, weights, count)
        rest = [row for row in range(len(target)) if row not in candidates]
        if rest:
            found = self._open_by_pixels(pixels[rest], weights[rest], count)
            candidates |= dict(zip(rest, found, strict=True))
        rows = enumerate(zip(pixels.flatten(1), weights.flatten(1), strict=True))
        return torch.stack([self._rank(candidates[row], *each, count) for row, each in rows])

    def _nearest_by_means(
        self, pixels: Tensor, weights: Tensor, count: int, excluded: Tensor | None
    ) -> Tensor:
        shortest = count if self._block == 1 else min(len(self), max(count, _FIRST))
        shares, weighted = weights.double(), weights.double() * pixels
        sums = [F.avg_pool2d(each, self._block) * self._block**2 for each in (shares, weighted)]
        approximate = _Seen(*(each.flatten(1) for each in sums)).compare(self._means())  # [B, N]
        if excluded is not None:
            approximate = approximate.masked_fill(excluded, float("inf"))
        least = torch.topk(approximate, shortest, dim=1, largest=False)
        if self._block == 1:
            return least.indices
        rows = []
        for row, numbers in enumerate(least.indices):
            image, known = pixels[row].flatten().float(), weights[row].flatten()
            squared = self._squared_distances(numbers, image, known)
            squared = squared.masked_fill(least.values[row].isinf(), float("inf"))
            rows.append(numbers[torch.topk(squared, count, largest=False).indices])
        return torch.stack(rows)

    def _open_by_means(self, pixels: Tensor, weights: Tensor, count: int) -> dict[int, Tensor]:
        """Return ascending numbers that include the ``count`` nearest of some images, by row.

        The squared differences of a block sum to at least as much as those of its mean (Jensen's inequality) with the least
        weight of its pixels. Images for which this excludes too few are left out, as are those of few whole blocks.
        """
        least = -F.max_pool2d(-weights, self._block).double() * self._block**2
        rows = (2 * least.sum((1, 2, 3)) >= weights.sum((1, 2, 3))).nonzero()[:, 0].tolist()
        if self._block == 1 or not rows:
            return {}
        means, least = F.avg_pool2d(pixels[rows], self._block).flatten(1), least[rows].flatten(1)
        seen, found = _Seen(least, least * means), {}
        compared = seen.compare(self._means())
        slack = seen.rounding_error() - (least * means.square()).sum(1)
        for row, bounds, beyond in zip(rows, compared, slack, strict=True):
            image, known = pixels[row].flatten(), weights[row].flatten()
            first = torch.topk(bounds, min(len(self), max(count, _FIRST)), largest=False).indices
            squared = self._squared_distances(first, image.float(), known).double()
            last = torch.topk(squared, count, largest=False).values[-1]
            last = last * (1 + 4 * _relative_error(len(image)))
            numbers = torch.nonzero(bounds.double() <= last + beyond)[:, 0]
            if len(numbers) * _MOST <= len(self):
                found[row] = numbers
        return found

    def _open_by_pixels(self, pixels: Tensor, weights: Tensor, count: int) -> list[Tensor]:
        """Return ascending numbers that include the ``count`` nearest of each image."""
        shares, levels = weights.flatten(1).double(), pixels.flatten(1)
        known = shares.any(0).nonzero()[:, 0]
        chunks: Iterable[Tensor]
        if 0 < 2 * len(known) < shares.shape[1]:
            shares, levels = shares[:, known], levels[:, known]
            chunks = (each.index_select(0, known).float().T for each in self._planes())
        else:
            chunks = (each.flatten(1).float() for each in torch.split(self.images, _CHUNK))
        seen = _Seen(shares, shares * levels)
        compared = seen.compare(chunks)
        # A distance differs from the exact one by at most the error bound, and so does the last one of the list.
        limits = torch.topk(compared, count, dim=1, largest=False).values[:, -1].double()
        limits += 2 * seen.rounding_error()
        return [
            torch.nonzero(row.double() <= limit)[:, 0]
            for row, limit in zip(compared, limits, strict=True)
        ]

    @property
    def _block(self) -> int:
        """The side of the blocks of pixels of which a first search compares the means."""
        return max(1, self.images.shape[-1] // _SEARCHED_SIZE)

    def distances(self, target: Tensor, known: Tensor) -> Tensor:
        """Return sum M (y - m)^2 - sum M y^2 for each image m, [B, N], in squared grey levels, exact for 8-bit images.

        The term left out is the same for all m.
        """
        weights = known.expand_as(target).flatten(1).double()  # [B, P]
        weighted = ((target.double() + 1) * 127.5).flatten(1).round() * weights
        chunks = []
        for images in torch.split(self.images, _CHUNK):
            values = images.flatten(1).double()  # [N, P]
            chunks.append(weights @ values.square().T - 2 * (weighted @ values.T))
        return torch.cat(chunks, 1)

    def _means(self) -> Iterable[Tensor]:
        """Return the means of blocks, float32 [n, P] a chunk: exact, as sides are powers of two."""
        return self._cached_means or map(self._pool, torch.split(self.images, _CHUNK))

    @cached_property
    def _cached_means(self) -> list[Tensor]:
        if 4 * self.images.numel() // self._block**2 > _CACHE_BYTES:
            return []
        return [self._pool(images) for images in torch.split(self.images, _CHUNK)]

    def _pool(self, images: Tensor) -> Tensor:
        # A sum of rows and a product take two thirds of the time of torch's average of blocks.
        side, block = images.shape[-1] // self._block, self._block
        total, *others = images.float().reshape(-1, side, block, images.shape[-1]).unbind(2)
        for rows in others:
            total = total + rows
        mean = torch.eye(side, device=images.device).repeat_interleave(block, 0) / (block * block)
        means: Tensor = total.flatten(0, 1) @ mean
        return means.view(len(images), -1)

    def _planes(self) -> Iterable[Tensor]:
        """Return the images by pixel, uint8 [P, n] a chunk: few known pixels are read at once."""
        return self._cached_planes or map(_by_pixel, torch.split(self.images, _CHUNK))

    @cached_property
    def _cached_planes(self) -> list[Tensor]:
        if self.images.numel() > _CACHE_BYTES:
            return []
        return [_by_pixel(images) for images in torch.split(self.images, _CHUNK)]

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
        for chunk in torch.split(numbers, _CHUNK):
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

    @cached_property
    def encoded(self) -> list[Tensor]:
        """The images as PNGs of many stacked in a column each, uint8 [bytes]; a run writes them with every checkpoint."""
        parts = torch.split(self.images, _images_in_png(self.images.shape[-1]))
        columns = (each.permute(0, 2, 3, 1).flatten(0, 1).cpu().numpy() for each in parts)
        return [
            torch.frombuffer(bytearray(encode_png(each)), dtype=torch.uint8) for each in columns
        ]

    @classmethod
    def decode(cls, pngs: Sequence[Tensor], *, count: int, channels: int, side: int) -> Self:
        """Read `encoded`; a ModelFileError refuses other content."""
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


def _nearest(images: Tensor, pixels: Tensor, weights: Tensor) -> Tensor:
    """Return the image [N, P] that differs least from each row of ``pixels`` [B, P], [B]."""
    return (weights @ images.square().T - 2 * (weights * pixels) @ images.T).argmin(1)


def _relative_error(count: int) -> float:
    return (count + 3) * _ROUNDOFF / (1 - (count + 3) * _ROUNDOFF)


def _by_pixel(images: Tensor) -> Tensor:
    return images.flatten(1).T.contiguous()


@dataclass(frozen=True)
class _Seen:
    """What is known of images, by pixel or block: its weight, and this times grey levels, float64 [B, P]."""

    weights: Tensor
    weighted: Tensor

    def compare(self, chunks: Iterable[Tensor]) -> Tensor:
        """Return `Retrieval.distances` to images [n, P] a chunk, in float32; equal masks are multiplied once."""
        masks, mask_of = torch.unique(self.weights.float(), dim=0, return_inverse=True)
        masks, weighted = masks.T.contiguous(), 2 * self.weighted.float().T.contiguous()
        compared = [(each.square() @ masks)[:, mask_of] - each @ weighted for each in chunks]
        return torch.cat(compared).T.contiguous()

    def rounding_error(self) -> Tensor:
        """Return a bound on the error of `compare`, [B].

        A sum of P products in any order errs by at most n u / (1 - n u) of the sum of absolute values,
        with n = P + 2 roundings a product (Higham 2002, section 3.1), and one more for the difference
        of both sums. Values are at most 255.
        """
        growth = _relative_error(self.weights.shape[1])
        largest = 255 * (255 * self.weights.sum(1) + 2 * self.weighted.abs().sum(1))
        return growth * (1 + growth) * largest
