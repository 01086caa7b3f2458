"""What a run shows of itself beside its log: scores, the best model, the page, TensorBoard."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.images import Pixels
from pixmend.models import DCGAN, save_model
from pixmend.training.log import Log
from pixmend.training.monitor import Monitor, Scores, better, collapse_of, read_scores
from pixmend.training.outbox import DeferredWriter
from pixmend.training.report import write_report
from pixmend.training.run import RunDirectory
from pixmend.training.settings import TrainSettings
from pixmend.training.split import Split
from pixmend.training.track import open_tracker

Read: TypeAlias = Callable[[Sequence[int] | NDArray[np.int64]], Pixels]


class Watch:
    """Scores each checkpoint once, and shows it.

    Attributes
    ----------
    collapse
        What is to be said of the last checkpoint if its samples collapsed; "" if they did not.

    Raises
    ------
    SettingsError
        ``track`` is set and TensorBoard is missing.
    """

    def __init__(self, run: RunDirectory, settings: TrainSettings, outbox: DeferredWriter) -> None:
        self._run, self._settings, self._outbox = run, settings, outbox
        self._log = Log(run.scores)
        self._scored = read_scores(run.scores) if settings.monitor else []
        self._monitor: Monitor | None = None
        self._news: Scores | None = None
        self.collapse = ""
        self._tracker = open_tracker(run.tensorboard) if settings.tensorboard else None

    def open(self, read: Read, split: Split, device: torch.device) -> None:
        """Look at the images to judge by."""
        if self._settings.monitor:
            self._monitor = Monitor(read, split, self._settings, device)

    def go_to(self, step: int) -> None:
        """Forget the scores of later steps, which will be done again."""
        if self._settings.monitor:
            self._scored = [scores for scores in self._scored if scores.step <= step]
            self._log.cut(step)
            self._write_scores()

    def line(self, facts: Mapping[str, float | None]) -> None:
        """Show a line of the log."""
        if self._tracker is not None:
            self._tracker.log(facts)

    def checkpoint(self, model: DCGAN, grid: Pixels, *, step: int, images: int) -> None:
        """Score and show a checkpoint's model, and keep it if it is the best so far; ``grid`` is uint8 [H, W, 3]."""
        self.collapse = ""
        if self._monitor is not None and all(scores.step != step for scores in self._scored):
            self._score(self._monitor, model, step, images)
        if self._tracker is not None:
            self._tracker.checkpoint(step, grid, self._scored[-1] if self._scored else None)
        write = partial(write_report, self._run, self._settings)
        self._outbox.put("report", step, write)

    def calibrated(self, model: DCGAN) -> DCGAN:
        """Return the model with what its completions are worth in its card, if held-out images can tell."""
        calibration = None if self._monitor is None else self._monitor.calibrate(model)
        return (
            model
            if calibration is None
            else replace(model, card={**model.card, "calibration": calibration.to_json()})
        )

    def news(self) -> Scores | None:
        """Return the scores of the last checkpoint, once."""
        news, self._news = self._news, None
        return news

    def _score(self, monitor: Monitor, model: DCGAN, step: int, images: int) -> None:
        scores = monitor.score(model, step=step, images=images)
        best = next((each for each in reversed(self._scored) if each.best), None)
        self.collapse = collapse_of(scores, self._scored)
        if not self.collapse and better(scores, best):
            scores = replace(scores, best=True)
            self._outbox.put("best", model, partial(save_model, path=self._run.best))
        # After the model: a line that says "best" is of a model that is there.
        self._scored.append(scores)
        self._news = scores
        self._log.add(asdict(scores))
        self._write_scores()

    def _write_scores(self) -> None:
        self._outbox.put("monitor", None, lambda _: self._log.write())
