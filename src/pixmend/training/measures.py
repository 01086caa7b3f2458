"""What tells good completions from bad ones while training, as functions of tensors."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from pixmend.models import DCGANSettings, Generator, clip_radius, sample_latents
from pixmend.rng import generator_for

# target [B, C, S, S] in [-1, 1], known bool [B, 1, S, S] -> completed [B, C, S, S]
Complete: TypeAlias = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 256


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
