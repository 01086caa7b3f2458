"""Random generators by position: a draw depends on a seed and a key, never on the order of calls.

With ``generator_for(seed, "latent", step)``, step 1,234 of a resumed run draws the same as in an
uninterrupted one, and an image's result does not depend on its batch.
"""

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

from pixmend.errors import SettingsError

if TYPE_CHECKING:
    import torch


def is_whole(value: object, least: int, most: float = math.inf) -> bool:
    """Whether a value is a Python or NumPy integer from ``least`` to ``most``, and no bool."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return bool(least <= value <= most)


def check_seed(seed: object) -> None:
    """Raise a SettingsError for a seed that a user may not give."""
    if not is_whole(seed, 0):
        raise SettingsError(f"seed = {seed!r}: needs a whole number of at least 0")


def seed_for(seed: int, *key: str | int) -> int:
    """Return the 63-bit seed of ``key``, equal on every machine and Python version.

    Parts of a key are separated: ``("a", 12)`` and ``("a1", 2)`` give unrelated seeds.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (int(seed), *key))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator_for(seed: int, *key: str | int) -> "torch.Generator":
    """Return a CPU ``torch.Generator`` seeded by ``key``."""
    import torch

    return torch.Generator().manual_seed(seed_for(seed, *key))


def array_generator_for(seed: int, *key: str | int) -> np.random.Generator:
    """Return a NumPy generator (PCG64) seeded by ``key``."""
    return np.random.default_rng(seed_for(seed, *key))
