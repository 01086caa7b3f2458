"""Checkpoints: the whole state of a run in one file, written so that a good one always exists."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pixmend.errors import DivergedError, ModelFileError, RunError, VersionError
from pixmend.models import read_header, read_tensors, write_tensors
from pixmend.training.train_state import TrainState

_COUNTERS = ("step", "images", "skipped", "skipped_in_row", "rollbacks")


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run at one step; the tensors are the state's own until copied."""

    counters: Mapping[str, int]
    tensors: Mapping[str, Tensor]

    @property
    def step(self) -> int:
        return self.counters["step"]

    def restore(self, state: TrainState) -> None:
        """Copy into a fresh state; raises ModelFileError if that is of other settings."""
        try:
            for prefix, network in state.networks().items():
                names = (name for name in self.tensors if name.startswith(f"{prefix}."))
                weights = {name.removeprefix(f"{prefix}."): self.tensors[name] for name in names}
                network.load_state_dict(weights)
            # In place: the memory layout stays the weight's own, which decides the order of sums.
            for name, moment in _moments(state).items():
                moment.copy_(self.tensors[name].view_as(moment))
            for name in _COUNTERS:
                setattr(state, name, self.counters[name])
        except (KeyError, RuntimeError) as error:
            reason = str(error).partition("\n")[2].partition("\n")[0].strip() or str(error)
            raise ModelFileError(
                f"the checkpoint does not fit these settings ({reason}); if another version of "
                "pixmend wrote it, use that version, or start a new run directory"
            ) from error


def checkpoint_of(state: TrainState) -> Checkpoint:
    """Return the state as a checkpoint; raises DivergedError if it holds NaN or infinity."""
    tensors = _tensors(state)
    floats = (value for value in tensors.values() if value.is_floating_point())
    if not all(bool(torch.isfinite(value).all()) for value in floats):
        raise DivergedError(f"the weights stopped being finite by step {state.step}")
    return Checkpoint({name: getattr(state, name) for name in _COUNTERS}, tensors)


def main_checkpoint(state: TrainState) -> Checkpoint | None:
    """Return the main process's `checkpoint_of`, None in the others; its error is raised in all."""
    checkpoint, problem = None, ""
    if state.group.is_main:
        try:
            checkpoint = checkpoint_of(state)
        except DivergedError as error:
            problem = str(error)
    problem = state.group.broadcast_object(problem)
    if problem:
        raise DivergedError(problem)
    return checkpoint


def broadcast_checkpoint(checkpoint: Checkpoint | None, state: TrainState) -> bool:
    """Restore the main process's checkpoint in all processes; return whether there is one."""
    if checkpoint is not None:
        checkpoint.restore(state)
    counters = state.group.broadcast_object(checkpoint and dict(checkpoint.counters))
    if counters is None:
        return False
    vars(state).update(counters)
    state.group.broadcast(list(_tensors(state).values()))
    return True


def write_checkpoint(checkpoint: Checkpoint, folder: Path, *, keep: int) -> None:
    """Write ``step-00002000.safetensors``, and only then delete all but the ``keep`` newest."""
    path = folder / f"step-{checkpoint.step:08d}.safetensors"
    write_tensors(path, checkpoint.tensors, kind="checkpoint", header=checkpoint.counters)
    files = [path for path in folder.glob("step-*.safetensors") if path.stem[5:].isdigit()]
    for old in sorted(files)[:-keep]:
        with contextlib.suppress(OSError):
            old.unlink()


def drop_checkpoints(folder: Path, *, since: int) -> bool:
    """Delete checkpoints from step ``since`` on if an earlier one is whole; return whether so."""
    late, earlier = [], False
    for path in folder.glob("*.safetensors"):
        with contextlib.suppress(ModelFileError):
            if _step_of(path) >= since:
                late.append(path)
            elif not earlier:
                read_tensors(path, kind="checkpoint")
                earlier = True
    for path in late if earlier else []:
        path.unlink(missing_ok=True)
    return earlier


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the whole checkpoint of the highest step, by its header; None without checkpoints.

    RunError: all are damaged. VersionError: a newer version wrote one of them.
    """
    paths = sorted(folder.glob("*.safetensors"))
    steps: list[tuple[int, Path]] = []
    damage = ""
    for path in paths:
        try:
            steps.append((_step_of(path), path))
        except VersionError:
            raise
        except ModelFileError as error:
            damage = str(error)
    for _, path in sorted(steps, reverse=True):
        try:
            tensors, header = read_tensors(path, kind="checkpoint")
            counters = {
                name: header[name] for name in _COUNTERS if isinstance(header.get(name), int)
            }
            return Checkpoint(counters, tensors)
        except ModelFileError as error:
            damage = str(error)
    if not paths:
        return None
    raise RunError(
        f"{folder}: all checkpoints are damaged ({damage}); "
        "restore one, or delete the folder to start anew"
    )


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Return every tensor of the state by name."""
    tensors = _moments(state)
    for prefix, network in state.networks().items():
        tensors |= {f"{prefix}.{name}": value for name, value in network.state_dict().items()}
    return tensors


def _moments(state: TrainState) -> dict[str, Tensor]:
    """Return Adam's tensors by name, such as ``generator_optimiser.to_image.weight.exp_avg``."""
    networks = state.networks()
    return {
        f"{name}_optimiser.{weight_name}.{moment}": value
        for name, optimiser in state.optimisers().items()
        for weight_name, weight in networks[name].named_parameters()
        for moment, value in optimiser.state[weight].items()
    }


def _step_of(path: Path) -> int:
    step = read_header(path).get("step")
    if not isinstance(step, int) or step < 0:
        raise ModelFileError(f"{path}: invalid step {step!r}")
    return step
