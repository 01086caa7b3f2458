"""The memory: training images that travel with the model, to look up the one most like what is known of an image."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pixmend.errors import ImageError, ModelFileError
from pixmend.images import decode_image, encode_png
from pixmend.models.domain import OutOfDomain

_PART = 2048  # images compared at a time: bounds the memory that a look-up takes
_FEW = 128  # compared exactly at a time: what stays in a CPU's cache
_KEPT = 2**28  # bytes up to which the images are kept as the floats that look-ups multiply
_ROUNDOFF = 2.0**-24  # of float32


@dataclass(frozen=True)
class Retrieval:
    """Training images, uint8 [N, C, S, S]; a model file that has them contains them, and says so."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def nearest(self, target: Tensor, known: Tensor, count: int = 1) -> Tensor:
        """Return which ``count`` images differ least on the known pixels, int64 [B, count], nearest first, the lower number where equal.

        Looked for among all in float32, and among those that its rounding leaves in question in float64, where the sums of 8-bit
        images are exact: an image's neighbours never depend on its batch mates.

        Parameters
        ----------
        target, known
            [B, C, S, S] in [-1, 1] and [B, 1, S, S], 1 = known.
        """
        shares = known.expand_as(target).flatten(1)  # [B, P], P = C * S * S
        pixels = ((target.double() + 1) * 127.5).round().flatten(1)
        rough = self._rough(pixels.float(), shares)  # [B, N]
        worst = torch.topk(rough, count, dim=1, largest=False).values[:, -1]
        # The count-th least true distance is at most the count-th least rough one and its error, `_slack`; what is as near as that
        # is rough by no more than another.
        reach = worst.double() + 2 * _slack(pixels, shares)
        rows = zip(rough.double(), reach, pixels, shares, strict=True)
        return torch.stack(
            [
                self._ordered(torch.nonzero(row <= limit).flatten(), wanted, weights, count)
                for row, limit, wanted, weights in rows
            ]
        )

    def distances(self, target: Tensor, known: Tensor, *, exact: bool = True) -> Tensor:
        """Return sum M (y - m)^2 less sum M y^2, which is the same for all m: [B, N], in units of a grey level squared.

        Parameters
        ----------
        exact
            In float64, where the sums of 8-bit images are exact.
        """
        dtype = torch.float64 if exact else torch.float32
        shares = known.expand_as(target).flatten(1).to(dtype)  # [B, P]
        pixels = ((target.to(dtype) + 1) * 127.5).flatten(1)
        if exact:
            pixels = pixels.round()
        pixels = pixels * shares
        found = []
        for part in torch.split(self.images, _PART):
            values = part.flatten(1).to(dtype)  # [N, P]
            found.append(shares @ values.square().T - 2 * (pixels @ values.T))
        return torch.cat(found, 1)

    def _rough(self, pixels: Tensor, shares: Tensor) -> Tensor:
        """Return `distances` in float32, [B, N]; masks that are equal are multiplied once."""
        masks, which = torch.unique(shares, dim=0, return_inverse=True)
        weighed = 2 * pixels * shares
        return torch.cat(
            [
                (masks @ squares.T)[which] - weighed @ values.T
                for values, squares in (self._kept or self._floats())
            ],
            1,
        )

    @cached_property
    def _kept(self) -> list[tuple[Tensor, Tensor]]:
        """What `_floats` yields, if there is room for it."""
        return list(self._floats()) if 8 * self.images.numel() <= _KEPT else []

    def _floats(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images as float32 [n, P] and their squares, part by part; both are whole numbers, and exact."""
        for part in torch.split(self.images, _PART):
            values = part.flatten(1).float()
            yield values, values.square()

    def _ordered(self, numbers: Tensor, pixels: Tensor, shares: Tensor, count: int) -> Tensor:
        """Return the ``count`` nearest of the images of these ascending ``numbers``, in float64."""
        if len(numbers) == 1:
            return numbers
        wanted, weights, far = pixels.float(), shares.double(), []
        for part in torch.split(numbers, _FEW):
            values = self.images[part].flatten(1).float()
            squared = values.sub_(wanted).square_()  # whole numbers below 2^16, exact
            # Sums of one image each, not a product of matrices, whose order of sums may depend on how many there are.
            far.append((squared * weights).sum(1))
        return numbers[torch.argsort(torch.cat(far), stable=True)[:count]]

    @cached_property
    def domain(self) -> OutOfDomain | None:
        """What images like these have in common; None where they are too few to tell."""
        return OutOfDomain.of(self.images)

    def take(self, indices: Tensor) -> Tensor:
        """Return the images numbered ``indices`` [B] as float [B, C, S, S] in [-1, 1]."""
        return self.images[indices].to(torch.float32) / 127.5 - 1

    def encode(self) -> Tensor:
        """Return the images as one PNG, a column of them: uint8 [bytes]."""
        count, channels, side, _ = self.images.shape
        column = self.images.permute(0, 2, 3, 1).reshape(count * side, side, channels)
        return torch.frombuffer(bytearray(encode_png(column.cpu().numpy())), dtype=torch.uint8)

    @classmethod
    def decode(cls, png: Tensor, *, count: int, channels: int, side: int) -> "Retrieval":
        """Read what `encode` wrote.

        Raises
        ------
        ModelFileError
            It is no such image.
        """
        try:
            pixels = decode_image(png.numpy().tobytes()).pixels
        except ImageError as error:
            raise ModelFileError(f"its memory of training images is damaged ({error})") from error
        if pixels.shape != (count * side, side, channels) or pixels.dtype != np.uint8:
            raise ModelFileError(
                f"its memory of training images is {pixels.dtype} of shape {pixels.shape}"
            )
        images = torch.from_numpy(pixels.copy()).view(count, side, side, channels)
        return cls(images.permute(0, 3, 1, 2).contiguous())


def _slack(pixels: Tensor, shares: Tensor) -> Tensor:
    """Return by how much `Retrieval._rough` may be off for images of these float64 ``pixels`` and ``shares`` [B, P], [B].

    A sum of P products in any order is off by at most g = n u / (1 - n u) of the sum of their absolute values, n = P + 2 roundings on
    a product's way (Higham 2002, section 3.1); no value is above 255. One more is that of the difference of both sums.
    """
    count = pixels.shape[1] + 3
    growth = count * _ROUNDOFF / (1 - count * _ROUNDOFF)
    weights = shares.double()
    most = 255 * (255 * weights.sum(1) + 2 * (weights * pixels.abs()).sum(1))
    return growth * (1 + growth) * most
