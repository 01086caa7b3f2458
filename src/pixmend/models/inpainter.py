"""The inpainter: completions of a masked image, in one pass, by its known pixels and its nearest training images.

    evidence --encode--> maps --estimate-> the mean of all plausible completions
                         maps --draw, z--> one of them

An image is a per-pixel mixture of what needs no training (the neighbours, the biharmonic fill) and of the inpainter's own colours. The
weights of neighbours begin by their distances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixmend.images import channel_count
from pixmend.models.alignment import align
from pixmend.models.retrieval import Retrieval
from pixmend.models.settings import DCGANSettings
from pixmend.models.smooth_fill import biharmonic_fill
from pixmend.rng import generator_for

NEIGHBOURS = 8  # retrieved training images that it sees
CANDIDATES = 24  # nearest before they are aligned, of which the nearest after that are seen
# Numbers in its z: first which neighbour a draw follows, then noise.
INPAINTER_LATENT = 32
_FOLLOWED = 2.0  # the number of the followed neighbour; those of the others are 0
# A neighbour's weight in the mixture falls with this power of its distance, at first; `FAR` counts as neither near nor far.
_TRUST, NEAR, FAR = 2.0, 0.01, 0.3
_FOLLOW = 1.5  # the logit of that neighbour is greater by this times the number, at first
_INNER_SIZE = 32  # largest maps, in pixels: those of a larger image are folded into more channels
_GROUPS = 8  # of group norm
_ALIGNED = 2**20  # values of candidates that are aligned together: more take memory
_ROWS = 128  # decoded together: more take memory and, out of a CPU's cache, time
# Rows of a batch are made a multiple of this. Matrix kernels work in blocks of rows and treat a last, partial block
# differently; with none, a row's arithmetic is the same in any batch, bit for bit (tests hold this on CPUs).
ROW_BLOCK = 8
_UNRELATED = 2.0  # distance of a neighbour where nothing is known: black from white
# Of a draw's squared distance from the estimate, beside its neighbour's from the known pixels.
HOLE_WEIGHT = 0.3
# Weights of the mixture are less by this, and at least 0: an image of one colour stays one, without a trace of others.
LEAST_WEIGHT = 0.05
# Latents are wider than in training, where the best of several draws is trained and z does less than it might.
_LATENT_SCALE = 1.5
_MIN_LOG_VARIANCE, _MAX_LOG_VARIANCE = -8.0, 2.0


@dataclass(frozen=True)
class Answer:
    """An answer to each of B images, [B, C, S, S] in [-1, 1], and the log variance of its pixels, [B, 1, S, S]."""

    images: Tensor
    log_variance: Tensor


@dataclass(frozen=True)
class Inpainted:
    """The estimate of B images, and K draws of each.

    The estimate, the mean of all plausible completions, has the least squared error, and blurs; a draw is sharp and errs more
    (Blau and Michaeli 2018).
    """

    estimate: Tensor  # [B, C, S, S] in [-1, 1]
    log_variance: Tensor  # of the estimate's pixels, [B, 1, S, S]
    draws: Tensor  # [B, K, C, S, S]
    misfits: Tensor  # squared differences of the neighbour that each draw follows, on the known pixels, [B, K]

    def order(self, known: Tensor) -> Tensor:
        """Return the draws of each image, best first, int64 [B, K]; ``known`` is [B, 1, S, S].

        A draw's expected squared error in the hole is its squared distance from the estimate, plus the variance, which is the
        same for all. Blurred draws would win by this alone, so how well a draw's neighbour fits counts more.
        """
        squared = (self.draws - self.estimate[:, None]).square() * (1 - known)[:, None]
        return torch.argsort(
            self.misfits + HOLE_WEIGHT * squared.flatten(2).sum(2), dim=1, stable=True
        )


@dataclass(frozen=True)
class Evidence:
    """What the inpainter sees of B images."""

    target: Tensor  # [B, C, S, S] in [-1, 1], 0 in the hole
    known: Tensor  # the known share [B, 1, S, S]
    neighbours: Tensor  # the nearest training images by known pixels, [B, K, C, S, S]
    distances: Tensor  # their root mean square distances, [B, K]
    fill: Tensor  # the biharmonic fill, [B, C, S, S]

    def misfits(self) -> Tensor:
        """Return the squared differences of the neighbours on the known pixels, [B, K]."""
        weight = self.known.flatten(1).sum(1, keepdim=True) * self.target.shape[1]
        return self.distances.square() * weight

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
    ``excluded``, bool [B, N], are images of the bank that must not be shown; ``exact`` is that of `Retrieval.nearest`.
    """
    shape = target.shape[1:]
    target = target.contiguous()  # of images in channels last, fills take half as long again
    # Conjugate gradients amplify rounding: float32 errs by up to 20 grey levels in a missing half. Training may.
    dtype = torch.float64 if exact else target.dtype
    fill = biharmonic_fill(target.to(dtype), known.to(dtype)).to(target.dtype)
    if retrieval is None or not len(retrieval):
        neighbours = target.new_zeros(len(target), 0, *shape)
        return Evidence(target * known, known, neighbours, target.new_zeros(len(target), 0), fill)
    neighbours, squared = _neighbours_of(target, known, retrieval, excluded, exact=exact)
    weight = known.flatten(1).double().sum(1, keepdim=True) * shape[0]
    distances = (squared / weight.clamp_min(1e-6)).sqrt().float()
    distances = torch.where(weight > 1e-6, distances, _UNRELATED)
    return Evidence(target * known, known, neighbours, distances, fill)


