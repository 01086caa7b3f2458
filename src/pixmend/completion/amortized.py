"""The amortized estimator: one pass of the encoder and G for each retrieved neighbour."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pixmend.completion.finetune import finetuned_encoder
from pixmend.completion.methods import Method
from pixmend.completion.objective import Objective
from pixmend.completion.observer import Observer
from pixmend.completion.result import Samples, moments
from pixmend.completion.solvers import whole_blocks
from pixmend.completion.task import CompletionOptions
from pixmend.models import DCGAN, Condition, Encoding, encode, join_encodings
from pixmend.rng import generator_for

_ROWS = 128  # encoded together: more take memory and, out of a CPU's cache, time
_CONSENSUS = 0.1  # weight of a missing pixel's distance from the mean answer; by measurement
# Fall of a neighbour's weight with its distance; by measurement (docs/experiments.md)
_STEEPNESS = 4.0


def amortized(
    model: DCGAN, target: Tensor, known: Tensor, options: CompletionOptions, observer: Observer
) -> Samples:
    """Complete images [B, C, S, S] in [-1, 1], of which ``known`` [B, 1, S, S] is the known share, without a search."""
    method, count = options.method, len(target)
    draws = max(method.restarts, options.candidates)
    inferred = encode_with_neighbours(model, target, known, draws, options, observer)
    rows = whole_blocks(torch.arange(count, device=target.device).repeat_interleave(draws))
    condition = inferred.encoding.condition
    objective = method.objective(model, target[rows], known[rows], condition)
    images = generate(model, inferred.z, condition, torch.arange(len(rows), device=rows.device))
    with torch.no_grad():
        losses = objective.of_images(images, inferred.z)
    table = torch.stack(losses.parts(), -1)[: count * draws].view(count, draws, 3)
    images = images[: count * draws].view(count, draws, *images.shape[1:])
    least, best = table[..., 0].min(1)
    first = images[torch.arange(count, device=best.device), best]
    observer.on_step(0, least.tolist(), lambda: first)
    return Samples(
        images,
        inferred.z[: count * draws].view(count, draws, -1),
        table,
        order=torch.arange(draws, device=images.device).expand(count, draws),
        log_weights=inferred.log_weights[: count * draws].view(count, draws),
        posterior=inferred.encoding.pixel_posterior,
        history=least[None],
        steps=[0] * count,
        snapshots={0: first} if 0 in observer.snapshots else {},
    )


@dataclass(frozen=True, eq=False)
class Inferred:
    """Latents inferred by the encoder, row by row.

    Attributes
    ----------
    z
        [N, latent_dim].
    encoding
        The encoder's whole output.
    log_weights
        Log weight of each row among the answers to its image, up to a constant, [N].
    """

    z: Tensor
    encoding: Encoding
    log_weights: Tensor

    def take(self, rows: Tensor) -> "Inferred":
        """Return row numbers ``rows`` [N]."""
        return Inferred(self.z[rows], self.encoding.take(rows), self.log_weights[rows])

    @classmethod
    def join(cls, parts: "Sequence[Inferred]") -> "Inferred":
        """Concatenate the rows of several batches."""
        return cls(
            torch.cat([each.z for each in parts]),
            join_encodings([each.encoding for each in parts]),
            torch.cat([each.log_weights for each in parts]),
        )


def encode_with_neighbours(
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    draws: int,
    options: CompletionOptions,
    observer: Observer,
) -> Inferred:
    """Encode each image with several neighbours; return the best ``draws`` rows an image, then spare rows up to whole blocks.

    With ``method.finetune`` each image has an encoder of its own: see `finetuned_encoder`.
    """
    method = options.method
    neighbours = 0 if model.retrieval is None else min(method.neighbours, len(model.retrieval))
    pool = max(neighbours, draws)
    # The order of rows matters unless all of them are averaged; ranking costs a pass of G.
    ranked = options.answer == "sharp" or options.candidates > 1
    rank = neighbours > draws or (neighbours > 1 and ranked)
    parts = []
    batch = 1 if method.finetune else max(1, _ROWS // pool)
    for images, masks in zip(torch.split(target, batch), torch.split(known, batch), strict=True):
        own = model
        if method.finetune:
            encoder = finetuned_encoder(
                model,
                images,
                masks,
                steps=method.finetune,
                seed=options.seed,
                should_stop=observer.out_of_time,
            )
            own = replace(model, encoder=encoder)
        parts.append(_encode_best(method, own, images, masks, draws, pool, options.seed, rank=rank))
    inferred = Inferred.join(parts)
    return inferred.take(whole_blocks(torch.arange(len(inferred.z), device=inferred.z.device)))


def _encode_best(
    method: Method,
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    draws: int,
    pool: int,
    seed: int,
    *,
    rank: bool,
) -> Inferred:
    """Return the best (or first) ``draws`` of ``pool`` rows an image."""
    count = len(target)
    rows = whole_blocks(torch.arange(count, device=target.device).repeat_interleave(pool))
    inferred = encode_rows(model, target, known, rows, pool, seed=seed)
    chosen = torch.arange(count * draws, device=rows.device)
    if rank:
        condition = inferred.encoding.condition
        objective = method.objective(model, target[rows], known[rows], condition)
        chosen = rank_by_consensus(objective, inferred, count, pool)[:, :draws].flatten()
    return inferred.take(chosen)


@torch.no_grad()
def encode_rows(
    model: DCGAN, target: Tensor, known: Tensor, rows: Tensor, draws: int, *, seed: int
) -> Inferred:
    """Encode image rows[i] with neighbour i mod ``draws``.

    A neighbour's answer weighs exp(-4 d / d_1), with d its squared distance over the known pixels and d_1 the nearest one's (kernel
    regression, Nadaraya 1964, the kernel as wide as the data are apart). z is the posterior's mean; draws beyond the
    number of neighbours (one, without a bank) are samples of the posterior.

    Parameters
    ----------
    target, known
        [B, C, S, S] in [-1, 1] and [B, 1, S, S].
    rows
        Image numbers, [N].
    """
    numbers = torch.arange(len(rows), device=rows.device) % draws
    neighbour, count = None, 1
    log_weights = target.new_zeros(len(rows))
    if model.retrieval is not None:
        count = min(draws, len(model.retrieval))
        nearest = model.retrieval.nearest(target, known, count)  # [B, count]
        neighbour = model.retrieval.take(nearest[rows, numbers % count])
        distance = _squared_distance(neighbour, target[rows], known[rows])
        least = _squared_distance(model.retrieval.take(nearest[:, 0]), target, known)
        log_weights = (-_STEEPNESS * distance / least.clamp_min(1e-6)[rows]).float()
    encoding = encode(model, target[rows], known[rows], neighbour)
    size = model.settings.latent_dim
    noise = [
        torch.randn(size, generator=generator_for(seed, "posterior", draw))
        if draw >= count
        else torch.zeros(size)
        for draw in range(draws)
    ]
    z = encoding.draw(torch.stack(noise).to(rows.device)[numbers])
    return Inferred(z, encoding, log_weights)


@torch.no_grad()
def rank_by_consensus(objective: Objective, inferred: Inferred, count: int, draws: int) -> Tensor:
    """Return the row numbers of each image's ``draws`` answers, best first, int64 [B, draws].

    The score is the objective plus a tenth of the L1 distance, over missing pixels, from the weighted mean of all answers: the draw
    nearest to the others that fit (minimum Bayes risk, Kumar and Byrne 2004, equation 1).

    Parameters
    ----------
    objective, inferred
        Of all rows, laid out as ``count`` images x draw, then spare ones.
    """
    images = objective.draw(inferred.z)
    rows = torch.arange(count * draws, device=images.device).view(count, draws)
    answers = images[: count * draws].view(count, draws, *images.shape[1:])
    log_weights = inferred.log_weights[: count * draws].view(count, draws)
    mean, _ = moments(answers, inferred.encoding.pixel_posterior, log_weights)
    missing = 1 - objective.known[: count * draws].view(count, draws, 1, *images.shape[2:])
    distance = (missing * (answers - mean[:, None])).abs().flatten(2).sum(2)
    total = objective.of_images(images, inferred.z).total[: count * draws].view(count, draws)
    order = torch.argsort(total + _CONSENSUS * distance, dim=1, stable=True)
    return rows.gather(1, order)


@torch.no_grad()
def generate(model: DCGAN, z: Tensor, condition: Condition | None, rows: Tensor) -> Tensor:
    """Return G(z) of row numbers ``rows`` [N] of z and its condition, [N, C, S, S]."""
    parts = [
        model.generator(z[part], None if condition is None else condition.take(part))
        for part in torch.split(whole_blocks(rows), 256)
    ]
    images: Tensor = torch.cat(parts)[: len(rows)]
    return images


def _squared_distance(images: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return squared distances over known pixels, [B]; in float64, so that no batch mate matters."""
    return (known * (images - target).double().square()).flatten(1).sum(1)
