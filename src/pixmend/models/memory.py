"""The memory: training images that travel with the model, to look up the one most like what is known of an image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pixmend.errors import ImageError, ModelFileError
from pixmend.images import decode_image, encode_png

__all__ = ["Memory"]

_PART = 2048  # images compared at a time: bounds the memory that a look-up takes


@dataclass(frozen=True)
class Memory:
    """Training images, uint8 [N, C, S, S]; a model file that has them contains them, and says so."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def nearest(
        self, target: Tensor, known: Tensor, count: int = 1, *, exact: bool = True
    ) -> Tensor:
        """Return which ``count`` images differ least on the known pixels, int64 [B, count], nearest first.

        Parameters
        ----------
        target, known
            [B, C, S, S] in [-1, 1] and [B, 1, S, S], 1 = known.
        exact
            In float64, where the sums of 8-bit images are exact, so that an image's neighbours never depend on its batch mates.
        """
        return torch.topk(-self.distances(target, known, exact=exact), count, dim=1).indices

    def distances(self, target: Tensor, known: Tensor, *, exact: bool = True) -> Tensor:
        """Return sum M (y - m)^2 less sum M y^2, which is the same for all m: [B, N], in units of a grey level squared."""
        dtype = torch.float64 if exact else torch.float32
        shares = known.expand_as(target).flatten(1).to(dtype)  # [B, C * S * S]
        pixels = ((target.to(dtype) + 1) * 127.5).flatten(1)
        if exact:
            pixels = pixels.round()
        pixels = pixels * shares
        found = []
        for part in torch.split(self.images, _PART):
            values = part.flatten(1).to(dtype)  # [N, C * S * S]
            found.append(shares @ values.square().T - 2 * (pixels @ values.T))
        return torch.cat(found, 1)

    def take(self, indices: Tensor) -> Tensor:
        """Return the images numbered ``indices`` [B] as float [B, C, S, S] in [-1, 1]."""
        return self.images[indices].to(torch.float32) / 127.5 - 1

    def encode(self) -> Tensor:
        """Return the images as one PNG, a column of them: uint8 [bytes]."""
        count, channels, side, _ = self.images.shape
        column = self.images.permute(0, 2, 3, 1).reshape(count * side, side, channels)
        return torch.frombuffer(bytearray(encode_png(column.cpu().numpy())), dtype=torch.uint8)

    @classmethod
    def decode(cls, png: Tensor, *, count: int, channels: int, side: int) -> "Memory":
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
        if pixels.shape != (count * side, side, channels):
            raise ModelFileError(f"its memory of training images has the shape {pixels.shape}")
        images = torch.from_numpy(pixels.copy()).view(count, side, side, channels)
        return cls(images.permute(0, 3, 1, 2).contiguous())
