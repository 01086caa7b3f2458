"""What tells good samples and completions from bad ones: distances between sets of images, as functions of tensors."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pixmend.models import DCGANSettings, Generator, clip_radius, sample_latents
from pixmend.randomness import generator_for

__all__ = [
    "Complete",
    "frechet_distance",
    "hole_psnr",
    "kernel_distance",
    "latent_search",
    "mean_pairwise_distance",
    "nearest_distances",
]

# target [B, C, S, S] in [-1, 1], known bool [B, 1, S, S] -> completed [B, C, S, S]
Complete: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 256


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Return the KID of two sets of features [N, F] and [M, F]: unbiased MMD^2, so that it may be a little below 0.

    With the kernel k(a, b) = (a.b / F + 1)^3, the means of k over pairs within each set, without the pairs of an item with itself,
    less twice the mean over pairs between them (Binkowski 2018, equations 4 and 5).
    """
    x, y = x.double(), y.double()
    within = sum(
        (kernel.sum() - kernel.trace()) / (len(kernel) * (len(kernel) - 1))
        for kernel in (_kernel(x, x), _kernel(y, y))
    )
    return float(within - 2 * _kernel(x, y).mean())


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of two sets of features [N, F] and [M, F] (Heusel 2017, equation 6).

    With fewer images than features it is biased upwards: compare only figures of equal counts.
    """
    x, y = x.double(), y.double()
    ours, theirs = (
        (part - part.mean(0)) / (len(part) - 1) ** 0.5 for part in (x, y)
    )  # S = ours^T ours
    # The trace of (S S')^(1/2) is the sum of the singular values of ours theirs^T, [N, M]: no matrix root is needed.
    overlap = torch.linalg.svdvals(ours @ theirs.T).sum()
    means = (x.mean(0) - y.mean(0)).square().sum()
    return float(means + ours.square().sum() + theirs.square().sum() - 2 * overlap)


def nearest_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return the L2 distance of each row of x [N, D] to the nearest row of y [M, D], [N]."""
    nearest = torch.full((len(x),), torch.inf, device=x.device)
    for part in torch.split(y, _CHUNK):
        nearest = torch.minimum(nearest, torch.cdist(x, part).min(1).values)
    return nearest


def mean_pairwise_distance(x: Tensor) -> float:
    """Return the mean L2 distance of two different rows of x [N, D]."""
    return float(torch.pdist(x.cpu()).mean())


def hole_psnr(completed: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Return 10 log10(2^2 / mean squared error over the hole) in dB, [B] of images [B, C, S, S] in [-1, 1]."""
    hole = (~known).expand_as(target)
    error = ((completed.clamp(-1, 1) - target).square() * hole).sum((1, 2, 3)) / hole.sum((1, 2, 3))
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def latent_search(
    generator: Generator, networks: DCGANSettings, *, seed: int, steps: int = 60, bank: int = 256
) -> Complete:
    """Return a short search for the z that agrees with the known pixels (Yeh 2017, equation 3, without weights and prior).

    From the best of ``bank`` draws, ``steps`` of Adam. It is far below what a long search finds, but equal from checkpoint to
    checkpoint, and costs about 50 training steps for 64 images and three masks.
    """

    def complete(target: Tensor, known: Tensor) -> Tensor:
        draws = sample_latents(networks, bank, generator_for(seed, "monitor", "bank"))
        with torch.no_grad():
            drawn = torch.cat([generator(z) for z in torch.split(draws.to(target.device), _CHUNK)])
            cost = [  # [bank] for each image
                ((drawn - image).abs() * mask).mean((1, 2, 3))
                for image, mask in zip(target, known, strict=True)
            ]
        best = torch.stack(cost).argmin(1).to(draws.device)
        z = draws[best].to(target.device).requires_grad_()
        optimiser = torch.optim.Adam([z], lr=0.05)
        radius = clip_radius(networks)
        for _ in range(steps):
            loss = ((generator(z) - target).abs() * known).mean((1, 2, 3)).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                z.clamp_(-radius, radius)
        with torch.no_grad():
            return torch.where(known, target, generator(z))

    return complete


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
