"""Promises of training that no other test looks at from this side: in what order a checkpoint gets there, and what no step computes."""

import os
import stat

import pytest
import torch

from pixmend.errors import OutputError
from pixmend.models import model_file, sample_latents
from pixmend.rng import generator_for
from pixmend.training.checkpoint import checkpoint_of, newest_checkpoint, write_checkpoint
from pixmend.training.step import discriminator_step, generator_step
from pixmend.training.train_state import initial_state

CPU = torch.device("cpu")


@pytest.fixture
def checkpoints(tiny):
    """Return the checkpoints of one state at steps 1 and 2."""
    state = initial_state(tiny(), CPU)
    z = sample_latents(tiny().networks(), 8, generator_for(0, "z"))
    made = []
    for _ in range(2):
        drawn = state.generator(z)
        discriminator_step(state, torch.zeros(8, 1, 16, 16), drawn, tiny())
        generator_step(state, drawn, torch.zeros(8, 1, 16, 16), tiny())
        state.step += 1
        made.append(checkpoint_of(state))
    return made


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_old_one_goes(
    checkpoints, tmp_path, monkeypatch
):
    write_checkpoint(checkpoints[0], tmp_path, keep=1)
    done = []

    def watched(name, act):
        def call(what, *rest, **more):
            folder = isinstance(what, int) and stat.S_ISDIR(os.fstat(what).st_mode)
            done.append(f"{name} folder" if folder else name)
            return act(what, *rest, **more)

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace", "unlink"):
        watched(name, getattr(os, name))
    read = model_file.read_tensors
    monkeypatch.setattr(
        model_file, "read_tensors", lambda *a, **k: done.append("read back") or read(*a, **k)
    )
    write_checkpoint(checkpoints[1], tmp_path, keep=1)
    assert done == ["fsync", "read back", "replace", "fsync folder", "unlink"]
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002.safetensors"]


def test_a_checkpoint_that_reads_back_damaged_leaves_the_one_before(
    checkpoints, tmp_path, monkeypatch
):
    write_checkpoint(checkpoints[0], tmp_path, keep=1)
    save = model_file.save

    def failing(*arguments):  # a disk that loses a bit
        content = bytearray(save(*arguments))
        content[-1] ^= 1
        return bytes(content)

    monkeypatch.setattr(model_file, "save", failing)
    with pytest.raises(OutputError, match="reads back damaged"):
        write_checkpoint(checkpoints[1], tmp_path, keep=1)
    assert newest_checkpoint(tmp_path).step == 1


def test_gs_step_computes_no_gradient_of_ds_weights(tiny):
    state = initial_state(tiny(feature_matching=0.05), CPU)
    z = sample_latents(tiny().networks(), 8, generator_for(0, "z"))
    real = torch.zeros(8, 1, 16, 16)
    generator_step(state, state.generator(z), real, tiny(feature_matching=0.05))
    assert all(weight.grad is None for weight in state.discriminator.parameters())
    assert all(weight.grad is not None for weight in state.generator.parameters())
