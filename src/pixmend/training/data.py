"""Training data: the order of images, read-ahead, and the inputs of every step."""

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.errors import StoppedError
from pixmend.images import Pixels
from pixmend.models import Retrieval, sample_latents
from pixmend.records import Records
from pixmend.rng import array_generator_for, generator_for
from pixmend.training.augment import (
    AUGMENTATION_DRAWS,
    Transform,
    augment,
    horizontal_flip,
    make_diffaugment,
)
from pixmend.training.masking import MaskedBatch, MaskSampler, choose_retrieval
from pixmend.training.settings import TrainSettings
from pixmend.training.split import group_numbers

_READ_AHEAD = 3  # batches

Read = Callable[[Sequence[int] | NDArray[np.int64]], Pixels]  # indices -> uint8 [B, S, S, C]


@dataclass(frozen=True)
class Shuffle:
    """Endless passes over ``count`` images, each in its own random order; a batch may span two."""

    count: int
    seed: int

    def positions(self, first: int, count: int) -> NDArray[np.int64]:
        """Return the indices of the images seen as number ``first`` to ``first + count - 1``."""
        passes, offsets = np.divmod(np.arange(first, first + count), self.count)
        parts = [
            _permutation(self.count, self.seed, number)[offsets[passes == number]]
            for number in np.unique(passes).tolist()
        ]
        return np.concatenate(parts)


@lru_cache(2)
def _permutation(count: int, seed: int, number: int) -> NDArray[np.int64]:
    return array_generator_for(seed, "order", number).permutation(count)


class ReadAhead:
    """Decodes up to four next batches in a thread, so that steps do not wait for files.

    A batch stays a function of its position (``indices_at``, as `Shuffle.positions`); one that was
    not foreseen, as after a resume, is read on request.
    """

    def __init__(self, read: Read, indices_at: Callable[[int, int], NDArray[np.int64]]) -> None:
        self._read, self._indices_at = read, indices_at
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pixmend-read-ahead")
        self._pending: dict[tuple[int, int], Future[Pixels]] = {}

    def batch(self, first: int, count: int) -> Pixels:
        """Return the images from number ``first`` on, uint8 [count, S, S, C]."""
        if (first, count) not in self._pending:
            for future in self._pending.values():
                future.cancel()
            self._pending.clear()
        for place in range(first, first + (_READ_AHEAD + 1) * count, count):
            if (place, count) not in self._pending:
                indices = self._indices_at(place, count)
                self._pending[place, count] = self._thread.submit(self._read, indices)
        return self._pending.pop((first, count)).result()


def to_device(pixels: Pixels, device: torch.device) -> Tensor:
    """Return uint8 [B, H, W, C] as [B, C, H, W] in [-1, 1]; the transfer is of uint8."""
    values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    return values.contiguous(memory_format=torch.channels_last)


class BatchLoader:
    """The inputs of every step, each a function of its position and the seed.

    Each process of a group loads its contiguous part of a batch; ``training`` [N] are indices of
    records.
    """

    def __init__(
        self,
        read: Read,
        settings: TrainSettings,
        device: torch.device,
        training: NDArray[np.int64],
        group: Group = SINGLE_PROCESS,
    ) -> None:
        self.read, self._settings, self.device = read, settings, device
        self._training, self._group = training, group
        self._read_ahead: ReadAhead | None = None
        self._masks: MaskSampler | None = None
        self.retrieval: Retrieval | None = None
        self.reseed(settings.seed)

    def open(self, records: Records, should_stop: Callable[[], bool]) -> None:
        """Decode the images into memory if they fit, or raise StoppedError; else read ahead."""

        def check(done: int, total: int) -> None:
            if done < total and should_stop():
                raise StoppedError

        limit = self._settings.memory_mib * 2**20 // self._group.local_world
        images = records.load_all(limit, on_progress=check)
        if images is not None:
            self.read = images.__getitem__
        else:
            self._read_ahead = ReadAhead(self.read, self._indices)
        if self._settings.inpainter_filters:
            self.open_masks(group_numbers(records))

    def open_masks(self, groups: NDArray[np.int64]) -> None:
        """Choose the retrieval images; ``groups`` [N] are the group numbers of all records."""
        settings, training = self._settings, self._training
        self.retrieval, members = choose_retrieval(
            settings, len(training), lambda at: self.read(training[at]), self.device
        )
        self._masks = MaskSampler(settings, groups, self.retrieval, training[members])

    def reseed(self, seed: int) -> None:
        """Draw order, latents, masks and augmentation of the steps from ``seed``."""
        self._seed = seed
        self._order = Shuffle(len(self._training), seed)
        if self._read_ahead is not None:
            self._read_ahead = ReadAhead(self.read, self._indices)

    def micro_batch(self, number: int, count: int) -> "BatchLoader":
        """Return the loader of one of ``count`` micro-batches; `real` is for the whole share."""
        part = copy.copy(self)
        part._group = Group(self._group.rank * count + number, self._group.world * count)
        return part

    def real(self, first: int, count: int) -> Tensor:
        """Return this process's share of ``count`` images, [count / world, C, S, S] in [-1, 1]."""
        if self._read_ahead is not None:
            return to_device(self._read_ahead.batch(first, count), self.device)
        return to_device(self.read(self._indices(first, count)), self.device)

    def augmented(self, real: Tensor, step: int, inner: int) -> Tensor:
        """Return the images of D's inner-th step, randomly flipped if set."""
        settings, count = self._settings, self._settings.batch_size
        share = self._group.shard(count)
        if settings.horizontal_flip:
            draws = torch.rand(count, generator=generator_for(self._seed, "mirror", step, inner))
            real = horizontal_flip(real, draws[share])
        return real

    def transform(self, step: int, of: str, inner: int = 0) -> Transform:
        """Return DiffAugment of this process's share: of ``"real"`` images, or of G's."""
        settings, count = self._settings, self._settings.batch_size
        rows = torch.arange(count)[self._group.shard(count)]
        generator = generator_for(self._seed, "augment", step, of, inner)
        probability = settings.diffaugment_probability
        return make_diffaugment(settings.transforms, probability, count, generator, rows=rows)

    def latents(self, step: int, number: int | str) -> Tensor:
        """Return G's prior latents of D's number-th step, or of G's own (``"generator"``)."""
        settings, count = self._settings, self._settings.batch_size
        z = sample_latents(settings.networks(), count, generator_for(self._seed, "z", step, number))
        return z[self._group.shard(count)].to(self.device)

    def masked(self, step: int, inner: int) -> MaskedBatch:
        """Return the masked images of the inpainter's inner-th step."""
        assert self._masks is not None
        count = self._settings.inpainter_batch
        order = array_generator_for(self._seed, "inpainter", step, inner)
        positions = order.integers(0, len(self._training), count)[self._group.shard(count)]
        indices = self._training[positions]
        images = to_device(self.read(indices), self.device)
        if self._settings.inpainter_augmentation:
            generator = generator_for(self._seed, "augmentation", step, inner)
            draws = torch.rand(count, AUGMENTATION_DRAWS, generator=generator)
            share = self._group.shard(count)
            images = augment(images, draws[share], self._settings.inpainter_augmentation)
        return self._masks.mask(images, indices, self._seed, step, inner, group=self._group)

    def _indices(self, first: int, count: int) -> NDArray[np.int64]:
        positions = self._order.positions(first, count)
        return self._training[positions[self._group.shard(count)]]
