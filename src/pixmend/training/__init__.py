"""Training: records in, a run directory out."""

from pixmend.training.budget import CHOSEN, chosen_for, size_for
from pixmend.training.loop import Progress, train
from pixmend.training.monitor import Scores
from pixmend.training.run import RunDirectory, is_run, processes_of
from pixmend.training.settings import (
    TrainSettings,
    parse_overrides,
    read_recipe,
    recipe_names,
    resolve,
    to_toml,
)

__all__ = [
    "CHOSEN",
    "Progress",
    "RunDirectory",
    "Scores",
    "TrainSettings",
    "chosen_for",
    "is_run",
    "parse_overrides",
    "processes_of",
    "read_recipe",
    "recipe_names",
    "resolve",
    "size_for",
    "to_toml",
    "train",
]