def _neighbours_of(
    target: Tensor, known: Tensor, retrieval: Retrieval, excluded: Tensor | None, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """Return the aligned neighbours, [B, K, C, S, S], and their squared differences on the known pixels, float64 [B, K]."""
    candidates = min(CANDIDATES, len(retrieval))
    numbers = retrieval.nearest(target, known, candidates, excluded=excluded, exact=exact)
    hidden = numbers < 0 if excluded is None else excluded.gather(1, numbers)
    count = min(NEIGHBOURS, candidates)
    rows = max(1, _ALIGNED // (candidates * target[0].numel()))
    parts = zip(
        *(torch.split(each, rows) for each in (numbers, target, known, hidden)), strict=True
    )
    aligned = [
        align(retrieval.images[of], images, masks, count, excluded=out, exact=exact)
        for of, images, masks, out in parts
    ]
    neighbours, squared = (torch.cat(each) for each in zip(*aligned, strict=True))
    # A bank of fewer images shows the farthest one again.
    places = torch.arange(NEIGHBOURS, device=numbers.device).clamp_max(count - 1)
    return neighbours[:, places], squared[:, places]


class Inpainter(nn.Module):
    """A U-Net (Ronneberger 2015) with two ways up: of the estimate, and of draws.

    Blocks of `fold` x `fold` pixels are folded into channels and back (Shi 2016, section 3.2), so that large images cost little
    more than small ones.
    """

    def __init__(self, settings: DCGANSettings) -> None:
        super().__init__()
        colours = channel_count(settings.channels)
        self.neighbours = NEIGHBOURS if settings.retrieval_images else 0
        self.fold = max(1, settings.size // _INNER_SIZE)
        narrow, inner = settings.inpainter_filters, settings.size // self.fold
        depth = inner.bit_length() - 2  # down to 4 pixels
        widths = [narrow * 2**level for level in range(depth)]  # from full size down
        # Masked image, fill, neighbours and mask; a plane of each distance.
        planes = colours * (2 + self.neighbours) + 1
        inputs = planes * self.fold**2 + self.neighbours
        self.downs = nn.ModuleList(
            _Block(before, after, 0) for before, after in pairwise([inputs, *widths])
        )
        outputs = (self.neighbours + 3 + colours) * self.fold**2
        self.estimator = _WayUp(widths, outputs, 0)
        self.drawer = _WayUp(widths, outputs, INPAINTER_LATENT)
        self.follow = nn.Parameter(torch.tensor(_FOLLOW))
        self.trust = nn.Parameter(torch.tensor(_TRUST))

    def encode(self, evidence: Evidence) -> list[Tensor]:
        """Return the maps of the way down, from full size to 4 pixels."""
        seen = [evidence.target, evidence.known * 2 - 1, evidence.neighbours.flatten(1, 2)]
        maps = F.pixel_unshuffle(torch.cat([*seen, evidence.fill], 1), self.fold)
        planes = evidence.distances[:, :, None, None].expand(-1, -1, *maps.shape[2:])
        skips = [self.downs[0](torch.cat([maps, planes], 1))]
        for down in self.downs[1:]:
            skips.append(down(F.avg_pool2d(skips[-1], 2)))
        return skips

    def estimate(self, maps: Sequence[Tensor], evidence: Evidence) -> Answer:
        """Return the mean of all plausible completions."""
        return self._mix(self.estimator(maps), evidence)

    def draw(self, begun: Sequence[Tensor], z: Tensor, evidence: Evidence) -> Tensor:
        """Return a draw of each image for z [B, INPAINTER_LATENT], [B, C, S, S], from ``drawer.begin(maps)``."""
        followed = self.follow * z[:, : self.neighbours, None, None]
        return self._mix(self.drawer.finish(begun, z), evidence, followed).images

    def _mix(self, output: Tensor, evidence: Evidence, followed: Tensor | float = 0.0) -> Answer:
        """Mix the neighbours, the biharmonic fill and own colours by a per-pixel softmax.

        ``followed`` is added to the neighbours' logits.
        """
        output = F.pixel_shuffle(output.float(), self.fold)
        experts = self.neighbours + 2
        closeness = -torch.log((evidence.distances + NEAR) / FAR)
        fits = followed + self.trust * closeness[:, :, None, None]
        logits = torch.cat(
            [output[:, : self.neighbours] + fits, output[:, self.neighbours : experts]], 1
        )
        weights = torch.softmax(logits, 1)[:, :, None]  # [B, experts, 1, S, S]
        if not self.training:
            weights = (weights - LEAST_WEIGHT).clamp_min(0)
            weights = weights / weights.sum(1, keepdim=True)
        colours = torch.tanh(output[:, experts:-1])
        images = torch.cat([evidence.experts(), colours[:, None]], 1)
        log_variance = output[:, -1:].clamp(_MIN_LOG_VARIANCE, _MAX_LOG_VARIANCE)
        return Answer((weights * images).sum(1), log_variance)


class _WayUp(nn.Module):
    """From the maps of the way down to the logits of experts; with a latent, modulated by z (FiLM, Perez 2018)."""

    def __init__(self, widths: Sequence[int], outputs: int, latent_dim: int) -> None:
        super().__init__()
        self.ups = nn.ModuleList(
            _Block(below + skip, skip, latent_dim)
            for below, skip in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.head = nn.Conv2d(widths[0], outputs, 3, padding=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the outputs at full size, without a latent."""
        return self.finish(self.begin(maps), None)

    def begin(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return the maps with the two deepest replaced by what is equal for all latents."""
        return [*maps[:-2], cast("_Block", self.ups[0]).begin(_joined(maps[-1], maps[-2]))]

    def finish(self, begun: Sequence[Tensor], z: Tensor | None) -> Tensor:
        """Return the outputs at full size."""
        maps = cast("_Block", self.ups[0]).finish(begun[-1], z)
        for up, skip in zip(self.ups[1:], begun[-2::-1], strict=True):
            maps = up(_joined(maps, skip), z)
        outputs: Tensor = self.head(maps)
        return outputs


def _joined(maps: Tensor, skip: Tensor) -> Tensor:
    """Return maps enlarged to the size of a skip connection, and these."""
    return torch.cat([F.interpolate(maps, scale_factor=2.0, mode="nearest"), skip], 1)


@torch.no_grad()
def inpaint(
    inpainter: Inpainter, retrieval: Retrieval | None, target: Tensor, known: Tensor, z: Tensor
) -> Inpainted:
    """Estimate images, and draw each for each z [K, INPAINTER_LATENT]; K may be 0.

    ``target`` is [B, C, S, S] in [-1, 1], ``known`` the known share [B, 1, S, S]. No answer depends on the rest of the batch.
    """
    answers, misfits = [], []
    followed = z[:, :NEIGHBOURS].argmax(1)
    size = max(1, _ROWS // (1 + len(z)))
    for images, masks in zip(torch.split(target, _ROWS), torch.split(known, _ROWS), strict=True):
        # One look-up for many images: it reads the whole bank.
        evidence = gather_evidence(images, masks, retrieval)
        fits = evidence.misfits()
        misfits.append(fits[:, followed] if fits.shape[1] else fits.new_zeros(len(fits), len(z)))
        for numbers in torch.split(torch.arange(len(images), device=target.device), size):
            part = evidence.take(whole_blocks(numbers))
            answers.append(_answer(inpainter, part, z, len(numbers)))
    estimate, log_variance, draws = (torch.cat(parts) for parts in zip(*answers, strict=True))
    return Inpainted(estimate, log_variance, draws, torch.cat(misfits))


def _answer(
    inpainter: Inpainter, evidence: Evidence, z: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the fields of `Inpainted` for the first ``count`` rows of the evidence, which has whole blocks of rows."""
    draws = len(z)
    maps = inpainter.encode(evidence)
    estimate = inpainter.estimate(maps, evidence)
    images = evidence.target.new_zeros(count, draws, *evidence.target.shape[1:])
    if draws:
        rows = whole_blocks(torch.arange(count, device=z.device).repeat_interleave(draws))
        latents = z.repeat(-(-len(rows) // draws), 1)[: len(rows)]
        begun = [each[rows] for each in inpainter.drawer.begin(maps)]
        drawn = inpainter.draw(begun, latents, evidence.take(rows))
        images = drawn[: count * draws].view_as(images)
    return estimate.images[:count], estimate.log_variance[:count], images


def inpainter_latents(draws: int, *, seed: int) -> Tensor:
    """Return z [draws, INPAINTER_LATENT]: each draw follows the next neighbour, with noise that is uniform on a sphere.

    Draw i is equal for any number of draws.
    """
    noise = torch.empty(draws, INPAINTER_LATENT - NEIGHBOURS)
    for draw, z in enumerate(noise):
        z.normal_(generator=generator_for(seed, "posterior", draw))
    noise = F.normalize(noise, dim=1) * (_LATENT_SCALE * noise.shape[1] ** 0.5)
    return latents_of(torch.arange(draws) % NEIGHBOURS, noise)


def latents_of(followed: Tensor, noise: Tensor) -> Tensor:
    """Return z [..., INPAINTER_LATENT] of draws that follow these neighbours, int64 [...], with noise [..., L]."""
    return torch.cat([_FOLLOWED * F.one_hot(followed, NEIGHBOURS), noise], -1)


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
        return self.finish(self.begin(maps), z)

    def begin(self, maps: Tensor) -> Tensor:
        """Return what does not depend on z."""
        return F.silu(self.first_norm(self.first(maps)))

    def finish(self, maps: Tensor, z: Tensor | None) -> Tensor:
        maps = self.second_norm(self.second(maps))
        if self.modulate is not None and z is not None:
            scale, shift = self.modulate(z)[:, :, None, None].chunk(2, 1)
            maps = maps * (1 + scale) + shift
        return F.silu(maps)


def initialise_he(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of convolutions and linear layers (He et al. 2015, equation 14), the latter's an eighth of the variance."""
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                gain = 2.0 if isinstance(part, nn.Conv2d) else 0.25  # z modulates gently at first
                deviation = (gain / part.weight[0].numel()) ** 0.5
                part.weight.normal_(0, deviation, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()


def initialise_inpainter(inpainter: Inpainter, generator: torch.Generator) -> None:
    """Draw weights; the image begins at neighbours that are near or, without any, at the biharmonic fill."""
    initialise_he(inpainter, generator)
    with torch.no_grad():
        experts, folded = inpainter.neighbours + 2, inpainter.fold**2
        head = inpainter.estimator.head
        assert head.bias is not None
        weights = head.weight.view(-1, folded, *head.weight.shape[1:])
        biases = head.bias.view(-1, folded)
        first = {**dict.fromkeys(range(experts), 0), 0: 1, experts - 1: -1, -1: -2}
        for row, value in first.items():
            weights[row], biases[row] = 0, value
    follow_estimator(inpainter)


@torch.no_grad()
def follow_estimator(inpainter: Inpainter) -> None:
    """Give the drawer the estimator's weights, apart from what z does."""
    inpainter.drawer.load_state_dict(inpainter.estimator.state_dict(), strict=False)
