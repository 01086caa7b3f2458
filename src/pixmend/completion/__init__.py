"""Completion: a model, an image and a mask in; a `Completion` out.

picture, mask --frame--> target at model size --starts, search--> z* --G--> image --blend--> only the hole changes
"""

from pixmend.completion.average import Answer
from pixmend.completion.blend import Blend
from pixmend.completion.complete import complete, complete_batch, for_model
from pixmend.completion.files import (
    Names,
    OutputNames,
    beside,
    conflicting_outputs,
    plan_targets,
    relative_to,
    write_completion,
)
from pixmend.completion.film import animation_frames, animation_steps
from pixmend.completion.glimpse import Preview
from pixmend.completion.job import CompletionOptions, Task
from pixmend.completion.mask_files import mask_file, open_mask
from pixmend.completion.methods import METHODS, Method, find_method
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.state import SearchState
from pixmend.completion.windows import View, Window

__all__ = [
    "METHODS",
    "Answer",
    "Blend",
    "Candidate",
    "Completion",
    "CompletionOptions",
    "Method",
    "Names",
    "OutputNames",
    "Preview",
    "SearchState",
    "Task",
    "View",
    "Window",
    "animation_frames",
    "animation_steps",
    "beside",
    "complete",
    "complete_batch",
    "conflicting_outputs",
    "find_method",
    "for_model",
    "mask_file",
    "open_mask",
    "plan_targets",
    "relative_to",
    "write_completion",
]
