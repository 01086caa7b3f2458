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
    """Complete images [B, C, S, S] in [-1, 1] without a search; ``known`` [B, 1, S, S] is the known share of each pixel."""
    count, draws = len(target), max(options.method.draws, options.candidates)
    inpainted = model.inpaint(target, known, draws=draws, seed=options.seed)
    order = inpainted.order(known)
    losses = _losses(model, inpainted.draws, target, known, options)
    first = torch.arange(count, device=order.device), order[:, 0]
    best, least = inpainted.draws[first], losses[first][:, 0]
    observer.on_step(0, least.tolist(), lambda: best)
    return Samples(
        inpainted.draws,
        inpainter_latents(draws, seed=options.seed).expand(count, -1, -1),
        losses,
        order,
        inpainted.estimate,
        inpainted.log_variance.exp(),
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
    return torch.stack([torch.stack(objective.of_images(each), -1) for each in answers], 1)
