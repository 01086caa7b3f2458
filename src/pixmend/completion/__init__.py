"""Completion: a model, an image and a mask in; a `Completion` out.

picture, mask --frame--> target at model size --starts, search--> z* --G--> image --blend--> only the hole changes
"""

from pixmend.completion.average import Answer
from pixmend.completion.blend import Blend
from pixmend.completion.complete import complete, complete_batch, fitted
from pixmend.completion.files import (
    Names,
    OutputNames,
    beside,
    in_the_way,
    plan_targets,
    relative_to,
    write_completion,
)
from pixmend.completion.film import film_frames, film_steps
from pixmend.completion.glimpse import Glimpse
from pixmend.completion.job import Job, Options
from pixmend.completion.mask_files import mask_file, open_mask
from pixmend.completion.methods import METHODS, Method, find_method
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.search import SearchState
from pixmend.completion.windows import Look, Window

__all__ = [
    "METHODS",
    "Answer",
    "Blend",
    "Candidate",
    "Completion",
    "Glimpse",
    "Job",
    "Look",
    "Method",
    "Names",
    "Options",
    "OutputNames",
    "SearchState",
    "Window",
    "beside",
    "complete",
    "complete_batch",
    "film_frames",
    "film_steps",
    "find_method",
    "fitted",
    "in_the_way",
    "mask_file",
    "open_mask",
    "plan_targets",
    "relative_to",
    "write_completion",
]
