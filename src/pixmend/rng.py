"""Every random draw is a function of its position, never of the order of calls.

A draw is named by a seed and a key, such as ``generator_for(seed, "latent", step)``. So step 1,234 of a resumed
run draws what step 1,234 of an uninterrupted one drew, and an image's answer does not depend on its neighbours.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_for(seed: int, *key: str | int) -> int:
    """Return a 63-bit seed for the draw named by ``key``, equal on every machine and Python version.

    The key's parts are told apart: ``("a", 12)`` and ``("a1", 2)`` give unrelated seeds.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (int(seed), *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *key: str | int) -> "torch.Generator":
    """Return a CPU ``torch.Generator`` at the start of the stream named by ``key``."""
    import torch

    return torch.Generator().manual_seed(seed_for(seed, *key))


def array_generator_for(seed: int, *key: str | int) -> np.random.Generator:
    """Return a ``numpy`` generator (PCG64) at the start of the stream named by ``key``."""
    return np.random.default_rng(seed_for(seed, *key))
