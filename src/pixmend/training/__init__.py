"""Training: records in, a run directory out."""

from pixmend.training.budget import plan_training, prepare_records, resolve_training
from pixmend.training.callbacks import Progress
from pixmend.training.loop import train
from pixmend.training.monitor import Scores
from pixmend.training.run_directory import RunDirectory, is_run
from pixmend.training.settings import (
    TrainSettings,
    parse_overrides,
    read_recipe,
    recipe_names,
    resolve,
    to_toml,
)
