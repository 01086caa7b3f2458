"""Training data: which image comes n-th, read ahead, and the inputs of every step."""

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

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
from pixmend.training.augment import Transform, horizontal_flip, random_shift, transform_for
from pixmend.training.inversion import MaskedBatch
from pixmend.training.masking import Holes, choose_retrieval, completions, holed_rows
from pixmend.training.settings import TrainSettings
from pixmend.training.split import family_numbers

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


class Feed:
    """The inputs of every step, each a function of its position and ``seed``.

    A process of a group is fed its share of each batch, a contiguous part; what makes the batch does not depend on how many share it.

    Parameters
    ----------
    training
        The numbers of the records that are trained on, [N]; the others are never seen.

    Attributes
    ----------
    read
        Returns records' images by their numbers, uint8 [B, S, S, C].
    memory
        The training images that travel with the model, where it has a memory; chosen by the run's own seed.
    """

    def __init__(
        self,
        records: Records,
        settings: TrainSettings,
        device: torch.device,
        training: NDArray[np.int64],
        group: Group = SINGLE_PROCESS,
    ) -> None:
        self._records, self._settings, self.device = records, settings, device
        self._training, self._group = training, group
        self.read: Callable[[Sequence[int] | NDArray[np.int64]], Pixels] = records.images
        self._ahead: ReadAhead | None = None
        self._holes: Holes | None = None
        self.retrieval: Retrieval | None = None
        self.start(settings.seed)

    def open(self, should_stop: Callable[[], bool]) -> None:
        """Decode the images into memory if they fit; else they are read ahead of the steps.

        Raises
        ------
        StoppedError
            ``should_stop`` said so.
        """

        def look(done: int, of: int) -> None:
            if done < of and should_stop():
                raise StoppedError

        settings = self._settings
        room = settings.memory_mib * 2**20 // self._group.local_world
        held = self._records.load_all(room, on_progress=look)
        if held is not None:
            self.read = held.__getitem__
        else:
            self._ahead = ReadAhead(self.read, self._indices)
        if settings.encoder != "off":
            training = self._training
            self.retrieval, members = choose_retrieval(
                settings, len(training), lambda at: self.read(training[at]), self.device
            )
            families = family_numbers(self._records)
            self._holes = Holes(settings, families, self.retrieval, training[members])

    def start(self, seed: int) -> None:
        """Take the draws of the steps from ``seed`` on."""
        self._seed = seed
        self._order = Order(len(self._training), seed)
        if self._ahead is not None:
            self._ahead = ReadAhead(self.read, self._indices)

    def of_part(self, number: int, count: int) -> "Feed":
        """Return what feeds the part of that number, of ``count``, of this process's share, but for `real`, which feeds them all."""
        part = copy.copy(self)
        part._group = Group(self._group.rank * count + number, self._group.world * count)
        return part

    def real(self, first: int, count: int) -> tuple[Tensor, NDArray[np.int64]]:
        """Return this process's share of the ``count`` images seen as number ``first`` and on, and which they are.

        The images are [count / world, C, S, S] in [-1, 1].
        """
        if self._ahead is not None:
            pixels, indices = self._ahead.batch(first, count)
            return to_device(pixels, self.device), indices
        indices = self._indices(first, count)
        return pixels_to_device(self.read, indices, self.device), indices

    def varied(self, real: Tensor, step: int, inner: int) -> Tensor:
        """Return the images of D's inner-th step, flipped and moved at random as far as the settings say so."""
        settings, count = self._settings, self._settings.batch_size
        part = self._group.shard(count)
        if settings.horizontal_flip:
            draws = torch.rand(count, generator=generator_for(self._seed, "mirror", step, inner))
            real = horizontal_flip(real, draws[part])
        if settings.random_shift:
            draws = torch.rand(count, 2, generator=generator_for(self._seed, "shift", step, inner))
            real = random_shift(real, draws[part], settings.random_shift)
        return real

    def transform(self, step: int, of: str, inner: int = 0) -> Transform:
        """Return what D sees this process's share of a batch through at this step: of ``"real"`` images, or of G's."""
        settings, share = self._settings, self._group.shard
        # Of G's images, completions come first; a process has its share of these and of the samples.
        some = 0 if of == "real" else completions(settings)
        rows = torch.arange(settings.batch_size)
        here = torch.cat([part[share(len(part))] for part in (rows[:some], rows[some:])])
        generator = generator_for(self._seed, "augment", step, of, inner)
        return transform_for(
            settings.transforms,
            settings.diffaugment_probability,
            settings.batch_size,
            generator,
            rows=here,
        )

    def inputs(
        self, real: Tensor, indices: NDArray[np.int64], step: int, player: str, inner: int = 0
    ) -> tuple[Tensor, MaskedBatch | None]:
        """Return what G draws a batch from: prior samples and, where G is trained to complete, real images with holes."""
        settings, share = self._settings, self._group.shard
        count, some, holed = settings.batch_size, completions(settings), None
        if some:
            rows = np.flatnonzero(holed_rows(count, some, player)[share(count)])
            chosen = real[torch.from_numpy(rows).to(self.device)]
            holed = self.holed(chosen, indices[rows], step, player, inner)
        key = ("z", step, inner) if player == "discriminator" else ("z", step, player)
        count -= some
        z = sample_latents(settings.networks(), count, generator_for(self._seed, *key))
        return z[share(count)].to(self.device), holed

    def holed(self, real: Tensor, indices: NDArray[np.int64], *key: str | int) -> MaskedBatch:
        """Return real images with holes; see `Holes.make`."""
        assert self._holes is not None
        return self._holes.make(real, indices, self._seed, *key, group=self._group)

    def statistics(self, samples: int) -> Iterator[tuple[MaskedBatch, Tensor]]:
        """Yield 32 batches of 128, ``samples`` of them prior samples and the rest completions, always the same."""
        assert self._holes is not None
        count, settings = 128 - samples, self._settings
        order = Order(len(self._training), settings.seed)
        for batch in range(32):
            indices = self._training[order.positions(batch * count, count)]
            real = pixels_to_device(self.read, indices, self.device)
            generator = generator_for(settings.seed, "statistics", batch)
            z = sample_latents(settings.networks(), samples, generator).to(self.device)
            yield self._holes.make(real, indices, settings.seed, "statistics", batch), z

    def _indices(self, first: int, count: int) -> NDArray[np.int64]:
        positions = self._order.positions(first, count)
        return self._training[positions[self._group.shard(count)]]
