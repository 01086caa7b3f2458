"""Evaluation: whether a model can complete its domain, and better than what needs no model.

images ──choose_held_out──▶ HeldOut: none of them a training image over again
    │ carry_out          the same images, masks and seeds for all contestants, batch by batch
    ▼
results.csv, answers/    a row and a picture of each answer
    │ summarise          means, intervals over families, differences in pairs
    │ diagnose           why, in words, and what to try
    ▼
report.html, report.json
"""

from pixmend.evaluation.contestants import Answered, Contestant, available, find_contestants
from pixmend.evaluation.diagnosis import Finding
from pixmend.evaluation.evaluate import Evaluation, evaluate
from pixmend.evaluation.heldout import Files, HeldOut, Recorded, TrainingImages, open_training
from pixmend.evaluation.intervals import Interval, mean_interval
from pixmend.evaluation.ledger import Row
from pixmend.evaluation.protocol import MASKS, Protocol, Step
from pixmend.evaluation.rivals import RIVALS
from pixmend.evaluation.summary import Cell, Summary

__all__ = [
    "MASKS",
    "RIVALS",
    "Answered",
    "Cell",
    "Contestant",
    "Evaluation",
    "Files",
    "Finding",
    "HeldOut",
    "Interval",
    "Protocol",
    "Recorded",
    "Row",
    "Step",
    "Summary",
    "TrainingImages",
    "available",
    "evaluate",
    "find_contestants",
    "mean_interval",
    "open_training",
]
