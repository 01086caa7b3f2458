"""Completion: a model, an image and a mask in; a `Completion` out.

task --view--> target at model size --amortized or latent--> samples --blend--> the image, its hole filled
"""

import importlib
from typing import TYPE_CHECKING, Any

from pixmend.completion.output_files import (
    Completions,
    Names,
    OutputNames,
    beside,
    conflicting_outputs,
    plan_targets,
    write_completion,
)
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.task import (
    Answer,
    CompletionOptions,
    Task,
    View,
    mask_file,
    open_mask,
)

if TYPE_CHECKING:
    from pixmend.completion.animation import Preview, animation_frames, animation_steps
    from pixmend.completion.blend import Blend
    from pixmend.completion.methods import METHODS, Method, find_method
    from pixmend.completion.pipeline import complete, complete_batch, for_model
    from pixmend.completion.view import Window, windows_around

# Modules that import torch, which ONNX files do not need.
_WITH_TORCH = ("animation", "blend", "methods", "pipeline", "view")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    for module in () if name.startswith("_") else _WITH_TORCH:
        values = vars(importlib.import_module(f"{__name__}.{module}"))
        if name in values:
            return values[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
