"""The amortized estimator: one pass of the inpainter, and of its way up for each draw."""

import torch
from torch import Tensor

from pixmend.completion.observer import Observer
from pixmend.completion.result import Samples
from pixmend.completion.solvers import whole_blocks
from pixmend.completion.task import CompletionOptions
from pixmend.models import (
    DCGAN,
    INPAINTER_LATENT,
    Inpainter,
    PixelPosterior,
    gather_evidence,
)
from pixmend.rng import generator_for

_ROWS = 128  # decoded together: more take memory and, out of a CPU's cache, time


def amortized(
    model: DCGAN, target: Tensor, known: Tensor, options: CompletionOptions, observer: Observer
) -> Samples:
    """Complete images [B, C, S, S] in [-1, 1], of which ``known`` [B, 1, S, S] is the known share, without a search."""
    assert model.inpainter is not None
    count, draws = len(target), max(options.method.draws, options.candidates)
    z = draw_latents(draws, seed=options.seed).to(target.device)
    posterior = inpaint(model, model.inpainter, target, known, z)
    images = posterior.mean.unflatten(0, (count, draws))
    order = rank_by_consensus(images, known)
    # Known pixels are pasted back, so only D's opinion of each answer is left to tell.
    pasted = known[:, None] * target[:, None] + (1 - known[:, None]) * images
    objective = options.method.objective(model, target, known)
    losses = torch.stack(
        [torch.stack(objective.of_images(each).parts(), -1) for each in pasted.unbind(1)], 1
    )
    best = images[torch.arange(count, device=order.device), order[:, 0]]
    least = losses[torch.arange(count, device=order.device), order[:, 0], 0]
    observer.on_step(0, least.tolist(), lambda: best)
    return Samples(
        images,
        z.expand(count, -1, -1),
        losses,
        order,
        log_variance=posterior.log_variance.unflatten(0, (count, draws)),
        history=least[None],
        steps=[0] * count,
        snapshots={0: best} if 0 in observer.snapshots else {},
    )


def draw_latents(draws: int, *, seed: int) -> Tensor:
    """Draw z [draws, INPAINTER_LATENT] from N(0, I); draw i is equal for every image and any number of draws."""
    return torch.stack(
        [
            torch.randn(INPAINTER_LATENT, generator=generator_for(seed, "posterior", draw))
            for draw in range(draws)
        ]
    )


@torch.no_grad()
def inpaint(
    model: DCGAN, inpainter: Inpainter, target: Tensor, known: Tensor, z: Tensor
) -> PixelPosterior:
    """Return a completion of each image for each z [K, INPAINTER_LATENT], laid out as image x draw, [B * K, ...]."""
    draws, answers = len(z), []
    for images, masks in zip(
        torch.split(target, max(1, _ROWS // draws)),
        torch.split(known, max(1, _ROWS // draws)),
        strict=True,
    ):
        numbers = torch.arange(len(images), device=target.device)
        evidence = gather_evidence(images, masks, model.retrieval).take(whole_blocks(numbers))
        maps = inpainter.encode(evidence)
        rows = whole_blocks(numbers.repeat_interleave(draws))
        latents = z.repeat(-(-len(rows) // draws), 1)[: len(rows)]
        answer = inpainter.decode([each[rows] for each in maps], latents, evidence.take(rows))
        answers.append(answer.take(torch.arange(len(images) * draws, device=target.device)))
    return PixelPosterior(
        torch.cat([each.mean for each in answers]),
        torch.cat([each.log_variance for each in answers]),
    )


def rank_by_consensus(images: Tensor, known: Tensor) -> Tensor:
    """Return the order of the answers [B, K, C, S, S] to each image, best first, int64 [B, K].

    The best is the answer from which the others are least far in the hole (minimum Bayes risk, Kumar and Byrne 2004, equation 1).
    """
    missing = 1 - known[:, None]
    distance = (missing * (images - images.mean(1, keepdim=True))).abs().flatten(2).sum(2)
    return torch.argsort(distance, dim=1, stable=True)
