"""Keeping z where the prior has its mass: what is done to an iterate after each update."""

import math
from typing import Protocol

from torch import Tensor


class Projection(Protocol):
    """From z [B, latent_dim] after a step's update, and the step's number, to the z that is kept."""

    def __call__(self, z: Tensor, step: int) -> Tensor:
        """Return z, each entry in range."""
        ...


def unconstrained(z: Tensor, step: int) -> Tensor:
    """Leave z as it is: something in the objective keeps it, or nothing does."""
    del step
    return z


def latent_clip(radius: float) -> Projection:
    """Set entries beyond +-radius to +-radius (Yeh 2017, section 3.3)."""

    def bound(z: Tensor, step: int) -> Tensor:
        del step
        return z.clamp(-radius, radius)

    return unconstrained if math.isinf(radius) else bound
