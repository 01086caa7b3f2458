"""The training loop: Goodfellow 2014, Algorithm 1, with a checkpoint and a sample grid every so often."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.errors import DivergedError, ModelFileError, StoppedError
from pixmend.images import encode_png, grid, open_image, to_pixels, write_film
from pixmend.models import DCGAN, Encoder, Generator, read_header, sample_latents, save_model
from pixmend.processes import choose_device
from pixmend.randomness import generator_for, seed_for
from pixmend.records import Records
from pixmend.storage import write_bytes
from pixmend.training.average import freeze_pair, freeze_statistics
from pixmend.training.checkpoint import (
    Checkpoint,
    checkpoint_of,
    newest_checkpoint,
    write_checkpoint,
)
from pixmend.training.feed import Feed
from pixmend.training.finite import Statistics
from pixmend.training.inversion import Drawn, draw
from pixmend.training.log import Log
from pixmend.training.monitor import Scores
from pixmend.training.outbox import Outbox
from pixmend.training.regularise import plain
from pixmend.training.run import RunDirectory, RunFacts, open_run
from pixmend.training.settings import TrainSettings
from pixmend.training.split import open_split
from pixmend.training.state import (
    discriminator_step,
    encoder_step,
    generator_step,
    initial_state,
    modules_of,
    set_learning_rates,
)
from pixmend.training.watch import Watch

__all__ = ["Progress", "train"]

_MAX_FRAMES = 120
_PATIENCE = 5  # steps in a row that are not finite, before the run is taken back


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
    event
        "resumed", "checkpoint", "rolled back", "stopped" or "done" when that is news; "" else.
    warning
        What the user should know, in words, when that is news; "" else.
    scores
        The monitor's, at a checkpoint.
    """

    step: int
    steps: int
    images: int
    loss_d: float
    loss_g: float
    images_per_second: float
    event: str = ""
    warning: str = ""
    scores: Scores | None = None


