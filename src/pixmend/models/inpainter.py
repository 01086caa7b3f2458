"""The inpainter: from a masked image and its nearest training images to completions, in one pass.

    evidence --encode--> maps --decode, z--> per-pixel weights of experts, and colours of its own --> image

Its image is a per-pixel mixture of what needs no training (the retrieved neighbours, the harmonic fill) and of its own colours. The
weights begin mostly at the nearest neighbour. Another z gives another plausible completion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models.harmonic import harmonic_fill
from pixmend.models.retrieval import Retrieval
from pixmend.models.settings import DCGANSettings
from pixmend.rng import generator_for

NEIGHBOURS = 4  # retrieved training images that it sees
INPAINTER_LATENT = 32  # numbers in its z
_GROUPS = 8  # of group norm
_ROWS = 128  # decoded together: more take memory and, out of a CPU's cache, time
# Rows of a batch are made a multiple of this. Matrix kernels work in blocks of rows and treat a last, partial block
# differently; with none, a row's arithmetic is the same in any batch, bit for bit (tests hold this on CPUs).
ROW_BLOCK = 8
_UNRELATED = 2.0  # distance of a neighbour where nothing is known: black from white
_MIN_LOG_VARIANCE, _MAX_LOG_VARIANCE = -8.0, 2.0


@dataclass(frozen=True)
class PixelPosterior:
    """A normal distribution of each missing pixel.

    Attributes
    ----------
    mean
        [B, C, S, S] in [-1, 1].
    log_variance
        Mean over the channels, [B, 1, S, S].
    """

    mean: Tensor
    log_variance: Tensor

    def take(self, rows: Tensor) -> "PixelPosterior":
        """Return row numbers ``rows`` [N]."""
        return PixelPosterior(self.mean[rows], self.log_variance[rows])


@dataclass(frozen=True)
class Evidence:
    """What the inpainter sees of B images.

    Attributes
    ----------
    target, known
        [B, C, S, S] in [-1, 1], 0 in the hole, and the known share [B, 1, S, S].
    neighbours, distances
        The nearest training images by known pixels, [B, K, C, S, S], and their root mean square distances, [B, K].
    fill
        The harmonic fill, [B, C, S, S].
    """

    target: Tensor
    known: Tensor
    neighbours: Tensor
    distances: Tensor
    fill: Tensor

    def experts(self) -> Tensor:
        """Return the images that need no training, [B, K + 1, C, S, S]."""
        return torch.cat([self.neighbours, self.fill[:, None]], 1)

    def take(self, rows: Tensor) -> "Evidence":
        """Return row numbers ``rows`` [N]."""
        return Evidence(
            self.target[rows],
            self.known[rows],
            self.neighbours[rows],
            self.distances[rows],
            self.fill[rows],
        )


def gather_evidence(
    target: Tensor,
    known: Tensor,
    retrieval: Retrieval | None,
    *,
    excluded: Tensor | None = None,
    exact: bool = True,
) -> Evidence:
    """Look up the neighbours of images [B, C, S, S] in [-1, 1] by their known share [B, 1, S, S], and fill their holes.

    Training and completion both come here: the inpainter must see neighbours by the law it was trained with.

    Parameters
    ----------
    excluded
        Images of the bank that must not be shown, bool [B, N].
    exact
        See `Retrieval.nearest`.
    """
    count = 0 if retrieval is None else min(NEIGHBOURS, len(retrieval))
    shape = target.shape[1:]
    if retrieval is None or not count:
        neighbours = target.new_zeros(len(target), 0, *shape)
        return Evidence(
            target * known,
            known,
            neighbours,
            target.new_zeros(len(target), 0),
            harmonic_fill(target, known),
        )
    numbers = retrieval.nearest(target, known, count, excluded=excluded, exact=exact)
    # A bank of fewer images shows the farthest one again.
    numbers = numbers[:, torch.arange(NEIGHBOURS, device=numbers.device).clamp_max(count - 1)]
    neighbours = retrieval.take(numbers.flatten()).view(*numbers.shape, *shape)
    squared = (known[:, None] * (neighbours - target[:, None]).square()).flatten(2).double().sum(2)
    weight = known.flatten(1).double().sum(1, keepdim=True) * shape[0]
    distances = (squared / weight.clamp_min(1e-6)).sqrt().float()
    distances = torch.where(weight > 1e-6, distances, _UNRELATED)
    return Evidence(target * known, known, neighbours, distances, harmonic_fill(target, known))


class Inpainter(nn.Module):
    """A U-Net (Ronneberger 2015) with group norm, its way up modulated by z (FiLM, Perez 2018).

    The output is a per-pixel softmax over experts: K neighbours, the harmonic fill and its own colours.
    """

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        colours = channel_count(settings.channels)
        self.neighbours = NEIGHBOURS if settings.retrieval_images else 0
        narrow = settings.inpainter_filters
        depth = (settings.size // settings.start).bit_length()
        widths = [narrow * min(2**level, 4) for level in range(depth)]  # from full size down
        # Masked image, fill and neighbours; mask; a plane of each distance.
        inputs = colours * (2 + self.neighbours) + 1 + self.neighbours
        self.downs = nn.ModuleList(
            _Block(before, after, 0) for before, after in pairwise([inputs, *widths[:-1]])
        )
        self.bottom = _Block(widths[-2], widths[-1], INPAINTER_LATENT)
        self.ups = nn.ModuleList(
            _Block(below + skip, skip, INPAINTER_LATENT)
            for below, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(narrow, self.neighbours + 2 + colours + 1, 3, padding=1)

    def encode(self, evidence: Evidence) -> list[Tensor]:
        """Return the maps of the way down, from full size to `start` pixels."""
        size = evidence.target.shape[-1]
        planes = evidence.distances[:, :, None, None].expand(-1, -1, size, size)
        seen = [evidence.target, evidence.known * 2 - 1, evidence.neighbours.flatten(1, 2), planes]
        maps = torch.cat([*seen, evidence.fill], 1)
        skips = []
        for down in self.downs:
            maps = down(maps)
            skips.append(maps)
            maps = F.avg_pool2d(maps, 2)
        return [*skips, maps]

    def decode(self, maps: Sequence[Tensor], z: Tensor, evidence: Evidence) -> PixelPosterior:
        """Return completions of images for z [B, INPAINTER_LATENT], and how far each pixel may be off."""
        up_maps = self.bottom(maps[-1], z)
        for up, skip in zip(self.ups, maps[-2::-1], strict=True):
            enlarged = F.interpolate(up_maps, scale_factor=2.0, mode="nearest")
            up_maps = up(torch.cat([enlarged, skip], 1), z)
        output = self.head(up_maps).float()
        experts = self.neighbours + 2
        weights = torch.softmax(output[:, :experts], 1)[:, :, None]  # [B, experts, 1, S, S]
        colours = torch.tanh(output[:, experts:-1])
        images = torch.cat([evidence.experts(), colours[:, None]], 1)
        log_variance = output[:, -1:].clamp(_MIN_LOG_VARIANCE, _MAX_LOG_VARIANCE)
        return PixelPosterior((weights * images).sum(1), log_variance)


@torch.no_grad()
def inpaint(
    inpainter: Inpainter, retrieval: Retrieval | None, target: Tensor, known: Tensor, z: Tensor
) -> PixelPosterior:
    """Complete each image for each z [K, INPAINTER_LATENT]; answers are laid out as image x draw, [B * K, ...].

    ``target`` is [B, C, S, S] in [-1, 1], ``known`` the known share [B, 1, S, S]. No answer depends on the rest of the batch.
    """
    draws, answers = len(z), []
    size = max(1, _ROWS // draws)
    for images, masks in zip(torch.split(target, size), torch.split(known, size), strict=True):
        numbers = torch.arange(len(images), device=target.device)
        evidence = gather_evidence(images, masks, retrieval).take(whole_blocks(numbers))
        maps = inpainter.encode(evidence)
        rows = whole_blocks(numbers.repeat_interleave(draws))
        latents = z.repeat(-(-len(rows) // draws), 1)[: len(rows)]
        answer = inpainter.decode([each[rows] for each in maps], latents, evidence.take(rows))
        answers.append(answer.take(torch.arange(len(images) * draws, device=target.device)))
    means = torch.cat([each.mean for each in answers])
    return PixelPosterior(means, torch.cat([each.log_variance for each in answers]))


def moments(images: Tensor, log_variance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean [B, C, S, S] of answers [B, K, C, S, S], and the variance of its pixels [B, 1, S, S].

    The mean has the least squared error, and blurs; a draw is sharp and errs more (Blau and Michaeli 2018). The variance is that
    between the answers, plus the mean of their own, ``log_variance`` [B, K, 1, S, S] (law of total variance).
    """
    mean = images.mean(1)
    variance = (images - mean[:, None]).square().mean(1).mean(1, keepdim=True)
    if log_variance is not None:
        variance = variance + log_variance.exp().mean(1)
    return mean, variance


