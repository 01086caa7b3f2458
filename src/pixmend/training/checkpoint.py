"""The heavy artefact: all of a run's state in one file, written so that there is always a good one."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pixmend.errors import DivergedError, ModelFileError
from pixmend.models import read_tensors, write_tensors
from pixmend.training.state import TrainState, is_finite, tensors_of

__all__ = ["Checkpoint", "newest_checkpoint", "save_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read: ``step`` and ``images`` as in `TrainState`, and its tensors by name."""

    path: Path
    step: int
    images: int
    tensors: dict[str, Tensor]


def save_checkpoint(state: TrainState, folder: Path, *, keep: int) -> Path:
    """Write the state as ``step-00002000.safetensors``; once it is safely there, drop all but the ``keep`` newest.

    Raises
    ------
    DivergedError
        The state holds NaN or infinity; nothing was written.
    OutputError
        It cannot be written; the checkpoints before it are untouched.
    """
    tensors = tensors_of(state)
    if not is_finite(tensors):
        raise DivergedError(
            f"{folder}: the weights stopped being finite by step {state.step}; the last checkpoint is good: "
            "run again with a smaller learning_rate in a new run directory"
        )
    path = folder / f"step-{state.step:08d}.safetensors"
    header: dict[str, Any] = {"step": state.step, "images": state.images}
    write_tensors(path, tensors, kind="checkpoint", header=header)
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint of the highest step that is whole, or None; damaged ones are passed over.

    The step comes from the file's header, never from its name.
    """
    found = []
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(ModelFileError):
            tensors, header = read_tensors(path, kind="checkpoint")
            found.append((int(header["step"]), path))
            del tensors
    if not found:
        return None
    step, path = max(found)
    tensors, header = read_tensors(path, kind="checkpoint")
    return Checkpoint(path, step, int(header["images"]), tensors)