def train(
    records: Records,
    run: Path,
    settings: TrainSettings,
    *,
    data_name: str = "",
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Train, or go on training, the run in the directory ``run``; yields after every step.

    The same call resumes: weights after N steps are the same, bit for bit on a CPU, however often the run was cut short.

    An update that is not finite is left out. After 5 such steps in a row, or when the weights themselves are not finite, the run
    goes back to its last checkpoint, once, and on from there with other draws. What cannot be written is tried again later.

    Parameters
    ----------
    records
        The training images.
    should_stop
        Asked after every step and while images are decoded; when it says yes, the state is saved and the iteration ends.

    Raises
    ------
    RunError
        The directory holds another run (see `open_run`), or its checkpoints are all damaged.
    DivergedError
        Values were not finite again after the run was taken back once; the last checkpoint is good.
    OutputError
        At the start or at the end the disk is full or not writable; the last checkpoint is good.
    """
    facts = RunFacts(data_name, records.digest, len(records))
    with open_run(run, settings, facts) as directory:
        yield from _Sitting(records, directory, settings).steps(should_stop)


@dataclass
class _Sitting:
    """One sitting of a run: from its newest checkpoint to the end, or to where it is stopped."""

    records: Records
    run: RunDirectory
    settings: TrainSettings
    losses: list[tuple[float, float]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    seconds_before: float = 0.0  # of training, in the sittings before this one
    seen: int = 0  # images, in this sitting

    def __post_init__(self) -> None:
        self.device = choose_device(self.settings.device)
        seed, share = self.settings.seed, self.settings.held_out
        self.split = open_split(self.run.split, self.records, seed=seed, share=share)
        self.feed = Feed(self.records, self.settings, self.device, self.split.training)
        self.outbox = Outbox(self.warnings.append)
        self.watch = Watch(self.run, self.settings, self.outbox)
        self.log = Log(self.run.log)

    def steps(self, should_stop: Callable[[], bool]) -> Iterator[Progress]:
        settings, resumed = self.settings, self._resume()
        if resumed:
            yield self._progress(event="resumed")
        try:
            self.feed.open(should_stop)
        except StoppedError:
            yield self._progress(event="stopped")
            return
        self.watch.open(self.feed.read, self.split, self.device)
        if resumed and not self._is_exported():  # a kill came between a checkpoint and its model
            self._export()
        started, rate = time.monotonic(), 0.0
        while self.state.step < settings.steps:
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

    def _step(self) -> tuple[float, float]:
        """Take k steps of D and one of G (Algorithm 1); return the mean losses, NaN of a step that was left out.

        Raises
        ------
        DivergedError
            Too many steps in a row were left out.
        """
        state, settings = self.state, self.settings
        self.statistics.keep()
        set_learning_rates(state, settings)
        losses = []
        for inner in range(settings.discriminator_steps):
            real, indices = self.feed.real(state.images, settings.batch_size)
            real = self.feed.mirrored(real, state.step, inner)
            seen = self.feed.transform(state.step, "real", inner)(real)
            last = inner == settings.discriminator_steps - 1
            drawn = self._draw(real, indices, inner, keep=last and settings.reuse_draws)
            transform = self.feed.transform(state.step, "fake", inner)
            losses.append(discriminator_step(state, seen, drawn.images, settings, transform).mean())
            state.images += len(real)
            self.seen += len(real)
        if not settings.reuse_draws:
            drawn = self._draw(real, indices, None, keep=True)
        transform = self.feed.transform(state.step, "generator")
        losses.append(generator_step(state, drawn, seen, settings, transform).mean())
        if settings.encoder == "frozen":
            holed = self.feed.holed(real, indices, state.step, "encoder")
            losses.insert(0, encoder_step(state, holed, settings))
        state.step += 1
        fetched: list[float] = torch.stack(losses).tolist()
        self._count(all(map(math.isfinite, fetched)))
        loss_d, loss_g = fetched[-2:]
        if math.isfinite(loss_d) and math.isfinite(loss_g):
            self.losses.append((loss_d, loss_g))
        return loss_d, loss_g

    def _draw(
        self, real: torch.Tensor, indices: NDArray[np.int64], inner: int | None, *, keep: bool
    ) -> Drawn:
        """Draw a batch for D's inner-th step or, with None, for G's own; ``keep`` gradients if G is to learn from it."""
        state = self.state
        player = "generator" if inner is None else "discriminator"
        z, holed = self.feed.inputs(real, indices, state.step, player, inner or 0)
        with torch.set_grad_enabled(keep):
            return draw(state.generator, state.encoder, holed, z)

    def _count(self, finite: bool) -> None:
        """Count a step as good, or as one with an update left out."""
        state = self.state
        if finite:
            state.skipped_in_row = 0
            return
        self.statistics.put_back()
        state.skipped += 1
        state.skipped_in_row += 1
        if state.skipped_in_row >= _PATIENCE:
            raise DivergedError(
                f"loss or gradients were not finite in {_PATIENCE} steps in a row, up to step {state.step}"
            )
        if state.skipped_in_row == 1:
            self.warnings.append(
                f"step {state.step}: loss or gradients not finite; the update was left out ({state.skipped} so far)"
            )

    def _save_when_due(self, rate: float, should_stop: Callable[[], bool]) -> str:
        """Write the log and a checkpoint if this step has one; return the event."""
        step, settings = self.state.step, self.settings
        if step % settings.log_every == 0:
            self._log(rate)
        stop = should_stop()
        due = step % settings.checkpoint_every == 0 or step == settings.steps
        if stop or due:
            self._checkpoint()
            # Asked again: a checkpoint takes a while, and it is a good place to stop.
            return "stopped" if stop or should_stop() else "checkpoint"
        return ""

    def _resume(self) -> bool:
        checkpoint = newest_checkpoint(self.run.checkpoints)
        self.seconds_before = self._go_to(checkpoint)
        return checkpoint is not None

    def _roll_back(self, error: DivergedError) -> None:
        """Take the run back to its last checkpoint, to go on with other draws; the second time give up."""
        times = self.state.rollbacks + 1
        if times > 1:
            self.outbox.retry()
            raise DivergedError(
                f"{self.run.path}: {error}, again after the run was taken back once; "
                "the last checkpoint is good: try a smaller learning_rate in a new run directory"
            ) from error
        held = self.outbox.held("checkpoint")
        good = held if isinstance(held, Checkpoint) else newest_checkpoint(self.run.checkpoints)
        self._go_to(good, rollbacks=times)
        self.warnings.append(f"{error}; taken back to step {self.state.step}, with other draws")

    def _go_to(self, checkpoint: Checkpoint | None, *, rollbacks: int = 0) -> float:
        """Take the state of a checkpoint, or the first one; return the seconds of training up to there."""
        self.state = initial_state(self.settings, self.device)
        if checkpoint is not None:
            checkpoint.restore(self.state)
        self.state.rollbacks = max(self.state.rollbacks, rollbacks)
        seed, times = self.settings.seed, self.state.rollbacks
        # Of the draws of the steps: the same ones would lead to the same end.
        self.seed = seed_for(seed, "rollback", times) if times else seed
        self.feed.start(self.seed)
        self.statistics = Statistics(*modules_of(self.state).values())
        self.losses.clear()
        self.watch.go_to(self.state.step)
        seconds = self.log.cut(self.state.step)
        self.outbox.put("log", None, lambda _: self.log.write())
        return seconds

    def _checkpoint(self) -> None:
        """Save the state, and then what people look at."""
        write = partial(
            write_checkpoint, folder=self.run.checkpoints, keep=self.settings.keep_checkpoints
        )
        self.outbox.put("checkpoint", checkpoint_of(self.state), write)
        self._export()

    def _export(self) -> None:
        """Write the sample grid, the film, the scores and, last, the model file."""
        state, settings = self.state, self.settings
        networks = settings.networks()
        generator, encoder = self._frozen()
        discriminator = plain(state.discriminator, networks)
        latents = sample_latents(
            networks, settings.grid_images, generator_for(settings.seed, "grid")
        )
        with torch.no_grad():
            images = to_pixels(generator(latents.to(self.device)))
        frame, samples = self._frame(), grid(images, min_cell=48)
        self.outbox.put(frame.name, encode_png(samples), partial(self._show, frame))
        model = DCGAN(networks, generator, discriminator, self._card(), encoder, self.feed.memory)
        self.watch.checkpoint(model, samples, step=state.step, images=state.images)
        self.outbox.put("model", model, partial(save_model, path=self.run.model))

    def _is_exported(self) -> bool:
        """Whether grid and model file are those of this step."""
        try:
            card = read_header(self.run.model)["card"]
            return bool(card["steps"] == self.state.step) and self._frame().exists()
        except (ModelFileError, KeyError, TypeError):
            return False

    def _frame(self) -> Path:
        return self.run.samples / f"step-{self.state.step:08d}.png"

    def _show(self, frame: Path, png: bytes) -> None:
        write_bytes(frame, png)
        self._write_film()

    def _frozen(self) -> tuple[Generator, Encoder | None]:
        """Return the averaged networks with batch statistics of their own."""
        state, settings = self.state, self.settings
        if state.average_encoder is None:
            return freeze_statistics(state.average, settings.networks(), seed=settings.seed), None
        if settings.encoder == "frozen":
            generator = freeze_statistics(state.average, settings.networks(), seed=settings.seed)
            _, encoder = freeze_pair(generator, state.average_encoder, self.feed.statistics(0))
            return generator, encoder
        samples = round(128 * (1 - settings.completion_share))
        passes = self.feed.statistics(samples)
        return freeze_pair(state.average, state.average_encoder, passes)

    def _card(self) -> dict[str, Any]:
        return {
            "steps": self.state.step,
            "images_seen": self.state.images,
            "training_images": len(self.split.training),
            "held_out_images": len(self.split.held_out),
            "data_digest": self.records.digest,
            "classes": len(self.records.classes),
            "fit": self.records.fit,
            "background": self.records.background,
            "training": self.settings.model_dump(mode="json", exclude_none=True),
        }

    def _write_film(self) -> None:
        frames = sorted(self.run.samples.glob("step-*.png"))
        stride = -(-len(frames) // _MAX_FRAMES)
        # Count from the end, so that the newest grid is always the film's last frame.
        chosen = [open_image(path).pixels for path in frames[::-1][::stride][::-1]]
        write_film(chosen, self.run.film)

    def _log(self, rate: float) -> None:
        mean_d, mean_g = (
            (round(float(mean), 6) for mean in np.mean(self.losses, axis=0))
            if self.losses
            else (None, None)
        )
        self.losses.clear()
        line: dict[str, float | None] = {
            "step": self.state.step,
            "images": self.state.images,
            "seconds": round(self.seconds_before + time.monotonic() - self.started, 3),
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
            event,
            warning,
            self.watch.news(),
        )
