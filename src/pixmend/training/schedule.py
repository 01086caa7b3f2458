"""Learning rates over a run: a function of the step, so that a resumed run has those of an uninterrupted one."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def rate_share(step: int, steps: int, *, schedule: Schedule, warmup: float) -> float:
    """Return the share of the full learning rate that step number ``step`` of ``steps`` (from 0) is taken with.

    It rises linearly over the first ``warmup`` of the steps, from 1 / n to 1 in n steps; then it stays, or falls to 0, which
    it would reach at step ``steps``, along a line or half a cosine (Loshchilov & Hutter 2017, equation 5, without restarts).
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / (steps - rising)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1.0
