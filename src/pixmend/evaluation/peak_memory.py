"""Peak memory of a block of code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """``mib``, set when the block ends: the process's and the GPU's peak; None if unknown."""

    mib: float | None = None


@contextmanager
def watch_memory() -> Iterator[PeakMemory]:
    """Measure the whole process, so that a network counts as well as its answers."""
    peak = PeakMemory()
    try:
        _RESET.write_text("5")  # resets VmHWM (Linux, proc(5))
    except OSError:
        yield peak
        return
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield peak
    lines = _STATUS.read_text(encoding="ascii").splitlines()
    peak.mib = int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    if torch.cuda.is_available():
        peak.mib += torch.cuda.max_memory_allocated() / 2**20
