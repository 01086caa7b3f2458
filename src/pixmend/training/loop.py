"""The training loop (Goodfellow 2014, Algorithm 1), with logs, checkpoints and rollbacks."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.errors import DivergedError, StoppedError
from pixmend.records import Records
from pixmend.rng import seed_for
from pixmend.training.budget import Clock, settle_precision
from pixmend.training.callbacks import Callbacks, Progress
from pixmend.training.checkpoint import (
    broadcast_checkpoint,
    drop_checkpoints,
    main_checkpoint,
    newest_checkpoint,
    write_checkpoint,
)
from pixmend.training.data import BatchLoader
from pixmend.training.data_parallel import check_shares, shares_warning
from pixmend.training.deferred import DeferredWriter
from pixmend.training.export import write_examples
from pixmend.training.run_directory import RunDirectory, open_run, shares_of
from pixmend.training.settings import TrainSettings
from pixmend.training.split import open_split
from pixmend.training.step import TrainStep
from pixmend.training.train_state import initial_state

_TIMED_CHECKPOINTS = 10  # of a run with ``minutes``
_NO_LOSSES = (math.nan, math.nan)


def train(
    records: Records,
    run: Path,
    settings: TrainSettings,
    *,
    data_name: str = "",
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = SINGLE_PROCESS,
) -> Iterator[Progress]:
    """Start or resume the run in the directory ``run``; yields after every step.

    However often a run is interrupted, its weights after N steps are the same, bit for bit on a
    CPU. With ``minutes`` they are not, as the schedule follows the clock. Non-finite updates are
    skipped. After 5 in a row, non-finite weights or collapsed samples, the run returns to its last
    good checkpoint once, with other draws; the second time is a DivergedError. Failed writes are
    retried.

    ``should_stop`` is called after every step and while images are decoded. If it returns true in
    one process of the ``group``, all save the state and stop. RunError: the directory holds another
    run, or only damaged checkpoints. OutputError: the disk is full at the start or at the end.
    """
    settings = settle_precision(settings, run, group)
    check_shares(settings, records, group)
    facts = {"data": data_name, "data_digest": records.digest, "data_count": len(records)}
    facts["processes"] = group.world
    before = group.broadcast_object(shares_of(run))
    directory = RunDirectory(run)
    opened = open_run(directory, settings, facts) if group.is_main else contextlib.nullcontext()
    with opened:
        trainer = Trainer(records, directory, settings, group)
        if trainer.restore():
            trainer.warn(shares_warning(before, settings, group))
            yield trainer.progress("resumed")
        if not trainer.open(records, should_stop):
            yield trainer.progress("stopped")
            return
        event = ""
        while trainer.done < 1 and event != "stopped":
            losses, event = _NO_LOSSES, ""
            try:
                losses = trainer.step()
                trainer.log_if_due()
                event = trainer.save_if_due(should_stop)
            except DivergedError as error:
                trainer.roll_back(error)
                event = "rolled back"
            trainer.writer.retry_if_due()
            if event == "stopped":
                trainer.writer.flush()
            yield trainer.progress(event, losses)
        if event != "stopped":
            trainer.writer.flush()
            yield trainer.progress("done")


class Trainer:
    """One session of a run: its state, and everything that observes it."""

    def __init__(
        self, records: Records, run: RunDirectory, settings: TrainSettings, group: Group
    ) -> None:
        self.run, self.settings, self.group = run, settings, group
        self.device = group.device(settings.device)
        self.clock = Clock(settings, group)
        self.done = 0.0  # share of the run
        self._warnings: list[str] = []
        self._losses: list[tuple[float, float]] = []  # since the last line of the log
        self._rate, self._images = 0.0, 0  # images/s and images of this session
        split = open_split(
            run.split, records, seed=settings.seed, share=settings.held_out, group=group
        )
        if group.is_main and len(split.held_out):
            write_examples(run, records, split)
        self.loader = BatchLoader(records.images, settings, self.device, split.training, group)
        self.writer = DeferredWriter(self.warn)
        # The main process alone scores and shows the run.
        silent = {} if group.is_main else {"monitor": False, "tensorboard": False}
        observed = settings.model_copy(update=silent)
        self.callbacks = Callbacks(records, run, observed, split, self.loader, self.writer)

    def warn(self, message: str) -> None:
        """Add a message to the next progress."""
        if message:
            self._warnings.append(message)

    def progress(self, event: str = "", losses: tuple[float, float] = _NO_LOSSES) -> Progress:
        """Return the position of the run, with the warnings and scores since the last one."""
        warning = "; ".join(self._warnings)
        self._warnings.clear()
        return Progress(
            self.state.step,
            self.settings.steps,
            self.state.images,
            *losses,
            self._rate,
            min(self.done, 1.0),
            event,
            warning,
            self.callbacks.new_scores(),
        )

    def restore(self, *, rollbacks: int = 0) -> bool:
        """Restore the last checkpoint, or the initial state; return whether there is one."""
        self.state = initial_state(self.settings, self.device, self.group)
        checkpoint = None
        if self.group.is_main:
            pending = self.writer.pending("checkpoint")
            checkpoint = pending or newest_checkpoint(self.run.checkpoints)
        restored = broadcast_checkpoint(checkpoint, self.state)
        self.state.rollbacks = max(self.state.rollbacks, rollbacks)
        # After a rollback the same draws would lead to the same end.
        seed, times = self.settings.seed, self.state.rollbacks
        self.loader.reseed(seed_for(seed, "rollback", times) if times else seed)
        self._step = TrainStep(self.state, self.settings, self.loader, self.warn)
        self._losses.clear()
        if self.group.is_main:
            seconds = self.callbacks.rewind(self.state.step)
            if not rollbacks:
                self.clock.earlier = seconds
        return restored

    def open(self, records: Records, should_stop: Callable[[], bool]) -> bool:
        """Decode the images, and prepare the first step unless a process is asked to stop."""
        stopped = False
        try:
            self.loader.open(records, should_stop)
        except StoppedError:
            stopped = True
        if self.group.any(stopped):
            return False
        self.callbacks.open()
        self._export_if_missing()  # a kill may have come between checkpoint and export
        self._started = time.monotonic()
        self.done = self.clock.done(self.state.step)
        return True

    def step(self) -> tuple[float, float]:
        """Take a step; return the mean losses of D and G, NaN if it was skipped."""
        before = self.state.images
        losses = self._step.take(*self.clock.place(self.state.step, self.done))
        self._images += self.state.images - before
        self._rate = self._images / max(time.monotonic() - self._started, 1e-9)
        if all(map(math.isfinite, losses)):
            self._losses.append(losses)
        self._before, self.done = self.done, self.clock.done(self.state.step)
        return losses

    def log_if_due(self) -> None:
        """Write a line of the log, with mean losses, if one is due."""
        if self.state.step % self.settings.log_every and self.done < 1:
            return
        means = [round(float(mean), 6) for mean in np.mean(self._losses or [_NO_LOSSES], axis=0)]
        loss_d, loss_g = means if self._losses else (None, None)
        self._losses.clear()
        if self.group.is_main:
            line: dict[str, float | None] = {
                "step": self.state.step,
                "images": self.state.images,
                "seconds": round(self.clock.seconds, 3),
                "images_per_second": round(self._rate, 2),
                "loss_d": loss_d,
                "loss_g": loss_g,
                "skipped": self.state.skipped,
                "rollbacks": self.state.rollbacks,
            }
            self.callbacks.log(line)

    def save_if_due(self, should_stop: Callable[[], bool]) -> str:
        """Save a checkpoint if one is due or a process is asked to stop; return the event."""
        step, settings = self.state.step, self.settings
        stop = self.group.any(should_stop())
        due = step % settings.checkpoint_every == 0 or self.done >= 1
        if settings.minutes is not None:
            # Enough checkpoints for a report, however fast the machine is.
            count, before = (int(share * _TIMED_CHECKPOINTS) for share in (self.done, self._before))
            due = due or before < count
        if not (stop or due):
            return ""
        self._save()
        if settings.minutes is not None:
            # The time of a checkpoint does not bring the next one forward.
            self.done = self.clock.done(step)
        # Asked again: a checkpoint takes a while, and is a good place to stop.
        return "stopped" if stop or self.group.any(should_stop()) else "checkpoint"

    def roll_back(self, error: DivergedError) -> None:
        """Return to the last checkpoint, with other draws; the second time raise DivergedError."""
        rollbacks = self.state.rollbacks + 1
        self.restore(rollbacks=rollbacks)
        self.done = self.clock.done(self.state.step)
        self._export_if_missing()
        if rollbacks > 1:
            self.writer.retry()
            raise DivergedError(
                f"{self.run.path}: {error}, again after a rollback; "
                "the last checkpoint is good: try a smaller learning_rate in a new run directory"
            ) from error
        self.warn(f"{error}; rolled back to step {self.state.step}, with other draws")

    def _save(self) -> None:
        """Write a checkpoint, then its export and scores.

        DivergedError, in all processes: the state is not finite, or its samples collapsed since an
        earlier checkpoint.
        """
        started = time.monotonic()
        checkpoint = main_checkpoint(self.state)
        if checkpoint is not None:
            folder, keep = self.run.checkpoints, self.settings.keep_checkpoints
            write = partial(write_checkpoint, folder=folder, keep=keep)
            self.writer.put("checkpoint", checkpoint, write)
            self.callbacks.checkpoint(self.state)
            self.clock.reserve = time.monotonic() - started
        collapse = self.callbacks.collapse
        if collapse:
            if drop_checkpoints(self.run.checkpoints, since=self.state.step):
                self.writer.drop("checkpoint")
            else:
                self.warn(f"{collapse}; no earlier checkpoint to roll back to")
                collapse = ""
        collapse = self.group.broadcast_object(collapse)
        if collapse:
            raise DivergedError(collapse)

    def _export_if_missing(self) -> None:
        step = self.state.step
        if self.group.is_main and step and not self.callbacks.is_exported(step):
            self.callbacks.checkpoint(self.state)
