"""Completion: a model, an image and a mask in; a `Completion` out.

picture, mask --frame--> target at model size --starts, search--> z* --G--> image --blend--> only the hole changes
"""

from pixmend.completion.average import Answer
from pixmend.completion.complete import Job, Options, complete, complete_batch, fitted
from pixmend.completion.methods import METHODS, Method, find_method
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.search import SearchState

__all__ = [
    "METHODS",
    "Answer",
    "Candidate",
    "Completion",
    "Job",
    "Method",
    "Options",
    "SearchState",
    "complete",
    "complete_batch",
    "find_method",
    "fitted",
]
