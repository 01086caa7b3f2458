"""Fuzz targets of model files and checkpoints, damaged or malicious with a valid digest."""

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
    Generator,
    Inpainter,
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
    lambda tensors: tensors,
    lambda tensors: dict(list(tensors.items())[1:]),
    lambda tensors: {name: value.to(torch.bfloat16) for name, value in tensors.items()},
    lambda tensors: {name: value.to(torch.int8) for name, value in tensors.items()},
    lambda tensors: {name: value[:1] if value.ndim else value for name, value in tensors.items()},
    lambda tensors: {name: value * float("nan") for name, value in tensors.items()},
    lambda tensors: tensors | {"more": torch.zeros(2, 0)},
    lambda tensors: tensors | {"retrieval_images": torch.zeros(4, dtype=torch.float64)},
)


def check_model(content: bytes) -> None:
    """A model file is refused with a message, or gives frozen networks in evaluation mode.

    If the lowest bit of the first byte is set, the rest is the JSON header of intact weights, with
    its digest corrected; the next three bits select a change of the weights.
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
    """A checkpoint is refused with a message, or is complete and can be restored.

    The first byte is that of `check_model`.
    """
    folder = fresh("checkpoints")
    path = folder / "step-00000009.safetensors"
    path.write_bytes(_file_of(content, "checkpoint", _state_tensors()))
    try:
        checkpoint = newest_checkpoint(folder)
    except (ModelFileError, RunError):
        return
    assert checkpoint is not None
    assert checkpoint.step >= 0
    with contextlib.suppress(ModelFileError):
        checkpoint.restore(_state())


def model_seeds() -> Iterator[bytes]:
    """Yield small files of other content, and headers of intact weights."""
    yield b"\0" + save({"a": torch.zeros(2)}, {"pixmend": '{"format": 1, "kind": "model"}'})
    header = read_header(_whole_model())
    yield b"\1" + json.dumps(header).encode()
    plain = header | {"settings": _TINY}
    for change in range(len(_CHANGES)):
        yield bytes([1 | change << 1]) + json.dumps(plain).encode()


def checkpoint_seeds() -> Iterator[bytes]:
    """Yield headers of both formats with a complete state."""
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
    """Write a model file of 16 px without an inpainter; return its path."""
    path = scratch() / "tiny.safetensors"
    settings = DCGANSettings.model_validate(_TINY)
    save_model(DCGAN(settings, Generator(settings), Discriminator(settings)), path)
    return path


@cache
def _whole_model() -> Path:
    path = scratch() / "whole.safetensors"
    settings = DCGANSettings.model_validate(_TINY | {"inpainter_filters": 8, "retrieval_images": 2})
    memory = Retrieval(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))
    networks = Generator(settings), Discriminator(settings)
    save_model(DCGAN(settings, *networks, {"a": 1}, Inpainter(settings), memory), path)
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
