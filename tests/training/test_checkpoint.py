"""Checkpoints as files: the newest that is whole, by what it says and not by its name."""

import pytest
import torch

from pixmend.errors import DivergedError, ModelFileError, RunError, VersionError
from pixmend.models import write_tensors
from pixmend.training.checkpoint import (
    Checkpoint,
    checkpoint_of,
    drop_checkpoints,
    newest_checkpoint,
    write_checkpoint,
)
from pixmend.training.train_state import initial_state


def checkpoint(step, value=1.0):
    counts = {"step": step, "images": 4 * step, "skipped": 0, "skipped_in_row": 0, "rollbacks": 2}
    return Checkpoint(counts, {"a": torch.full((2, 3), value)})


def test_what_is_written_is_read_and_only_so_many_stay(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    write_checkpoint(checkpoint(0), tmp_path, keep=3)
    assert newest_checkpoint(tmp_path).step == 0
    for step in (5, 10, 100_000_000, 20):  # nine digits: sorted by name it would come first
        write_checkpoint(checkpoint(step, step), tmp_path, keep=3)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-{step}.safetensors" for step in ("00000010", "00000020", "100000000")]
    found = newest_checkpoint(tmp_path)
    assert found.step == 100_000_000
    assert found.counters.items() >= checkpoint(100_000_000).counters.items()
    assert torch.equal(found.tensors["a"], torch.full((2, 3), 1e8))


def test_the_step_is_the_headers_and_a_damaged_file_is_passed_over(tmp_path):
    write_checkpoint(checkpoint(10), tmp_path, keep=9)
    write_checkpoint(checkpoint(20), tmp_path, keep=9)
    (tmp_path / "step-00000010.safetensors").rename(tmp_path / "step-00000099.safetensors")
    assert newest_checkpoint(tmp_path).step == 20
    newest = tmp_path / "step-00000020.safetensors"
    newest.write_bytes(newest.read_bytes()[:-5])
    assert newest_checkpoint(tmp_path).step == 10
    (tmp_path / "step-00000099.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match=r"all checkpoints are damaged \(.*damaged"):
        newest_checkpoint(tmp_path)


def test_checkpoints_are_dropped_from_a_step_on_if_a_whole_one_is_left(tmp_path):
    for step in (10, 20, 30):
        write_checkpoint(checkpoint(step), tmp_path, keep=9)
    left = lambda: sorted(int(path.stem[-8:]) for path in tmp_path.iterdir())  # noqa: E731
    assert not drop_checkpoints(tmp_path, since=10)
    assert left() == [10, 20, 30]
    assert drop_checkpoints(tmp_path, since=20)
    assert left() == [10]
    write_checkpoint(checkpoint(20), tmp_path, keep=9)
    damaged = tmp_path / "step-00000010.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert not drop_checkpoints(tmp_path, since=20)
    assert left() == [10, 20]


@pytest.mark.parametrize("step", [-1, 1.5, float("inf"), float("nan"), "7", None, [7]])
def test_a_step_that_is_none_is_damage_and_no_traceback(tmp_path, step):
    path = tmp_path / "step-00000009.safetensors"
    write_tensors(path, {"a": torch.ones(2)}, kind="checkpoint", header={"step": step})
    with pytest.raises(RunError, match="invalid step"):
        newest_checkpoint(tmp_path)
    write_checkpoint(checkpoint(3), tmp_path, keep=9)
    assert newest_checkpoint(tmp_path).step == 3


def test_a_model_among_checkpoints_is_none_of_them(tmp_path):
    write_tensors(
        tmp_path / "m.safetensors", {"a": torch.ones(2)}, kind="model", header={"step": 9}
    )
    with pytest.raises(RunError, match="holds a model, not a checkpoint"):
        newest_checkpoint(tmp_path)


def test_a_newer_versions_checkpoint_stops_the_run_whatever_else_is_there(tmp_path):
    write_checkpoint(checkpoint(3), tmp_path, keep=9)
    path = tmp_path / "step-00000003.safetensors"
    content = path.read_bytes()
    newer = content.replace(b'\\"format\\": 3', b'\\"format\\": 9')
    assert newer != content
    (tmp_path / "step-00000004.safetensors").write_bytes(newer)
    with pytest.raises(VersionError, match="format 9"):
        newest_checkpoint(tmp_path)


def test_a_state_comes_back_from_its_checkpoint_and_one_that_is_not_finite_makes_none(tiny):
    def state(seed):
        made = initial_state(tiny(seed=seed), torch.device("cpu"))
        for optimiser in (made.generator_optimiser, made.discriminator_optimiser):
            for weight in (each for group in optimiser.param_groups for each in group["params"]):
                weight.grad = torch.ones_like(weight)
            optimiser.step()
        return made

    before, after = state(1), state(2)
    before.step, before.images, before.rollbacks = 7, 56, 2
    kept = checkpoint_of(before)
    kept.restore(after)
    assert (after.step, after.images, after.skipped, after.rollbacks) == (7, 56, 0, 2)
    found = checkpoint_of(after).tensors
    assert all(torch.equal(found[name], value) for name, value in kept.tensors.items())
    with pytest.raises(ModelFileError, match="does not fit"):
        Checkpoint({"step": 7, "images": 56}, kept.tensors).restore(after)
    with torch.no_grad():
        next(before.generator.parameters())[0] = float("nan")
    with pytest.raises(DivergedError, match="by step 7"):
        checkpoint_of(before)
