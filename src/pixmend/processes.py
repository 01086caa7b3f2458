"""Where this process computes.

A group always exists: one process is a group of one. Rank and world come with training over several processes; until then this
room chooses the device and says what it is.
"""

import os

import torch

from pixmend.errors import SettingsError

__all__ = ["choose_device", "describe_device", "thread_count"]


def choose_device(name: str = "auto") -> torch.device:
    """Return the device called ``name``; ``auto`` takes a GPU when there is one.

    Raises
    ------
    SettingsError
        The device is not known, or not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"device {name!r} is not available here; try auto or cpu") from error
    return device


def describe_device(device: torch.device) -> str:
    """Return a device's name in words."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"{device.type} with {thread_count()} threads"


def thread_count() -> int:
    """Return how many CPU threads torch uses."""
    return torch.get_num_threads() or os.cpu_count() or 1
