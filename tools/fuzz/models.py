"""Model files and checkpoints: damaged ones, and ones whose maker wanted harm and put the digest right."""

import contextlib
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pixmend.errors import ModelFileError, RunError
from pixmend.models import (
    DCGAN,
    DCGANSettings,
    Discriminator,
    Encoder,
    Generator,
    Retrieval,
    load_model,
    read_header,
    read_tensors,
    save_model,
)
from pixmend.models.model_file import _digest as digest_of
from pixmend.training.checkpoint import checkpoint_of, newest_checkpoint, write_checkpoint
from pixmend.training.settings import TrainSettings
from pixmend.training.train_state import TrainState, initial_state
from tools.fuzz.scratch import fresh, scratch

__all__ = ["check_checkpoint", "check_model", "checkpoint_seeds", "model_seeds", "write_tiny_model"]

_TINY = {"size": 16, "channels": "L", "filters": 4, "latent_dim": 2}
Tensors = dict[str, Tensor]
_CHANGES: tuple[Callable[[Tensors], Tensors], ...] = (
    lambda held: held,
    lambda held: dict(list(held.items())[1:]),
    lambda held: {name: value.to(torch.bfloat16) for name, value in held.items()},
    lambda held: {name: value.to(torch.int8) for name, value in held.items()},
    lambda held: {name: value[:1] if value.ndim else value for name, value in held.items()},
    lambda held: {name: value * float("nan") for name, value in held.items()},
    lambda held: held | {"more": torch.zeros(2, 0)},
    lambda held: held | {"retrieval_images": torch.zeros(4, dtype=torch.float64)},
)


def check_model(content: bytes) -> None:
    """A model file is refused in words, or holds networks in evaluation mode that nothing trains.

    Of the first byte, the lowest bit takes what follows for the JSON header over whole weights, its digest put right, and the next
    three say what is wrong with the weights.
    """
    path = scratch() / "model.safetensors"
    path.write_bytes(_file_of(content, "model", _model_tensors()))
    try:
        model = load_model(path)
    except ModelFileError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
        return
    for network in (model.generator, model.discriminator):
        assert not network.training
        assert not any(weight.requires_grad for weight in network.parameters())


def check_checkpoint(content: bytes) -> None:
    """A checkpoint is refused in words, or is whole; beside a good one a bad one never stops a run.

    The first byte is as of `check_model`.
    """
    folder = fresh("checkpoints")
    path = folder / "step-00000009.safetensors"
    path.write_bytes(_file_of(content, "checkpoint", _state_tensors()))
    try:
        found = newest_checkpoint(folder)
    except (ModelFileError, RunError):
        return
    assert found is not None
    assert found.step >= 0
    with contextlib.suppress(ModelFileError):
        found.restore(_state())


def model_seeds() -> Iterator[bytes]:
    """Small files of other contents, and headers over whole weights."""
    yield b"\0" + save({"a": torch.zeros(2)}, {"pixmend": '{"format": 1, "kind": "model"}'})
    header = read_header(_whole_model())
    yield b"\1" + json.dumps(header).encode()
    plain = header | {"settings": _TINY}
    for change in range(len(_CHANGES)):
        yield bytes([1 | change << 1]) + json.dumps(plain).encode()


def checkpoint_seeds() -> Iterator[bytes]:
    """Headers of both formats over a whole state."""
    counts = {"step": 7, "images": 28, "skipped": 1, "skipped_in_row": 0, "rollbacks": 0}
    for change in range(len(_CHANGES)):
        header = counts | {"format": 2, "kind": "checkpoint"}
        yield bytes([1 | change << 1]) + json.dumps(header).encode()
    yield b"\1" + json.dumps({"step": 7, "images": 28, "format": 1, "kind": "checkpoint"}).encode()
    yield b"\0" + save({"a": torch.zeros(2)}, {"pixmend": '{"format": 1, "kind": "checkpoint"}'})


def _file_of(content: bytes, kind: str, right: Tensors) -> bytes:
    how, body = content[0] if content else 0, content[1:]
    if not how & 1:
        return body
    tensors = _CHANGES[how >> 1 & 7](right)
    text = body.decode("utf-8", "replace")
    with contextlib.suppress(ValueError, RecursionError):
        header: Any = json.loads(text)
        if isinstance(header, dict):
            text = json.dumps(header | {"digest": digest_of(tensors), "kind": kind})
    return save(tensors, {"pixmend": text})


def write_tiny_model() -> Path:
    """Write a model file with networks of 16 px alone; return where."""
    path = scratch() / "tiny.safetensors"
    settings = DCGANSettings.model_validate(_TINY)
    save_model(DCGAN(settings, Generator(settings), Discriminator(settings)), path)
    return path


@cache
def _whole_model() -> Path:
    path = scratch() / "whole.safetensors"
    settings = DCGANSettings.model_validate(
        _TINY | {"encoder": "conditional", "retrieval_images": 2}
    )
    memory = Retrieval(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    networks = Generator(settings), Discriminator(settings)
    save_model(DCGAN(settings, *networks, {"a": 1}, Encoder(settings), memory), path)
    return path


@cache
def _model_tensors() -> Tensors:
    return read_tensors(_whole_model(), kind="model")[0]


@cache
def _state() -> TrainState:
    return initial_state(TrainSettings.model_validate(_TINY), torch.device("cpu"))


@cache
def _state_tensors() -> Tensors:
    folder = fresh("right")
    state = initial_state(TrainSettings.model_validate(_TINY), torch.device("cpu"))
    for optimiser in (state.generator_optimiser, state.discriminator_optimiser):
        for group in optimiser.param_groups:
            for weight in group["params"]:
                weight.grad = torch.zeros_like(weight)
        optimiser.step()
    write_checkpoint(checkpoint_of(state), folder, keep=1)
    return read_tensors(next(folder.iterdir()), kind="checkpoint")[0]
