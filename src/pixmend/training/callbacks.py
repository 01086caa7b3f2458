"""What accompanies the loop: progress, the log, TensorBoard, and what each checkpoint leaves."""

import contextlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pixmend.errors import ModelFileError, SettingsError, install_hint
from pixmend.images import Pixels, encode_png
from pixmend.models import DCGAN, read_header, save_model
from pixmend.records import Records
from pixmend.storage import StorePath, append_line, parse_json, write_text
from pixmend.training.data import BatchLoader
from pixmend.training.deferred import DeferredWriter
from pixmend.training.export import export_model, sample_grid, write_frame
from pixmend.training.monitor import Monitor, Scores, collapse_warning, is_better, read_scores
from pixmend.training.run_directory import RunDirectory
from pixmend.training.run_report import write_report
from pixmend.training.settings import TrainSettings
from pixmend.training.split import Split
from pixmend.training.train_state import TrainState

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@dataclass(frozen=True)
class Progress:
    """The position of a run after a step."""

    step: int
    steps: int  # in all
    images: int  # that D has seen
    loss_d: float  # mean of the step
    loss_g: float
    images_per_second: float  # of this session
    done: float  # share of the run, by steps or by time, 0 to 1
    event: str = ""  # "resumed", "checkpoint", "rolled back", "stopped", "done" or ""
    warning: str = ""
    scores: Scores | None = None  # of a checkpoint, in the main process


class Log:
    """A JSONL file, whose lines wait in memory while the disk is full."""

    def __init__(self, path: Path, writer: DeferredWriter) -> None:
        self._path, self._writer = path, writer
        self._lines: list[str] | None = None  # what replaces the file, after `cut`
        self._pending: list[str] = []

    def add(self, facts: Mapping[str, object]) -> None:
        self._pending.append(json.dumps(facts, allow_nan=False))
        self._put()

    def cut(self, step: int) -> float:
        """Drop damaged lines and those of later steps; return the seconds of the last line left."""
        lines = self._lines
        if lines is None:
            place = StorePath(self._path)
            lines = place.read_text().splitlines() if place.exists() else []
        seconds = 0.0
        self._lines, candidates, self._pending = [], [*lines, *self._pending], []
        for line in candidates:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                facts = parse_json(line)
                if facts["step"] <= step:
                    seconds = float(facts["seconds"])
                    self._lines.append(line)
        self._put()
        return seconds

    def _put(self) -> None:
        self._writer.put(self._path.stem, None, lambda _: self._write())

    def _write(self) -> None:
        if self._lines is not None:
            lines = [*self._lines, *self._pending]
            write_text(self._path, "".join(f"{line}\n" for line in lines))
        elif self._pending:
            append_line(self._path, "\n".join(self._pending))
        self._lines, self._pending = None, []


class Callbacks:
    """Observes a run, in the main process: exports, scores and shows its checkpoints."""

    def __init__(
        self,
        records: Records,
        run: RunDirectory,
        settings: TrainSettings,
        split: Split,
        loader: BatchLoader,
        writer: DeferredWriter,
    ) -> None:
        self._records, self._run, self._settings = records, run, settings
        self._split, self._loader, self._writer = split, loader, writer
        self._log, self._score_log = Log(run.log, writer), Log(run.scores, writer)
        self._scores = read_scores(run.scores) if settings.monitor else []
        self._monitor: Monitor | None = None
        self._new_scores: Scores | None = None
        self.collapse = ""  # the warning of the last checkpoint if its samples collapsed
        self._tensorboard: SummaryWriter | None = None
        if settings.tensorboard:
            try:
                tensorboard = importlib.import_module("torch.utils.tensorboard")
            except ImportError as error:
                raise SettingsError(
                    "tensorboard = true: TensorBoard is not installed; "
                    f"{install_hint('tensorboard')}; or leave the setting out"
                ) from error
            self._tensorboard = tensorboard.SummaryWriter(str(run.tensorboard))

    def open(self) -> None:
        if self._settings.monitor:
            loader = self._loader
            self._monitor = Monitor(loader.read, self._split, self._settings, loader.device)

    def rewind(self, step: int) -> float:
        """Drop logs and scores of later steps; return the seconds of training up to this one."""
        if self._settings.monitor:
            self._scores = [scores for scores in self._scores if scores.step <= step]
            self._score_log.cut(step)
        return self._log.cut(step)

    def log(self, line: Mapping[str, float | None]) -> None:
        self._log.add(line)
        for key in ("loss_d", "loss_g", "images_per_second"):
            value = line[key]
            if self._tensorboard is not None and value is not None:
                self._tensorboard.add_scalar(f"training/{key}", value, int(line["step"] or 0))

    def checkpoint(self, state: TrainState) -> None:
        """Write a checkpoint's sample grid, animation, scores, report and, last, model file."""
        model = export_model(state, self._settings, self._records, self._split, self._loader)
        samples = sample_grid(model, self._settings)
        frame = self._frame(state.step)
        write = partial(write_frame, frame=frame, run=self._run)
        self._writer.put(frame.name, encode_png(samples), write)
        self.collapse = ""
        if self._monitor is not None:
            calibration = self._monitor.calibrate(model)
            if calibration is not None:
                model = replace(model, card={**model.card, "calibration": calibration.to_json()})
            if all(each.step != state.step for each in self._scores):
                self._score(self._monitor, model, state)
        self._show(state.step, samples)
        report = partial(write_report, self._run, self._settings)
        self._writer.put("report", state.step, report)
        self._writer.put("model", model, partial(save_model, path=self._run.model))

    def is_exported(self, step: int) -> bool:
        """Whether model file and sample grid are those of this step."""
        try:
            card = read_header(self._run.model)["card"]
            return bool(card["steps"] == step) and self._frame(step).exists()
        except (ModelFileError, KeyError, TypeError):
            return False

    def new_scores(self) -> Scores | None:
        """Return the scores of the last checkpoint, once."""
        scores, self._new_scores = self._new_scores, None
        return scores

    def _frame(self, step: int) -> Path:
        return self._run.samples / f"step-{step:08d}.png"

    def _score(self, monitor: Monitor, model: DCGAN, state: TrainState) -> None:
        scores = monitor.score(model, step=state.step, images=state.images)
        best = next((each for each in reversed(self._scores) if each.best), None)
        self.collapse = collapse_warning(scores, self._scores)
        if not self.collapse and is_better(scores, best):
            scores = replace(scores, best=True)
            self._writer.put("best", model, partial(save_model, path=self._run.best))
        # After the model: the line of the best checkpoint implies its model file.
        self._scores.append(scores)
        self._new_scores = scores
        self._score_log.add(asdict(scores))

    def _show(self, step: int, samples: Pixels) -> None:
        """Show samples, uint8 [H, W, 3], and scores in TensorBoard."""
        if self._tensorboard is None:
            return
        self._tensorboard.add_image("samples", samples, step, dataformats="HWC")
        if self._scores:
            scores = self._scores[-1]
            values = asdict(scores)
            values |= {f"hole psnr {mask}": psnr for mask, psnr in scores.psnr.items()}
            for key, value in values.items():
                if isinstance(value, float):
                    self._tensorboard.add_scalar(f"monitor/{key.replace(':', ' ')}", value, step)
        self._tensorboard.flush()
