"""The amortized estimator: one pass of the inpainter, and of its way up for each draw."""

import torch
from torch import Tensor

from pixmend.completion.observer import Observer
from pixmend.completion.result import Samples
from pixmend.completion.task import CompletionOptions
from pixmend.models import DCGAN, inpainter_latents


def amortized(
    model: DCGAN, target: Tensor, known: Tensor, options: CompletionOptions, observer: Observer
) -> Samples:
    """Complete images [B, C, S, S] in [-1, 1], of which ``known`` [B, 1, S, S] is the known share, without a search."""
    count, draws = len(target), max(options.method.draws, options.candidates)
    images, log_variance = model.inpaint(target, known, draws=draws, seed=options.seed)
    order = rank_by_consensus(images, known)
    losses = _losses(model, images, target, known, options)
    first = torch.arange(count, device=order.device), order[:, 0]
    best, least = images[first], losses[first][:, 0]
    observer.on_step(0, least.tolist(), lambda: best)
    return Samples(
        images,
        inpainter_latents(draws, seed=options.seed).expand(count, -1, -1),
        losses,
        order,
        log_variance,
        history=least[None],
        steps=[0] * count,
        snapshots={0: best} if 0 in observer.snapshots else {},
    )


@torch.no_grad()
def _losses(
    model: DCGAN, images: Tensor, target: Tensor, known: Tensor, options: CompletionOptions
) -> Tensor:
    """Return the objective of each answer [B, K, C, S, S] with the known pixels pasted, [B, K, 3]."""
    objective = options.method.objective(model, target, known)
    answers = torch.lerp(images, target[:, None], known[:, None]).unbind(1)
    return torch.stack([torch.stack(objective.of_images(each).parts(), -1) for each in answers], 1)


def rank_by_consensus(images: Tensor, known: Tensor) -> Tensor:
    """Return the order of the answers [B, K, C, S, S] to each image, best first, int64 [B, K].

    The best is the answer from which the others are least far in the hole (minimum Bayes risk, Kumar and Byrne 2004, equation 1).
    """
    missing = 1 - known[:, None]
    distance = (missing * (images - images.mean(1, keepdim=True))).abs().flatten(2).sum(2)
    return torch.argsort(distance, dim=1, stable=True)
