"""The heavy artefact: all of a run's state in one file, written so that there is always a good one."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pixmend.errors import DivergedError, ModelFileError, RunError, VersionError
from pixmend.models import read_header, read_tensors, write_tensors
from pixmend.training.finite import is_finite
from pixmend.training.state import TrainState, counts_of, restore, tensors_of


@dataclass(frozen=True)
class Checkpoint:
    """All of a run's state at one step.

    Attributes
    ----------
    counts, tensors
        As of `counts_of` and `tensors_of`; the tensors are the state's own until copied.
    """

    counts: Mapping[str, int]
    tensors: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        """Iterations done."""
        return self.counts["step"]

    def restore(self, state: TrainState) -> None:
        """Bring a fresh state of the same settings to this one; see `pixmend.training.state.restore`."""
        restore(state, self.tensors, self.counts)


def checkpoint_of(state: TrainState) -> Checkpoint:
    """Return the state as a checkpoint.

    Raises
    ------
    DivergedError
        It holds NaN or infinity, which is never saved.
    """
    checkpoint = Checkpoint(counts_of(state), tensors_of(state))
    if not is_finite(checkpoint.tensors):
        raise DivergedError(f"the weights stopped being finite by step {state.step}")
    return checkpoint


def write_checkpoint(checkpoint: Checkpoint, folder: Path, *, keep: int) -> None:
    """Write it as ``step-00002000.safetensors``; once it is safely there, drop all but the ``keep`` newest.

    Raises
    ------
    OutputError
        It cannot be written; the checkpoints before it are unchanged_result.
    """
    path = folder / f"step-{checkpoint.step:08d}.safetensors"
    write_tensors(path, checkpoint.tensors, kind="checkpoint", header=checkpoint.counts)
    for old in sorted(folder.glob("step-*.safetensors"))[:-keep]:
        with contextlib.suppress(OSError):
            old.unlink()


def drop_checkpoints(folder: Path, *, since: int) -> bool:
    """Remove those of step ``since`` and later if an earlier one is whole, and return whether one is."""
    late, earlier = [], False
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(ModelFileError):
            if _step_of(path) >= since:
                late.append(path)
            else:
                read_tensors(path, kind="checkpoint")
                earlier = True
    if earlier:
        for path in late:
            path.unlink(missing_ok=True)
    return earlier


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint of the highest step that is whole, or None if there is none; damaged ones are passed over.

    The step comes from the file's header, never from its name.

    Raises
    ------
    VersionError
        A newer version wrote one of them: starting before it would lose what it did.
    RunError
        There are checkpoints, but none is whole.
    """
    found: list[tuple[int, Path]] = []
    damage = ""
    paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        try:
            found.append((_step_of(path), path))
        except VersionError:
            raise
        except ModelFileError as error:
            damage = str(error)
    for step, path in sorted(found, reverse=True):
        try:
            tensors, header = read_tensors(path, kind="checkpoint")
            # Format 1 counted steps and images alone.
            counts = {name: value for name, value in header.items() if isinstance(value, int)}
            return Checkpoint({**counts, "step": step}, tensors)
        except ModelFileError as error:
            damage = str(error)
    if not paths:
        return None
    raise RunError(
        f"{folder}: no checkpoint there is whole ({damage}); bring one back, or remove the folder to start the run anew"
    )


def _step_of(path: Path) -> int:
    step = read_header(path).get("step")
    if not isinstance(step, int) or step < 0:
        raise ModelFileError(f"{path}: its step is {step!r}, which is none")
    return step
