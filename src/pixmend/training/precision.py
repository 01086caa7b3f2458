"""In which numbers the networks compute while they are trained; weights, statistics, losses and Adam stay float32."""

import contextlib
from contextlib import AbstractContextManager
from typing import Literal

import torch

Precision = Literal["float32", "bfloat16"]


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Inside, products of maps and weights are made in ``precision``, and maps are kept in it (Micikevicius 2018, section 3).

    bfloat16 has float32's range, so gradients need no scaling; it has 8 bits of precision, so sums of many values (batch norm's
    statistics, losses, moments) are not made in it.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    # No cache of weights: parts of a batch come and go here while others are inside.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
