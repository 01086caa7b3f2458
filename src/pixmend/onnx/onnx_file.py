"""The ONNX file of a model: its graph, then facts as JSON, with a digest of all that precedes them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, external_data_helper, helper

from pixmend.errors import ModelFileError, OutputError, SettingsError
from pixmend.models import DCGAN, Calibration, Retrieval
from pixmend.onnx.graph import completion_graph
from pixmend.onnx.networks import DRAWS
from pixmend.onnx.runtime import FORMAT, KEY, MAX_SIDE, OnnxModel
from pixmend.storage import atomic_write

_OPSET, _IR_VERSION = 23, 11  # of onnxruntime since 1.22, and its packages for browsers
_LARGEST = 2**31 - 2**20  # bytes of a file of ONNX


def export_onnx(
    model: DCGAN, path: Path, *, half: bool = False, version: str = "", digest: str = ""
) -> OnnxModel:
    """Write a model as an ONNX file atomically, read it back, and return it.

    Parameters
    ----------
    half
        Store the weights as float16; all arithmetic remains float32.
    version, digest
        Kept among the facts: of pixmend, and the SHA-256 of the model's weights.

    Raises
    ------
    SettingsError
        The model has no inpainter, or its bank makes the file too large.
    OutputError
        The file cannot be written, or reads back damaged.
    """
    body = _completion_model(model, half=half, version=version).SerializeToString()
    facts = {**_facts(model, half), "version": version, "model_digest": digest}
    facts |= {"bytes": len(body), "digest": hashlib.sha256(body).hexdigest()}
    # Protocol buffers are joined by concatenation, so that a digest of bytes covers the whole graph.
    tail = onnx.ModelProto()
    tail.metadata_props.add(key=KEY, value=json.dumps(facts, sort_keys=True))

    def verify(written: Path) -> None:
        try:
            OnnxModel.load(written)
        except ModelFileError as error:
            raise OutputError(
                f"{path}: reads back damaged ({error}); the disk may be failing"
            ) from error

    with atomic_write(path, verify=verify) as file:
        file.write(body + tail.SerializeToString())
    return OnnxModel.load(path)


def completion_body(model: DCGAN, *, half: bool, version: str) -> tuple[bytes, bytes]:
    """Return a model whose retrieval images are external data at ``bank``, and these (empty if it has none).

    Errors are those of `export_onnx`.
    """
    exported, bank = _completion_model(model, half=half, version=version), b""
    if model.retrieval is not None:
        constants = exported.graph.initializer
        images = next(each for each in constants if each.data_type == TensorProto.UINT8)
        bank = images.raw_data
        external_data_helper.set_external_data(images, "bank", offset=0, length=len(bank))
        images.ClearField("raw_data")
    return exported.SerializeToString(), bank


def with_retrieval(model: DCGAN, count: int) -> DCGAN:
    """Return a model with ``count`` of its retrieval images, or all if it has fewer; 0 keeps all."""
    if model.retrieval is None or not 0 < count < len(model.retrieval):
        return model
    spread = torch.linspace(0, len(model.retrieval) - 1, count).long()
    return replace(model, retrieval=Retrieval(model.retrieval.images[spread]))


def _completion_model(model: DCGAN, *, half: bool, version: str) -> onnx.ModelProto:
    if model.inpainter is None:
        raise SettingsError(
            "the model has no inpainter, and ONNX files hold no search; train one with --set inpainter_filters=32"
        )
    bank = 0 if model.retrieval is None else model.retrieval.images.numel()
    if bank > _LARGEST:
        raise SettingsError(
            f"retrieval_images of {bank:,} bytes: an ONNX file holds 2 GiB; give --retrieval fewer"
        )
    return helper.make_model(
        completion_graph(model, half=half), opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION, producer_name="pixmend", producer_version=version,
    )  # fmt: skip


def _facts(model: DCGAN, half: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "size": model.settings.size,
        "channels": model.settings.channels,
        "max_side": MAX_SIDE,
        "max_candidates": DRAWS,
        "weights": "float16" if half else "float32",
        "calibrated": Calibration.of(model.card) is not None,
        "licence": model.card.get("licence"),
        "card": model.card,
    }
