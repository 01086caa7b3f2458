"""The training loop: Goodfellow 2014, Algorithm 1, with a checkpoint and a sample grid every so often."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.errors import DivergedError, StoppedError
from pixmend.records import Records
from pixmend.rng import seed_for
from pixmend.training.budget import Clock
from pixmend.training.callbacks import DeferredWriter, Log, Progress, Watch
from pixmend.training.checkpoint import (
    Checkpoint,
    drop_checkpoints,
    newest_checkpoint,
    write_checkpoint,
)
from pixmend.training.data import Feed
from pixmend.training.export import Export
from pixmend.training.iteration import Iteration
from pixmend.training.run_directory import RunDirectory, RunFacts, open_run, parts_of, processes_of
from pixmend.training.settings import TrainSettings
from pixmend.training.split import open_split
from pixmend.training.state import initial_state
from pixmend.training.together import (
    broadcast_checkpoint,
    check_together,
    first_checkpoint,
    other_world,
    watched,
)

_CHECKPOINTS = 10  # of a run by time


def train(
    records: Records,
    run: Path,
    settings: TrainSettings,
    *,
    data_name: str = "",
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = SINGLE_PROCESS,
) -> Iterator[Progress]:
    """Train, or go on training, the run in the directory ``run``; yields after every step.

    The same call resumes: weights after N steps are the same, bit for bit on a CPU, however often the run was cut short. Not so where
    ``minutes`` are given: the schedule follows the time that training has taken.

    An update that is not finite is left out. After 5 such steps in a row, or when the weights themselves are not finite, or when the
    monitor finds that the samples collapsed, the run goes back to its last checkpoint before that, once, and on from there with other
    draws. What cannot be written is tried again later.

    Parameters
    ----------
    records
        The training images.
    should_stop
        Asked after every step and while images are decoded; when it says yes, the state is saved and the iteration ends, in all
        processes of the group.
    group
        The processes that train this run together, each by this call (`pixmend.distributed.open_group`); the first one writes.

    Raises
    ------
    RunError
        The directory holds another run (see `open_run`), or its checkpoints are all damaged.
    DivergedError
        Values were not finite, or samples collapsed, again after the run was taken back once; the last checkpoint is good.
    OutputError
        At the start or at the end the disk is full or not writable; the last checkpoint is good.
    """
    check_together(settings, records, group)
    facts = RunFacts(data_name, records.digest, len(records), group.world)
    before = group.broadcast_object([processes_of(run), parts_of(run)])
    warning = other_world(before, settings, group)
    opened = (
        open_run(run, settings, facts)
        if group.is_main
        else contextlib.nullcontext(RunDirectory(run))
    )
    with opened as directory:
        yield from Trainer(records, directory, settings, group, warning).steps(should_stop)


@dataclass
class Trainer:
    """One sitting of a run: from its newest checkpoint to the end, or to where it is stopped."""

    records: Records
    run: RunDirectory
    settings: TrainSettings
    group: Group
    warning: str  # for a run that goes on
    losses: list[tuple[float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    done: float = 0.0  # share of the run
    seen: int = 0  # images, in this sitting

    def __post_init__(self) -> None:
        settings, group = self.settings, self.group
        self.device = group.device(settings.device)
        self.clock = Clock(settings, group)
        records, run = self.records, self.run
        self.split = open_split(
            run.split, records, seed=settings.seed, share=settings.held_out, group=group
        )
        self.feed = Feed(records, settings, self.device, self.split.training, group)
        # The first process's alone are given something to write.
        self.outbox, self.log = DeferredWriter(self.warnings.append), Log(run.log)
        self.watch = Watch(run, watched(settings, group), self.outbox)
        self.export = Export(records, run, settings, self.split, self.feed, self.outbox, self.watch)

    def steps(self, should_stop: Callable[[], bool]) -> Iterator[Progress]:
        """Resume, then train to the end or to where ``should_stop`` says so; yield after every step."""
        resumed = self._resume()
        if resumed:
            self.warnings += [self.warning] if self.warning else []
            yield self._progress(event="resumed")
        if self._open_feed(should_stop):
            yield self._progress(event="stopped")
            return
        self.watch.open(self.feed.read, self.split, self.device)
        if resumed:
            self._show()  # a kill may have come between a checkpoint and its model
        started, rate = time.monotonic(), 0.0
        self.done = self.clock.done(self.state.step)
        while self.done < 1:
            losses, event = (math.nan, math.nan), ""
            try:
                losses = self._step()
                rate = self.seen / max(time.monotonic() - started, 1e-9)
                event = self._save_when_due(rate, should_stop)
            except DivergedError as error:
                self._roll_back(error)
                event = "rolled back"
            self.outbox.retry_when_due()
            if event == "stopped":
                self.outbox.deliver()
            yield self._progress(losses, rate, event)
            if event == "stopped":
                return
        self.outbox.deliver()
        yield self._progress(event="done")

    def _open_feed(self, should_stop: Callable[[], bool]) -> bool:
        """Decode the images; return whether a process was asked to stop meanwhile."""
        stopped = False
        try:
            self.feed.open(should_stop)
        except StoppedError:
            stopped = True
        return self.group.any(stopped)

    def _step(self) -> tuple[float, float]:
        """Take an iteration; return the mean losses, NaN of a step that was left out."""
        before = self.state.images
        losses = self.iteration.take(*self.clock.place(self.state.step, self.done))
        self.seen += self.state.images - before
        if all(map(math.isfinite, losses)):
            self.losses.append(losses)
        return losses

    def _save_when_due(self, rate: float, should_stop: Callable[[], bool]) -> str:
        """Write the log and a checkpoint if this step has one; return the event."""
        step, settings = self.state.step, self.settings
        before, self.done = self.done, self.clock.done(step)
        if step % settings.log_every == 0 or self.done >= 1:
            self._log(rate)
        stop = self.group.any(should_stop())
        due = step % settings.checkpoint_every == 0 or self.done >= 1
        if settings.minutes is not None:
            # As many checkpoints as a report can show something by, however fast the machine is.
            due = due or int(before * _CHECKPOINTS) < int(self.done * _CHECKPOINTS)
        if stop or due:
            self._checkpoint()
            if settings.minutes is not None:
                # What it took is no training: the next one is not due for that.
                self.done = self.clock.done(step)
            # Asked again: a checkpoint takes a while, and it is a good place to stop.
            return "stopped" if stop or self.group.any(should_stop()) else "checkpoint"
        return ""

    def _resume(self) -> bool:
        checkpoint = self._last_checkpoint()
        self.clock.before = self._go_to(checkpoint)
        return checkpoint is not None

    def _last_checkpoint(self) -> Checkpoint | None:
        """Return the first process's last checkpoint, written or still to be, in all processes."""
        found = None
        if self.group.is_main:
            held = self.outbox.held("checkpoint")
            found = (
                held if isinstance(held, Checkpoint) else newest_checkpoint(self.run.checkpoints)
            )
        return broadcast_checkpoint(found, self.group)

    def _roll_back(self, error: DivergedError) -> None:
        """Take the run back to its last checkpoint, to go on with other draws; the second time give up."""
        times = self.state.rollbacks + 1
        self._go_to(self._last_checkpoint(), rollbacks=times)
        self.done = self.clock.done(self.state.step)
        self._show()
        if times > 1:
            self.outbox.retry()
            raise DivergedError(
                f"{self.run.path}: {error}, again after the run was taken back once; "
                "the last checkpoint is good: try a smaller learning_rate in a new run directory"
            ) from error
        self.warnings.append(f"{error}; taken back to step {self.state.step}, with other draws")

    def _go_to(self, checkpoint: Checkpoint | None, *, rollbacks: int = 0) -> float:
        """Take the state of a checkpoint, or the first one; return the seconds of training up to there."""
        self.state = initial_state(self.settings, self.device, self.group)
        if checkpoint is not None:
            checkpoint.restore(self.state)
        self.state.rollbacks = max(self.state.rollbacks, rollbacks)
        seed, times = self.settings.seed, self.state.rollbacks
        # Other draws after it: the same ones would lead to the same end.
        self.feed.start(seed_for(seed, "rollback", times) if times else seed)
        self.iteration = Iteration(
            self.state, self.settings, self.feed, self.group, self.warnings.append
        )
        self.losses.clear()
        self.watch.go_to(self.state.step)
        if not self.group.is_main:
            return 0.0
        seconds = self.log.cut(self.state.step)
        self.outbox.put("log", None, lambda _: self.log.write())
        return seconds

    def _checkpoint(self) -> None:
        """Save the state, and then what people look at.

        Raises
        ------
        DivergedError
            It is not finite, and was not saved; or its samples have collapsed, and it was taken away again.
        """
        started = time.monotonic()
        checkpoint = first_checkpoint(self.state)
        if checkpoint is not None:
            write = partial(
                write_checkpoint, folder=self.run.checkpoints, keep=self.settings.keep_checkpoints
            )
            self.outbox.put("checkpoint", checkpoint, write)
            self.export.write(self.state)
            self.clock.last = time.monotonic() - started
        if self.settings.monitor:
            self._leave_collapse()

    def _leave_collapse(self) -> None:
        """Raise, in all processes, if the samples have collapsed and there is an earlier checkpoint to go back to."""
        collapse = self.watch.collapse
        if collapse:
            if drop_checkpoints(self.run.checkpoints, since=self.state.step):
                self.outbox.drop("checkpoint")
            else:
                self.warnings.append(f"{collapse}; no earlier checkpoint is left to go back to")
                collapse = ""
        collapse = self.group.broadcast_object(collapse)
        if collapse:
            raise DivergedError(collapse)

    def _show(self) -> None:
        """Write what people look at, of the checkpoint that the run goes on from, if that is not there."""
        step = self.state.step
        if self.group.is_main and step and not self.export.is_of(step):
            self.export.write(self.state)

    def _log(self, rate: float) -> None:
        mean_d, mean_g = (
            (round(float(mean), 6) for mean in np.mean(self.losses, axis=0))
            if self.losses
            else (None, None)
        )
        self.losses.clear()
        if not self.group.is_main:
            return
        line: dict[str, float | None] = {
            "step": self.state.step,
            "images": self.state.images,
            "seconds": round(self.clock.seconds, 3),
            "images_per_second": round(rate, 2),
            "loss_d": mean_d,
            "loss_g": mean_g,
            "skipped": self.state.skipped,
            "rollbacks": self.state.rollbacks,
        }
        self.log.add(line)
        self.watch.line(line)
        self.outbox.put("log", None, lambda _: self.log.write())

    def _progress(
        self,
        losses: tuple[float, float] = (math.nan, math.nan),
        rate: float = 0.0,
        event: str = "",
    ) -> Progress:
        warning = "; ".join(self.warnings)
        self.warnings.clear()
        state = self.state
        return Progress(
            state.step,
            self.settings.steps,
            state.images,
            *losses,
            rate,
            min(self.done, 1.0),
            event,
            warning,
            self.watch.news(),
        )
