"""The precision of a training step."""

import contextlib
from contextlib import AbstractContextManager

import torch

from pixmend.training.settings import Precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute activations and products in ``precision`` (Micikevicius 2018, section 3).

    bfloat16 has the range of float32, so gradients need no scaling; its 8 bits are too few for
    sums.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    # No cache: a cast weight shared by two passes would sum its gradients in bfloat16.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
