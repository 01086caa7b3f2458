"""Training images by position: which image comes n-th is a function of (seed, n) and of nothing else."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.images import Pixels
from pixmend.rng import array_generator_for

_AHEAD = 3  # batches decoded or being decoded beyond the one asked for


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


class ReadAhead:
    """Batches that a thread decodes before they are asked for, so that a step does not wait for files.

    Which images a batch holds stays a function of its position: one that was not foreseen, as the first after a resume, is
    read when it is asked for. Memory holds four batches at the most, whatever the number of images.

    Parameters
    ----------
    read
        Decodes the images of some indices; called in the thread.
    indices_at
        The indices of the images seen as number ``first`` to ``first + count - 1``, such as `Order.positions`.
    """

    def __init__(
        self,
        read: Callable[[NDArray[np.int64]], Pixels],
        indices_at: Callable[[int, int], NDArray[np.int64]],
    ) -> None:
        self._read, self._indices_at = read, indices_at
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pixmend-read-ahead")
        self._coming: dict[tuple[int, int], tuple[NDArray[np.int64], Future[Pixels]]] = {}

    def batch(self, first: int, count: int) -> tuple[Pixels, NDArray[np.int64]]:
        """Return the images seen as number ``first`` and on, uint8 [count, S, S, C], and which they are.

        Raises
        ------
        RecordError
            A record of this batch is broken.
        """
        if (first, count) not in self._coming:
            for _, future in self._coming.values():
                future.cancel()
            self._coming.clear()
        for place in range(first, first + (_AHEAD + 1) * count, count):
            if (place, count) not in self._coming:
                indices = self._indices_at(place, count)
                self._coming[place, count] = indices, self._thread.submit(self._read, indices)
        indices, future = self._coming.pop((first, count))
        return future.result(), indices


def pixels_to_device(
    read: Callable[[Sequence[int] | NDArray[np.int64]], Pixels],
    indices: NDArray[np.int64],
    device: torch.device,
) -> Tensor:
    """Return images [B, C, H, W] in [-1, 1] on ``device``; they travel as uint8, a quarter of the size."""
    return to_device(read(indices), device)


def to_device(pixels: Pixels, device: torch.device) -> Tensor:
    """Return uint8 [B, H, W, C] as `pixels_to_device` returns images."""
    values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)
