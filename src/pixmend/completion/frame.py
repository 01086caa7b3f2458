"""The part of an image that the model sees: a square at the model's size, and the way back."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pixmend.images import Fit


@dataclass(frozen=True)
class Frame:
    """A rectangle of the image, which may reach over its edges.

    Attributes
    ----------
    top, left, height, width
        In pixels of the image.
    outside_known
        Whether what lies beyond the edges counts as known background (a model trained on padded images) or as missing.
    """

    top: int
    left: int
    height: int
    width: int
    outside_known: bool

    def view(
        self, image: Tensor, known: Tensor, size: int, background: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the frame's content at the model's size, and what is known of it.

        A pixel of the model averages the known pixels of the image that it covers, and is known by their share: a mask finer than
        the model's pixels must not pass for one without holes.

        Parameters
        ----------
        image, known
            [C, H, W] in [-1, 1] and bool [H, W].
        background
            [C]: what lies beyond the edges.

        Returns
        -------
        tuple of Tensor
            [C, size, size], and float [1, size, size], 1 = known, 0 = missing.
        """
        inside = self._cut(known[None].float(), 1.0 if self.outside_known else 0.0)
        content = self._cut(image - background[:, None, None], 0.0) + background[:, None, None]
        share = _resize(inside, size, size)
        mean = _resize(content * inside, size, size) / share.clamp_min(1e-6)
        return torch.where(share > 1e-6, mean, torch.zeros_like(mean)), share

    def put_back(self, drawn: Tensor, image: Tensor) -> Tensor:
        """Return ``image`` [C, H, W] with the frame's part replaced by ``drawn`` [C, size, size]."""
        _, height, width = image.shape
        enlarged = _resize(drawn, self.height, self.width)
        top, left = max(0, self.top), max(0, self.left)
        bottom, right = min(height, self.top + self.height), min(width, self.left + self.width)
        result = image.clone()
        part = enlarged[:, top - self.top : bottom - self.top, left - self.left : right - self.left]
        result[:, top:bottom, left:right] = part
        return result

    def _cut(self, image: Tensor, fill: float) -> Tensor:
        _, height, width = image.shape
        right, bottom = self.left + self.width - width, self.top + self.height - height
        # Negative padding cuts.
        return F.pad(image, (-self.left, right, -self.top, bottom), value=fill)


def frame_for(known: Tensor, fit: Fit) -> Frame:
    """Return the frame of an image with this bool [H, W] of known pixels, as the model's training images were framed.

    ``stretch``: the whole image. ``pad``: the square around it, background known. ``crop``: the largest square inside, moved to the hole;
    when the hole is longer than that square, a square around the hole, with what lies beyond the edges missing; when that would show less
    than half as large a share of known pixels as the image has, the square around the image.
    """
    height, width = known.shape
    if fit == "stretch":
        return Frame(0, 0, height, width, outside_known=False)
    if fit == "pad":
        side = max(height, width)
        return Frame((height - side) // 2, (width - side) // 2, side, side, outside_known=True)
    rows = torch.nonzero((~known).any(1)).flatten()
    columns = torch.nonzero((~known).any(0)).flatten()
    first_row, last_row = int(rows[0]), int(rows[-1]) + 1
    first_column, last_column = int(columns[0]), int(columns[-1]) + 1
    side = max(min(height, width), last_row - first_row, last_column - first_column)
    top = _place(first_row, last_row, side, height)
    left = _place(first_column, last_column, side, width)
    seen = known[max(0, top) : top + side, max(0, left) : left + side]
    if 2 * seen.float().mean() < known.float().mean():
        side = max(height, width)
        top, left = (height - side) // 2, (width - side) // 2
    return Frame(top, left, side, side, outside_known=False)


def _place(first: int, last: int, side: int, length: int) -> int:
    """Return where a span of ``side`` starts: in the image's middle if it covers the hole there, else moved as little as needed."""
    start = (length - side) // 2
    if side >= length:
        return start
    start = min(start, first) if first < start else max(start, last - side)
    return min(max(start, 0), length - side)


def _resize(values: Tensor, height: int, width: int) -> Tensor:
    """Area mean along a side that shrinks, bilinear along one that grows, and itself where it stays."""
    smaller = (min(height, values.shape[1]), min(width, values.shape[2]))
    if smaller != tuple(values.shape[1:]):
        values = F.adaptive_avg_pool2d(values, smaller)
    if smaller == (height, width):
        return values
    return F.interpolate(values[None], (height, width), mode="bilinear", align_corners=False)[0]
