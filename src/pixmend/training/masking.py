"""Inversion-aware training: real images with masks, and their completions by E and G.

Part of each batch of G are completions, with z from E's posterior and G conditioned on E's maps.
The rest are prior samples. D judges both alike, so G stays a generator of the domain while E learns
to invert it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.images import Pixels
from pixmend.models import Encoder, Encoding, Generator, Retrieval
from pixmend.rng import array_generator_for, generator_for
from pixmend.training.settings import TrainSettings

_MAX_COMPARED = 4096  # retrieval images that a training batch is compared with


@dataclass(frozen=True)
class MaskedBatch:
    """Real images with masks."""

    images: Tensor  # [N, C, S, S] in [-1, 1]
    known: Tensor  # [N, 1, S, S], 1 = known
    neighbour: Tensor | None  # the training image nearest on the known pixels, [N, C, S, S]
    noise: Tensor  # N(0, 1) noise of the latent draw, [N, latent_dim]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Generated:
    """A batch of G: completions of the N ``masked`` images, if any, before M prior samples."""

    images: Tensor  # [N + M, C, S, S]
    masked: MaskedBatch | None = None
    encoding: Encoding | None = None  # of the masked images

    @property
    def completions(self) -> int:
        """Number of completions."""
        return 0 if self.masked is None else len(self.masked)

    def exact(self) -> "Generated":
        """Return the batch in float32, for the losses."""
        encoding = None if self.encoding is None else self.encoding.exact()
        return Generated(self.images.float(), self.masked, encoding)


def generate(
    generator: Generator, encoder: Encoder | None, masked: MaskedBatch | None, z: Tensor
) -> Generated:
    """Complete the ``masked`` images, if any, and sample at the latents ``z`` [M, latent_dim].

    One pass of G for both: its batch norm statistics are those of the mixture.
    """
    if masked is None:
        return Generated(generator(z))
    assert encoder is not None
    encoding = encoder(masked.images, masked.known, masked.neighbour)
    latents = torch.cat([encoding.draw(masked.noise), z])
    return Generated(generator(latents, encoding.condition), masked, encoding)


@dataclass(frozen=True)
class MaskSampler:
    """Makes a `MaskedBatch` of real images; masks, noise and neighbours are functions of a key.

    A neighbour is of another group than its image, as no user's image is of a group that was
    trained on; where there is none, it is mid-grey.
    """

    settings: TrainSettings
    groups: NDArray[np.int64]  # group numbers of all records
    retrieval: Retrieval | None
    members: NDArray[np.int64]  # indices of the retrieval images among the records

    def mask(
        self,
        images: Tensor,
        indices: NDArray[np.int64],
        seed: int,
        *key: str | int,
        group: Group = SINGLE_PROCESS,
    ) -> MaskedBatch:
        """Mask ``images`` [N, C, S, S], the records ``indices``.

        The images are this process's share; masks and noise are drawn for all of ``group``.
        """
        count, device = len(images) * group.world, images.device
        share = group.shard(count)
        generator = generator_for(seed, "holes", *key)
        noise = torch.randn(count, self.settings.latent_dim, generator=generator)[share].to(device)
        known = sample_masks(count, self.settings.size, generator)[share].to(device)
        if self.retrieval is None:
            return MaskedBatch(images, known, None, noise)
        choice = array_generator_for(seed, "neighbours", *key).choice
        size = min(_MAX_COMPARED, max(1, len(self.retrieval) // 2))
        rows = choice(len(self.retrieval), size, replace=False)
        candidates = Retrieval(self.retrieval.images[torch.from_numpy(rows).to(device)])
        groups = self.groups[indices][:, None], self.groups[self.members[rows]][None]
        others = torch.from_numpy(groups[0] != groups[1]).to(device)
        distances = candidates.distances(images, known, exact=False)
        distances.masked_fill_(~others, float("inf"))
        neighbours = candidates.take(distances.argmin(1)) * others.any(1)[:, None, None, None]
        return MaskedBatch(images, known, neighbours, noise)


def masked_rows(count: int, masked: int, player: str) -> NDArray[np.bool_]:
    """Return which of ``count`` images are masked in the player's step, [count].

    They are evenly spread: each of w contiguous shares has equally many if w divides both numbers.
    G's rows mirror D's: at half of an even batch they are disjoint, so D has not just seen the
    images that it judges.
    """
    ends = np.arange(count + 1) * masked // count
    rows = np.diff(ends) > 0
    return rows if player == "discriminator" else rows[::-1].copy()


def choose_retrieval(
    settings: TrainSettings,
    count: int,
    read: Callable[[Sequence[int] | NDArray[np.int64]], Pixels],
    device: torch.device,
) -> tuple[Retrieval | None, NDArray[np.int64]]:
    """Choose retrieval images among ``count`` training images; return them and their numbers."""
    if not settings.retrieval_images:
        return None, np.empty(0, np.int64)
    order = array_generator_for(settings.seed, "memory").permutation(count)
    members = np.sort(order[: settings.retrieval_images]).astype(np.int64)
    pixels = torch.from_numpy(np.ascontiguousarray(read(members))).to(device)
    return Retrieval(pixels.permute(0, 3, 1, 2).contiguous()), members


def sample_masks(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Sample masks, float [count, 1, size, size], 1 = known; mask i is of kind i mod 5.

    The kinds of hole: the centre; random 10 to 95 % of the pixels; a random box; a random half;
    blobs over 10 to 50 % of the pixels, like strokes and stains.
    """
    uniform = torch.rand(count, 5, generator=generator)
    noise = torch.rand(count, size, size, generator=generator)
    coarse = torch.rand(count, 1, 3 + size // 8, 3 + size // 8, generator=generator)
    rows, columns = torch.arange(size)[None, :, None], torch.arange(size)[None, None, :]
    share = uniform[:, 0, None, None]
    scattered = noise < 0.1 + 0.85 * share
    box_height = (0.2 + 0.6 * uniform[:, 1]) * size
    box_width = (0.2 + 0.6 * uniform[:, 2]) * size
    top, left = uniform[:, 3] * (size - box_height), uniform[:, 4] * (size - box_width)
    box = _inside(rows, top, box_height) & _inside(columns, left, box_width)
    middle = torch.full((count,), size / 4), torch.full((count,), size / 2)
    centre = _inside(rows, *middle) & _inside(columns, *middle)
    side = (uniform[:, 1] * 4).long()[:, None, None]
    across, half = torch.where(side % 2 == 0, rows, columns), size // 2
    halves = torch.where(side < 2, across < half, across >= half)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")[:, 0]
    ordered = smooth.flatten(1).sort(1).values  # [count, size * size]
    threshold = ordered.gather(1, ((0.1 + 0.4 * share[:, 0]) * size**2).long())
    blobs = smooth < threshold[:, :, None]
    holes = torch.stack([centre, scattered, box, halves, blobs])  # [5, count, size, size]
    number = torch.arange(count)
    return (~holes[number % 5, number]).float()[:, None]


def _inside(positions: Tensor, start: Tensor, length: Tensor) -> Tensor:
    offset = positions - start[:, None, None]
    return (offset >= -0.5) & (offset < length[:, None, None] - 0.5)
