"""The latent estimator: a search over z that minimises the objective (Yeh et al. 2017)."""

import math
from functools import partial

import torch
from torch import Tensor

from pixmend.completion.finetune import finetuned_first_layer
from pixmend.completion.methods import InitDistribution, Method
from pixmend.completion.objective import Objective
from pixmend.completion.observer import Observer
from pixmend.completion.result import Samples
from pixmend.completion.solvers import SearchState
from pixmend.completion.task import CompletionOptions
from pixmend.models import DCGAN, DCGANSettings, sample_latents, whole_blocks
from pixmend.rng import generator_for

_POOL_PART = 64  # latents scored together: at 256 px a whole pool would take gigabytes


def latent(
    model: DCGAN, target: Tensor, known: Tensor, options: CompletionOptions, observer: Observer
) -> Samples:
    """Complete images [B, C, S, S] in [-1, 1] by a search over z; ``known`` [B, 1, S, S] is the known share of each pixel."""
    method, count = options.method, len(target)
    draws = max(method.restarts, options.candidates)
    rows = whole_blocks(torch.arange(count, device=target.device).repeat_interleave(draws))
    initial = init_latents(
        method, method.objective(model, target, known), model.settings, draws, options.seed
    )
    z = initial.flatten(0, 1)
    z = torch.cat([z, z[:1].expand(len(rows) - len(z), -1)])
    objective = method.objective(model, target[rows], known[rows])
    state, trace = _search(model, objective, z, options, observer, count, draws)
    if method.finetune:
        images = finetuned_first_layer(
            objective,
            state.best_z,
            model.settings,
            steps=method.finetune,
            seed=options.seed,
            should_stop=observer.out_of_time,
        )[: count * draws]
    else:
        every = torch.arange(count * draws, device=z.device)
        images = generate(model, state.best_z, every)
    images = images.view(count, draws, *images.shape[1:])
    losses = torch.stack(state.best, -1)[: count * draws].view(count, draws, 3)
    return Samples(
        images,
        state.best_z[: count * draws].view(count, draws, -1),
        losses,
        order=torch.argsort(losses[..., 0], dim=1, stable=True),
        mean=images.mean(1),
        variance=images.var(1, correction=0).mean(1, keepdim=True),
        history=torch.stack(trace.history),
        steps=trace.steps.tolist(),
        snapshots=trace.snapshots,
    )


@torch.no_grad()
def generate(model: DCGAN, z: Tensor, rows: Tensor) -> Tensor:
    """Return G(z) of row numbers ``rows`` [N] of z, [N, C, S, S]."""
    parts = [model.generator(z[part]) for part in torch.split(whole_blocks(rows), 256)]
    images: Tensor = torch.cat(parts)[: len(rows)]
    return images


class _Trace:
    """The history [steps + 1] of least totals [B], the steps of each image [B], and the snapshots of a search."""

    def __init__(self, first: Tensor) -> None:
        self.history: list[Tensor] = []
        self.snapshots: dict[int, Tensor] = {}
        self.steps = torch.zeros(len(first), dtype=torch.int64, device=first.device)
        self._going = torch.ones_like(self.steps, dtype=torch.bool)

    def add(self, step: int, least: Tensor, going: Tensor) -> None:
        """Record the least total [B] after a step, and which images go on, bool [B]."""
        self.steps = torch.where(self._going, step, self.steps)
        self._going = going
        self.history.append(least)


def _search(
    model: DCGAN,
    objective: Objective,
    z: Tensor,
    options: CompletionOptions,
    observer: Observer,
    count: int,
    draws: int,
) -> tuple[SearchState, _Trace]:
    """Run the solver until it ends or the observer stops it; return its last state and its trace."""
    trace = _Trace(z[:count])
    images = torch.arange(count, device=z.device)
    states = options.method.search(
        objective, z, model.settings, endless=options.seconds is not None
    )
    for state in states:
        least, draw = state.best.total[: count * draws].view(count, draws).min(1)
        trace.add(state.step, least, state.active[: count * draws].view(count, draws).any(1))
        best = images * draws + draw
        best_images = partial(generate, model, state.best_z, best)
        if state.step in observer.snapshots:
            trace.snapshots[state.step] = best_images()
        observer.on_step(state.step, least.tolist(), best_images)
        if observer.should_end():
            break
    return state, trace


def init_latents(
    method: Method, objective: Objective, settings: DCGANSettings, draws: int, seed: int
) -> Tensor:
    """Return ``draws`` initial latents an image, [B, draws, latent_dim]."""
    radius = method.latent_radius(settings)
    if method.init_pool:
        size = max(method.init_pool, draws)
        return best_of_pool(objective, settings, draws, size=size, seed=seed, clip=radius)
    latents = draw_latents(settings, draws, method.init_distribution, seed=seed)
    latents = latents.clamp(-radius, radius).to(objective.target.device)
    return latents.expand(len(objective.target), -1, -1)


def draw_latents(
    settings: DCGANSettings, draws: int, distribution: InitDistribution, *, seed: int
) -> Tensor:
    """Draw latents [draws, latent_dim], whatever the model's own prior; draw i is equal for every image and any number of draws."""
    size, latents = settings.latent_dim, []
    for draw in range(draws):
        generator = generator_for(seed, "start", draw)
        if distribution == "uniform":
            latents.append(torch.rand(size, generator=generator) * 2 - 1)
        else:
            latents.append(torch.randn(size, generator=generator))
    stacked = torch.stack(latents)
    return stacked.clamp(-1, 1) if distribution == "clamped normal" else stacked


@torch.no_grad()
def best_of_pool(
    objective: Objective,
    settings: DCGANSettings,
    draws: int,
    *,
    size: int,
    seed: int,
    clip: float = math.inf,
) -> Tensor:
    """Return the ``draws`` best of ``size`` prior samples, |z_i| at most ``clip``, [B, draws, latent_dim].

    The pool is shared by all images, so that an image's latents do not depend on its batch mates.
    """
    device = objective.target.device
    latents = sample_latents(settings, size, generator_for(seed, "bank")).to(device)
    latents = latents.clamp(-clip, clip)
    totals = torch.cat([_pool_totals(objective, z) for z in torch.split(latents, _POOL_PART)], 1)
    order = torch.argsort(totals, dim=1, stable=True)  # [B, size]
    return latents[order[:, :draws]]


def _pool_totals(objective: Objective, z: Tensor) -> Tensor:
    """Return the objective of each image at each latent of ``z`` [N, latent_dim], [B, N]."""
    images = objective.generator(z)  # [N, C, H, W]
    prior = objective.prior(images)  # [N]
    contextual = [
        objective.contextual(images, target[None], weights[None])
        for target, weights in zip(objective.target, objective.weights, strict=True)
    ]  # B x [N]
    total = (
        objective.contextual_weight * torch.stack(contextual) + objective.lambda_perceptual * prior
    )
    for term, weight in objective.terms:
        total = total + weight * torch.stack(
            [
                term(objective.take(row.expand(len(z))), z, images)
                for row in torch.arange(len(total), device=z.device)
            ]
        )
    return total
