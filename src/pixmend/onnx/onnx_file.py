"""The ONNX file of a model: its graph, then facts as JSON, with a digest of all that precedes them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from pixmend.errors import ModelFileError, OutputError, SettingsError
from pixmend.models import DCGAN, Calibration
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
    if model.inpainter is None:
        raise SettingsError(
            "the model has no inpainter, and ONNX files hold no search; train one with --set inpainter_filters=32"
        )
    bank = 0 if model.retrieval is None else model.retrieval.images.numel()
    if bank > _LARGEST:
        raise SettingsError(
            f"retrieval_images of {bank:,} bytes: an ONNX file holds 2 GiB; train with fewer"
        )
    graph = completion_graph(model, half=half)
    opsets = [helper.make_opsetid("", _OPSET)]
    body = helper.make_model(
        graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="pixmend",
        producer_version=version,
    ).SerializeToString()  # fmt: skip
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
