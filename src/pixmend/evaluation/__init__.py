"""Evaluation of models on unseen images, against baselines without a model."""

from pixmend.evaluation.baselines import BASELINES
from pixmend.evaluation.evaluated_methods import ModelUnderTest, find_methods, select_methods
from pixmend.evaluation.external_methods import parse_completions, write_tasks
from pixmend.evaluation.held_out import (
    EvaluationImages,
    HeldOut,
    TrainingImages,
    choose_held_out,
    open_training,
)
from pixmend.evaluation.report import YEH_MASKS, Evaluation, yeh_table
from pixmend.evaluation.results import BatchResult
from pixmend.evaluation.run import EvaluationBatch, EvaluationEngine, Step, evaluate, run_batch
from pixmend.evaluation.settings import EvaluationSpec
