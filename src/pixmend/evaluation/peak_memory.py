"""Peak memory of a stretch of work."""

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch_memory() -> Callable[[], float | None]:
    """Return a function of the peak since now, of this process and its GPU, in MiB; None if unknown."""
    try:
        _RESET.write_text("5")  # resets VmHWM (Linux, proc(5))
    except OSError:
        return lambda: None
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    def peak_mib() -> float:
        words = _STATUS.read_text(encoding="ascii").split()
        of_gpu = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
        return int(words[words.index("VmHWM:") + 1]) / 1024 + of_gpu / 2**20

    return peak_mib
