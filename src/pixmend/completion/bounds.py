"""Keeping z where the prior has its mass: what is done to an iterate after each update."""

import math
from typing import Protocol

import torch
from torch import Tensor

from pixmend.rng import generator_for

__all__ = ["Bound", "clip", "free", "stochastic_clip"]


class Bound(Protocol):
    """From z [B, latent_dim] after a step's update, and the step's number, to the z that is kept."""

    def __call__(self, z: Tensor, step: int) -> Tensor:
        """Return z, each entry in range."""
        ...


def free(z: Tensor, step: int) -> Tensor:
    """Leave z as it is: something in the objective keeps it, or nothing does."""
    del step
    return z


def clip(radius: float) -> Bound:
    """Set entries beyond +-radius to +-radius (Yeh 2017, section 3.3)."""

    def bound(z: Tensor, step: int) -> Tensor:
        del step
        return z.clamp(-radius, radius)

    return free if math.isinf(radius) else bound


def stochastic_clip(radius: float, *, lanes: int, seed: int) -> Bound:
    """Draw entries beyond +-radius anew from U(-radius, radius) (Lipton and Tripathi 2017, section 3).

    A search does not get stuck at the corners, where the prior has hardly any mass. Draws are named by step and lane (row number
    modulo ``lanes``), so that an image's do not depend on its batch mates.
    """

    def bound(z: Tensor, step: int) -> Tensor:
        beyond = z.abs() > radius
        if not beyond.any():
            return z
        draws = torch.stack(
            [
                torch.rand(z.shape[1], generator=generator_for(seed, "clip", step, lane))
                for lane in range(lanes)
            ]
        )
        numbers = torch.arange(len(z), device=z.device) % lanes
        anew = (draws.to(z)[numbers] * 2 - 1) * radius
        return torch.where(beyond, anew, z)

    return bound
