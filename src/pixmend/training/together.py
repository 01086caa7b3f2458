"""One run by several processes: whether they can share its batches, and how all come to the same state.

Which images and latents make a batch does not depend on how many processes share it, batch norm sees all of it and gradients are those of
all of it (`pixmend.training.synchronise`). So the number of processes changes a run by rounding only, also where a run goes on in another
number than it began in: image number n of the run is the same one, and only who works on it changes.
"""

import math
from collections.abc import Sequence

import torch

from pixmend.distributed import Group
from pixmend.errors import DivergedError, InputError, SettingsError
from pixmend.records import Records
from pixmend.training.checkpoint import Checkpoint, checkpoint_of
from pixmend.training.masking import completions
from pixmend.training.settings import TrainSettings
from pixmend.training.state import TrainState


def check_together(settings: TrainSettings, records: Records, group: Group) -> None:
    """Raise if the processes cannot train together.

    Raises
    ------
    SettingsError
        The batch, or the completions in it, cannot be shared out equally.
    InputError
        This process would train on other images than the first one.
    """
    count, parts = settings.batch_size, settings.gradient_accumulation
    world = group.world * parts
    if count % world:
        below, above = count - count % world, count + world - count % world
        raise SettingsError(
            f"batch_size = {count}: is the whole batch, and {_words(group.world, parts)} cannot share it equally; "
            f"set batch_size={below or above}, or "
            + (
                "another gradient_accumulation"
                if parts > 1
                else "start another number of processes"
            )
        )
    some = completions(settings)
    if some % world:
        nearest = min(max(1, round(some / world)) * world, count - world)
        fix = (
            f"completion_share={round(nearest / count, 6)}"
            if nearest
            else f"batch_size={2 * world} and completion_share=0.5"
        )
        raise SettingsError(
            f"completion_share = {settings.completion_share}: is {some} of the {count} images of a batch, and {_words(group.world, parts)} "
            f"cannot share them equally; set {fix}"
        )
    if group.broadcast_object([records.digest, len(records)]) != [records.digest, len(records)]:
        raise InputError(
            f"{records.path}: process {group.rank} sees other images there than the first process; give all hosts the same records"
        )


def first_checkpoint(state: TrainState) -> Checkpoint | None:
    """Return the state as a checkpoint in the first process, which writes for all, and None in the others.

    Raises
    ------
    DivergedError
        The first process's state holds NaN or infinity; raised in all processes.
    """
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


def broadcast_checkpoint(found: Checkpoint | None, group: Group) -> Checkpoint | None:
    """Return in all processes the checkpoint that the first one ``found``, or None if it found none."""
    # On the CPU, wherever the state that it was made of lies: the others receive it there.
    tensors = {name: value.cpu() for name, value in found.tensors.items()} if found else {}
    facts = group.broadcast_object(
        found
        and {
            "counts": dict(found.counts),
            "shapes": {name: list(value.shape) for name, value in tensors.items()},
            "types": {
                name: str(value.dtype).removeprefix("torch.") for name, value in tensors.items()
            },
        }
    )
    if facts is None:
        return None
    if not group.is_main:
        tensors = {
            name: torch.empty(shape, dtype=getattr(torch, facts["types"][name]))
            for name, shape in facts["shapes"].items()
        }
    group.broadcast(list(tensors.values()))
    return Checkpoint(facts["counts"], tensors)


def other_world(before: Sequence[int], settings: TrainSettings, group: Group) -> str:
    """Return what to tell a user who goes on with a run in this group; "" if nothing is new.

    ``before`` is how many processes it was trained by, and in how many parts each.
    """
    now = [group.world, settings.gradient_accumulation]
    if list(before) == now:
        return ""
    (worlds, parts), (world, accumulate) = before, now
    of_parts = (
        (f" in {parts} parts each", f" in {accumulate}") if parts * accumulate > 1 else ("", "")
    )
    said = f"this run was trained by {worlds} processes{of_parts[0]} and goes on with {world}{of_parts[1]}: "
    # Processes may synchronise their statistics; micro-batches have their own.
    pieces = [pair[1] if settings.sync_batchnorm else math.prod(pair) for pair in (before, now)]
    each, share = (settings.batch_size // count for count in pieces)
    if each == share:
        return (
            said
            + "images and draws stay the same, but sums round differently, so the weights are not bit for bit those of the other"
        )
    return said + f"batch statistics are now of {share} images instead of {each}"


def watched(settings: TrainSettings, group: Group) -> TrainSettings:
    """Return the settings that this process watches the run by: the first one scores and shows it for all."""
    if group.is_main:
        return settings
    return settings.model_copy(update={"monitor": False, "tensorboard": False})


def _words(world: int, parts: int) -> str:
    if world == 1:
        return f"{parts} parts"
    return f"{world} processes" + (f" of {parts} parts each" if parts > 1 else "")
