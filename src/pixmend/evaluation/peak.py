"""The most memory that a stretch of work held."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """``mib`` is set when the stretch ends: the process's most, and the graphics card's; None where the system keeps none."""

    mib: float | None = None


@contextmanager
def watch_memory() -> Iterator[Peak]:
    """Watch the block; the peak holds all that the process holds, so that a net counts with its answers."""
    peak = Peak()
    watched = _reset()
    yield peak
    if watched:
        peak.mib = _resident()
        if torch.cuda.is_available():
            peak.mib += torch.cuda.max_memory_allocated() / 2**20


def _reset() -> bool:
    try:
        _RESET.write_text("5")  # Linux: the peak of resident memory begins anew (proc(5))
    except OSError:
        return False
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    return True


def _resident() -> float:
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
