"""Evaluation: whether a model can complete its domain, and better than what needs no model.

images ──choose_held_out──▶ HeldOut: none of them a training image over again
    │ carry_out          the same images, masks and seeds for all methods, batch by batch
    ▼
results.csv, answers/    a row and a picture of each answer
    │ summarise          means, intervals over families, differences in pairs
    │ diagnose           why, in words, and what to try
    ▼
report.html, report.json
"""

from pixmend.evaluation.diagnosis import Diagnostic
from pixmend.evaluation.evaluate import Evaluation, ModelUnderTest, evaluate, methods_of
from pixmend.evaluation.heldout import (
    Files,
    HeldOut,
    Recorded,
    TrainingImages,
    choose_held_out,
    open_training,
)
from pixmend.evaluation.intervals import Interval, mean_interval
from pixmend.evaluation.ledger import Row
from pixmend.evaluation.methods_under_test import (
    Answered,
    EvaluatedMethod,
    available,
    find_contestants,
    outsider,
)
from pixmend.evaluation.outside import Outside, parse_completions, write_tasks
from pixmend.evaluation.protocol import MASKS, Batch, Engine, Order, Protocol, Step, answer
from pixmend.evaluation.rivals import RIVALS
from pixmend.evaluation.summary import Cell, Summary
from pixmend.evaluation.yeh import YEH_MASKS, yeh_table

__all__ = [
    "MASKS",
    "RIVALS",
    "YEH_MASKS",
    "Answered",
    "Batch",
    "Cell",
    "Diagnostic",
    "Engine",
    "EvaluatedMethod",
    "Evaluation",
    "Files",
    "HeldOut",
    "Interval",
    "ModelUnderTest",
    "Order",
    "Outside",
    "Protocol",
    "Recorded",
    "Row",
    "Step",
    "Summary",
    "TrainingImages",
    "answer",
    "available",
    "choose_held_out",
    "evaluate",
    "find_contestants",
    "mean_interval",
    "methods_of",
    "open_training",
    "outsider",
    "parse_completions",
    "write_tasks",
    "yeh_table",
]
