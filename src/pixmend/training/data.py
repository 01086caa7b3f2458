"""Training images by position: which image comes n-th is a function of (seed, n) and of nothing else."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.images import Pixels
from pixmend.randomness import array_generator_for

__all__ = ["Order", "pixels_to_device"]


class Order:
    """Endless passes over ``count`` images, each in an order of its own.

    A batch may reach over the end of a pass, so every image is seen equally often and a set smaller than a batch trains too.
    """

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._pass = -1
        self._shuffled: NDArray[np.int64] = np.empty(0, np.int64)

    def positions(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the indices of the images seen as number ``first`` to ``first + count - 1``, [count]."""
        indices = np.empty(count, np.int64)
        done = 0
        while done < count:
            number, offset = divmod(first + done, self._count)
            some = min(count - done, self._count - offset)
            indices[done : done + some] = self._order_of(number)[offset : offset + some]
            done += some
        return indices

    def _order_of(self, number: int) -> NDArray[np.int64]:
        if number != self._pass:  # only a cache: the order is a function of the pass
            generator = array_generator_for(self._seed, "order", number)
            self._shuffled, self._pass = generator.permutation(self._count), number
        return self._shuffled


def pixels_to_device(
    read: Callable[[Sequence[int] | NDArray[np.int64]], Pixels],
    indices: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """Return images [B, C, H, W] in [-1, 1] on ``device``; they travel as uint8, a quarter of the size."""
    pixels = torch.from_numpy(read(indices)).to(device)
    values = pixels.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)
