"""Holes in real images: which part of a batch gets them, of what shape, and which training image each is shown."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.images import Pixels
from pixmend.models import Retrieval
from pixmend.rng import array_generator_for, generator_for
from pixmend.training.inversion import MaskedBatch, sample_masks
from pixmend.training.settings import TrainSettings

_LOOKED_AT = 4096  # images of the memory that a training batch is compared with


class Holes:
    """Makes `MaskedBatch` images of real ones; which holes, noise and neighbours is a function of the key.

    Parameters
    ----------
    families
        Number of the family of each training image, [N]: an image is never shown one of its own family, as none of the user's
        images is of a family that was trained on; where there is no other to look at, it is shown mid-grey.
    memory, members
        The memory, and the numbers of its images among the training images; None for a model without.
    """

    def __init__(
        self,
        settings: TrainSettings,
        families: NDArray[np.int64],
        memory: Retrieval | None,
        members: NDArray[np.int64],
    ) -> None:
        self._settings = settings
        self._families = families
        self._memory = memory
        self._members = members

    def make(
        self,
        images: Tensor,
        indices: NDArray[np.int64],
        seed: int,
        *key: str | int,
        group: Group = SINGLE_PROCESS,
    ) -> MaskedBatch:
        """Return ``images`` [N, C, S, S], which are the training images ``indices``, with holes.

        The images are this process's share of those that ``group`` puts holes in; holes and noise are drawn for all of them.
        """
        settings, count = self._settings, len(images) * group.world
        share = group.shard(count)
        generator = generator_for(seed, "holes", *key)
        noise = torch.randn(count, settings.latent_dim, generator=generator)[share]
        known = sample_masks(count, settings.size, generator)[share].to(images.device)
        neighbours = self._neighbours(images, known, indices, seed, *key)
        return MaskedBatch(images, known, neighbours, noise.to(images.device))

    def _neighbours(
        self,
        images: Tensor,
        known: Tensor,
        indices: NDArray[np.int64],
        seed: int,
        *key: str | int,
    ) -> Tensor | None:
        if self._memory is None:
            return None
        generator = array_generator_for(seed, "neighbours", *key)
        most = min(_LOOKED_AT, max(1, len(self._memory) // 2))
        some = generator.choice(len(self._memory), most, replace=False)
        own = self._families[indices][:, None] == self._families[self._members[some]][None]
        part = Retrieval(self._memory.images[torch.from_numpy(some).to(images.device)])
        distances = part.distances(images, known, exact=False)
        others = torch.from_numpy(~own).to(images.device)
        distances.masked_fill_(~others, float("inf"))
        neighbour = part.take(distances.argmin(1))
        # Where all that was looked at is of the image's own family, it is shown nothing.
        return neighbour * others.any(1)[:, None, None, None]


def completions(settings: TrainSettings) -> int:
    """Return how many images of a batch that G draws are completions; 0 where G is not trained to complete."""
    if settings.encoder in ("off", "frozen"):
        return 0
    count = settings.batch_size
    return min(max(1, round(count * settings.completion_share)), count - 1)


def holed_rows(count: int, some: int, player: str) -> NDArray[np.bool_]:
    """Return which of ``count`` images get holes in the player's step, [count]: ``some`` of them, spread evenly.

    Each of w contiguous parts of the batch, if w divides both numbers, has equally many, so that processes share them equally. G's rows are
    the mirror image of D's: where they are half of an even batch, none is D's, which has not just seen what it judges.
    """
    ends = np.arange(count + 1) * some // count
    rows = np.diff(ends) > 0
    return rows if player == "discriminator" else rows[::-1].copy()


def choose_retrieval(
    settings: TrainSettings,
    count: int,
    read: Callable[[Sequence[int] | NDArray[np.int64]], Pixels],
    device: torch.device,
) -> tuple[Retrieval | None, NDArray[np.int64]]:
    """Choose ``settings.retrieval_images`` of ``count`` training images, all if there are fewer; return the memory and their numbers."""
    if not settings.retrieval_images:
        return None, np.empty(0, np.int64)
    chosen = array_generator_for(settings.seed, "memory").permutation(count)[
        : settings.retrieval_images
    ]
    members = np.sort(chosen).astype(np.int64)
    pixels = torch.from_numpy(np.ascontiguousarray(read(members))).to(device)
    return Retrieval(pixels.permute(0, 3, 1, 2).contiguous()), members
