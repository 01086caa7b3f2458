"""Loading a model of either kind: a model file, which torch completes with, or an ONNX file, which needs no torch."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixmend.errors import SettingsError, install_hint

if TYPE_CHECKING:
    from pixmend.api import Model
    from pixmend.onnx.runtime import OnnxModel

# Packages of the extra train.
TRAIN_PACKAGES = frozenset({"torch", "safetensors", "scipy", "pyamg", "jinja2"})


def load(model: str | Path = "characters", *, device: str = "auto") -> "Model | OnnxModel":
    """Load a model file, a run directory's model, a bundled model by name, or an ONNX file.

    Raise a ModelFileError that says why if the file is missing or damaged. ONNX files run on the CPU.
    """
    given: object = model  # an image, by those who forget the model
    if not isinstance(given, str | os.PathLike):
        kind = type(given).__name__
        raise SettingsError(f"model: a {kind}; name a file, a run, a URL, or a bundled model")
    if is_onnx(model):
        from pixmend.onnx.runtime import OnnxModel

        return OnnxModel.load(model)
    try:
        from pixmend import api
    except ModuleNotFoundError as error:
        raise missing_package(error, f"{model}: a model file") from error
    return api.load(model, device=device)


def complete(model: str | Path, image: Any, mask: Any = "auto") -> Any:  # noqa: ANN401
    """Complete images with a model named as in `load`; `pixmend.api.Model.complete` has all options."""
    return load(model).complete(image, mask)


def is_onnx(model: str | Path) -> bool:
    """Whether a model is named as an ONNX file."""
    return str(model).lower().endswith(".onnx")


def missing_package(error: ModuleNotFoundError, what: str) -> Exception:
    """Return the error of a package of the extra train that is missing; other errors as they are."""
    package = (error.name or "").partition(".")[0]
    if package not in TRAIN_PACKAGES:
        return error
    return SettingsError(f"{what} needs {package}; {install_hint('train')}")