def inpainter_latents(draws: int, *, seed: int) -> Tensor:
    """Draw z [draws, INPAINTER_LATENT] from N(0, I); draw i is equal for any number of draws."""
    return torch.stack(
        [
            torch.randn(INPAINTER_LATENT, generator=generator_for(seed, "posterior", draw))
            for draw in range(draws)
        ]
    )


def whole_blocks(rows: Tensor) -> Tensor:
    """Return row numbers [N], the first repeated until they fill whole blocks of `ROW_BLOCK`."""
    return torch.cat([rows, rows[:1].expand(-len(rows) % ROW_BLOCK)])


class _Block(nn.Module):
    """Two 3 x 3 convolutions with group norm and SiLU; with a latent, the second norm's maps are scaled and shifted by it."""

    def __init__(self, inputs: int, width: int, latent_dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, width, 3, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(_GROUPS, width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(_GROUPS, width)
        self.modulate = nn.Linear(latent_dim, 2 * width) if latent_dim else None

    def forward(self, maps: Tensor, z: Tensor | None = None) -> Tensor:
        maps = F.silu(self.first_norm(self.first(maps)))
        maps = self.second_norm(self.second(maps))
        if self.modulate is not None:
            scale, shift = self.modulate(z)[:, :, None, None].chunk(2, 1)
            maps = maps * (1 + scale) + shift
        return F.silu(maps)


def initialise_inpainter(inpainter: Inpainter, generator: torch.Generator) -> None:
    """Draw weights (He et al. 2015, equation 14); the image begins at the nearest neighbour or, without a bank, at the harmonic fill."""
    with torch.no_grad():
        for part in inpainter.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan_in = part.weight[0].numel()
                gain = 2.0 if isinstance(part, nn.Conv2d) else 0.25  # z modulates gently at first
                part.weight.normal_(0, (gain / fan_in) ** 0.5, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
        experts = inpainter.neighbours + 2
        inpainter.head.weight[:experts].zero_()
        inpainter.head.weight[-1].zero_()
        bias = inpainter.head.bias
        assert bias is not None
        bias[0], bias[experts - 1], bias[-1] = 1, -1, -2
