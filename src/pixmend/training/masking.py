"""The training data of the inpainter: real images with masks, and their nearest training images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.images import Pixels
from pixmend.models import (
    INPAINTER_LATENT,
    NEIGHBOURS,
    Evidence,
    Retrieval,
    gather_evidence,
)
from pixmend.models.inpainter import latents_of
from pixmend.rng import array_generator_for, generator_for
from pixmend.training.settings import TrainSettings

# Images that see images of their own group, themselves included: so it learns that what is equal is to be copied.
_OWN_SHARE = 0.1


@dataclass(frozen=True)
class MaskedBatch:
    """Real images with masks."""

    images: Tensor  # [N, C, S, S] in [-1, 1]
    evidence: Evidence
    latents: Tensor  # N(0, 1) draws for each image, [draws, N, INPAINTER_LATENT]


@dataclass(frozen=True)
class MaskSampler:
    """Makes a `MaskedBatch` of real images; masks, latents and neighbours are functions of a key.

    Neighbours are of other groups than their image, as no user's image is of a group that was trained on.
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

        The images are this process's share; masks and latents are drawn for all of ``group``.
        """
        count, device, settings = len(images) * group.world, images.device, self.settings
        share = group.shard(count)
        generator = generator_for(seed, "holes", *key)
        latents = _sample_latents(settings.inpainter_draws, count, generator)[:, share]
        known = sample_masks(count, settings.size, generator)[share].to(device)
        excluded = None
        if self.retrieval is not None:
            own = self.groups[indices][:, None] == self.groups[self.members][None]
            shown = torch.rand(count, generator=generator)[share] < _OWN_SHARE
            excluded = (torch.from_numpy(own) & ~shown[:, None]).to(device)
        evidence = gather_evidence(images, known, self.retrieval, excluded=excluded, exact=False)
        return MaskedBatch(images, evidence, latents.to(device))


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

    The kinds of hole: the centre; 10 to 95 % of the pixels at random; a random box; a random half;
    blobs such as strokes and stains, over 10 to 50 % of the pixels.
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


def _sample_latents(draws: int, count: int, generator: torch.Generator) -> Tensor:
    """Draw z [draws, count, INPAINTER_LATENT]; the draws of an image follow different neighbours as far as there are."""
    noise = torch.randn(draws, count, INPAINTER_LATENT - NEIGHBOURS, generator=generator)
    order = torch.rand(count, NEIGHBOURS, generator=generator).argsort(1)
    return latents_of(order[:, torch.arange(draws) % NEIGHBOURS].T, noise)


def _inside(positions: Tensor, start: Tensor, length: Tensor) -> Tensor:
    offset = positions - start[:, None, None]
    return (offset >= -0.5) & (offset < length[:, None, None] - 0.5)
