"""What accompanies the loop: progress, the log, deferred writes, TensorBoard and the monitor."""

import copy
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.errors import OutputError, SettingsError
from pixmend.images import Pixels
from pixmend.models import DCGAN, save_model
from pixmend.storage import append_line, parse_json, write_text
from pixmend.training.monitor import Monitor, Scores, better, collapse_of, read_scores
from pixmend.training.run_directory import RunDirectory
from pixmend.training.run_report import write_report
from pixmend.training.settings import TrainSettings
from pixmend.training.split import Split


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    step, steps, images
        Iterations done and to do; training images that D has seen.
    loss_d, loss_g
        Means over the step's batch.
    images_per_second
        Since this sitting began.
    done
        Share of the run, by steps or by time, 0 to 1.
    event
        "resumed", "checkpoint", "rolled back", "stopped" or "done" when that is news; "" else.
    warning
        What the user should know, in words, when that is news; "" else.
    scores
        The monitor's, at a checkpoint; in the first process alone.
    """

    step: int
    steps: int
    images: int
    loss_d: float
    loss_g: float
    images_per_second: float
    done: float
    event: str = ""
    warning: str = ""
    scores: Scores | None = None


class Log:
    """Lines wait in memory until `write`, which may fail and be called again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[str] | None = None  # the lines that are to replace the file's
        self._waiting: list[str] = []

    def add(self, facts: Mapping[str, object]) -> None:
        """Add a line."""
        self._waiting.append(json.dumps(facts, allow_nan=False))

    def cut(self, step: int) -> float:
        """Drop what it says of later steps, which will be done again, and a last line that a crash cut short.

        Returns
        -------
        float
            Seconds of training up to the last line that stays.
        """
        seconds = 0.0
        lines: list[str] = []
        for line in [*self._written(), *self._waiting]:
            try:
                facts = parse_json(line)
                if facts["step"] <= step:
                    seconds = float(facts["seconds"])
                    lines.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        self._kept, self._waiting = lines, []
        return seconds

    def write(self) -> None:
        """Bring the file up to date.

        Raises
        ------
        OutputError
            It cannot be written; the lines stay waiting.
        """
        if self._kept is not None:
            write_text(self._path, "".join(f"{line}\n" for line in [*self._kept, *self._waiting]))
        elif self._waiting:
            append_line(self._path, "\n".join(self._waiting))
        self._kept, self._waiting = None, []

    def _written(self) -> Iterable[str]:
        if self._kept is not None:
            return self._kept
        return self._path.read_text(errors="replace").splitlines() if self._path.exists() else []


_RETRY_SECONDS = 60.0

Value = TypeVar("Value")


@dataclass(frozen=True)
class _Held:
    value: object
    write: Callable[[], None]


class DeferredWriter:
    """Writes what it is given, or holds a copy of it and tries again a minute later.

    What is written late is what would have been written in time, so a full disk changes no file in the end. Of each name only the
    latest value is held: memory stays bounded.

    Parameters
    ----------
    warn
        Told in words when something cannot be written, and when all of it is there after all.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._held: dict[str, _Held] = {}
        self._error: OutputError | None = None
        self._next_try = 0.0

    def put(self, name: str, value: Value, write: Callable[[Value], None]) -> None:
        """Call ``write(value)``; if that raises OutputError, hold a copy, in the place of an older one of that name."""
        held = self._held.pop(name, None)
        try:
            write(value)
        except OutputError as error:
            first = held is None and not self._held
            kept = copy.deepcopy(value)
            self._held[name] = _Held(kept, lambda: write(kept))
            self._error, self._next_try = error, time.monotonic() + _RETRY_SECONDS
            if first:
                self._warn(f"{error}; training goes on, and what is missing is tried again")
        else:
            self._tell_when_empty(held is not None)

    def held(self, name: str) -> object | None:
        """Return what is held under ``name``."""
        held = self._held.get(name)
        return None if held is None else held.value

    def drop(self, name: str) -> None:
        """Hold nothing under ``name`` any longer."""
        self._held.pop(name, None)

    def retry_when_due(self) -> None:
        """Try to write what is held, unless that was less than a minute ago."""
        if self._held and time.monotonic() >= self._next_try:
            self.retry()

    def retry(self) -> None:
        """Try to write what is held, now."""
        before = len(self._held)
        for name, held in list(self._held.items()):
            try:
                held.write()
            except OutputError as error:
                self._error, self._next_try = error, time.monotonic() + _RETRY_SECONDS
            else:
                del self._held[name]
        self._tell_when_empty(before > 0)

    def deliver(self) -> None:
        """Write what is held, at the end.

        Raises
        ------
        OutputError
            It still cannot be written.
        """
        self.retry()
        if self._held and self._error is not None:
            raise self._error

    def _tell_when_empty(self, wrote_late: bool) -> None:
        if wrote_late and not self._held:
            self._warn("what could not be written is written now")


if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Writes what the log and the monitor say under the step that they say it of."""

    def __init__(self, writer: "SummaryWriter") -> None:
        self._writer = writer

    def log(self, line: Mapping[str, float | None]) -> None:
        """Write a line of the log."""
        step = line["step"] or 0
        for key in ("loss_d", "loss_g", "images_per_second"):
            value = line[key]
            if value is not None:
                self._scalar(f"training/{key}", value, int(step))

    def checkpoint(self, step: int, grid: Pixels, scores: Scores | None) -> None:
        """Write a sample grid, uint8 [H, W, 3], and the scores where there are some; and flush."""
        self._writer.add_image("samples", grid, step, dataformats="HWC")
        if scores is not None:
            values = asdict(scores)
            values |= {f"hole psnr {mask}": psnr for mask, psnr in scores.psnr.items()}
            for key, value in values.items():
                if isinstance(value, float):
                    self._scalar(f"monitor/{key.replace(':', ' ')}", value, step)
        self._writer.flush()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)


def open_tracker(folder: Path) -> Tracker:
    """Return a tracker that writes into ``folder``.

    Raises
    ------
    SettingsError
        TensorBoard is not installed; names the extra.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            "tensorboard = true: TensorBoard is not installed; run pip install 'pixmend[tensorboard]' or leave it out"
        ) from error
    return Tracker(SummaryWriter(str(folder)))


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
