"""Where searches start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pixmend.completion.objective import Objective
from pixmend.models import (
    DCGAN,
    DCGANSettings,
    Encoding,
    encode,
    join_encodings,
    sample_latents,
)
from pixmend.rng import generator_for

_PART = 64  # draws looked at together: at 256 px a whole bank would take gigabytes
_STEEPNESS = 4.0  # of the fall of a neighbour's weight with its distance; by measurement (docs/benchmarks.md)


Draw = Literal["uniform", "normal", "clamped normal"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """Starts that the encoder gives, row by row.

    Attributes
    ----------
    z
        [N, latent_dim].
    encoding
        All that E makes of the rows' images.
    log_weight
        How much each row counts among the answers to its image: the logarithm, but for a constant, [N].
    """

    z: Tensor
    encoding: Encoding
    log_weight: Tensor

    def take(self, rows: Tensor) -> "Encoded":
        """Return the starts numbered ``rows`` [N]."""
        return Encoded(self.z[rows], self.encoding.take(rows), self.log_weight[rows])

    @classmethod
    def join(cls, parts: "Sequence[Encoded]") -> "Encoded":
        """Return the starts of several batches as those of one."""
        return cls(
            torch.cat([each.z for each in parts]),
            join_encodings([each.encoding for each in parts]),
            torch.cat([each.log_weight for each in parts]),
        )


def drawn_starts(
    settings: DCGANSettings, lanes: int, draw: Draw = "uniform", *, seed: int
) -> Tensor:
    """Draw ``lanes`` starts from U(-1, 1), N(0, 1), or N(0, 1) clamped to [-1, 1], whatever the model's own prior is.

    Returns
    -------
    Tensor
        [lanes, latent_dim]; lane i is the same for every image and any number of lanes.
    """
    size, draws = settings.latent_dim, []
    for lane in range(lanes):
        generator = generator_for(seed, "start", lane)
        if draw == "uniform":
            draws.append(torch.rand(size, generator=generator) * 2 - 1)
        else:
            draws.append(torch.randn(size, generator=generator))
    starts = torch.stack(draws)
    return starts.clamp(-1, 1) if draw == "clamped normal" else starts


@torch.no_grad()
def best_of_pool(
    objective: Objective,
    settings: DCGANSettings,
    lanes: int,
    *,
    bank: int,
    seed: int,
    clip: float = math.inf,
) -> Tensor:
    """Return, for each image, the ``lanes`` latents of the least objective among ``bank`` draws from the prior, |z_i| at most ``clip``.

    The bank is drawn once for all images: an image's starts do not depend on its batch mates.

    Returns
    -------
    Tensor
        [B, lanes, latent_dim], best first.
    """
    device = objective.target.device
    latents = sample_latents(settings, bank, generator_for(seed, "bank")).to(device)
    latents = latents.clamp(-clip, clip)
    totals = []
    for part in torch.split(latents, _PART):
        images = objective.generator(part)  # [N, C, H, W]
        prior = objective.prior(images)  # [N]
        contextual = [
            objective.contextual(images, target[None], weights[None])
            for target, weights in zip(objective.target, objective.weights, strict=True)
        ]  # B x [N]
        total = (
            objective.contextual_weight * torch.stack(contextual)
            + objective.lambda_perceptual * prior
        )
        for term, weight in objective.terms:
            total = total + weight * torch.stack(
                [
                    term(objective.take(row.expand(len(part))), part, images)
                    for row in torch.arange(len(total), device=device)
                ]
            )
        totals.append(total)
    order = torch.argsort(torch.cat(totals, 1), dim=1, stable=True)  # [B, bank]
    return latents[order[:, :lanes]]


@torch.no_grad()
def encoded_starts(
    model: DCGAN, target: Tensor, known: Tensor, rows: Tensor, lanes: int, *, seed: int
) -> Encoded:
    """Return for each row the encoder's z and all it makes of image rows[i] as seen in lane i mod ``lanes``.

    With a memory each lane leans on another of the nearest training images, and counts exp(-4 d / d_1), with d the squared distance of
    that image's known pixels and d_1 the nearest one's (kernel regression, Nadaraya 1964, with the kernel as wide as the data
    lie apart there). z is the posterior's mean while there are images to
    lean on (one, where there is no memory), and in the lanes beyond a draw.

    Parameters
    ----------
    target, known
        [B, C, S, S] in [-1, 1] and [B, 1, S, S].
    rows
        Numbers of images, [N].
    """
    numbers = torch.arange(len(rows), device=rows.device) % lanes
    neighbour, count = None, 1
    log_weight = target.new_zeros(len(rows))
    if model.retrieval is not None:
        count = min(lanes, len(model.retrieval))
        nearest = model.retrieval.nearest(target, known, count)  # [B, count]
        neighbour = model.retrieval.take(nearest[rows, numbers % count])
        far = _apart(neighbour, target[rows], known[rows])
        least = _apart(model.retrieval.take(nearest[:, 0]), target, known)
        log_weight = (-_STEEPNESS * far / least.clamp_min(1e-6)[rows]).float()
    encoding = encode(model, target[rows], known[rows], neighbour)
    size = model.settings.latent_dim
    draws = [
        torch.randn(size, generator=generator_for(seed, "posterior", lane))
        if lane >= count
        else torch.zeros(size)
        for lane in range(lanes)
    ]
    z = encoding.draw(torch.stack(draws).to(rows.device)[numbers])
    return Encoded(z, encoding, log_weight)


def _apart(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return the squared distances over known pixels, [B]; in float64, so that no batch mate can matter."""
    return (known * (images - target).double().square()).flatten(1).sum(1)
