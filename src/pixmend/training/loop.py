"""The training loop: Goodfellow 2014, Algorithm 1, with a checkpoint and a sample grid every so often."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.errors import DivergedError
from pixmend.images import encode_png, grid, open_image, to_pixels, write_film
from pixmend.models import DCGAN, Encoder, Generator, Memory, sample_latents, save_model
from pixmend.processes import choose_device
from pixmend.randomness import generator_for
from pixmend.records import Records
from pixmend.storage import append_line, write_bytes, write_text
from pixmend.training.average import freeze_pair, freeze_statistics
from pixmend.training.checkpoint import newest_checkpoint, save_checkpoint
from pixmend.training.data import Order, pixels_to_device
from pixmend.training.holes import Holes, choose_memory
from pixmend.training.inversion import Holed
from pixmend.training.monitor import Monitor, Scores, better, read_scores
from pixmend.training.report import write_report
from pixmend.training.run import RunDirectory, RunFacts, open_run
from pixmend.training.settings import TrainSettings
from pixmend.training.split import family_numbers, open_split
from pixmend.training.state import (
    discriminator_step,
    encoder_step,
    generator_step,
    initial_state,
    restore,
)
from pixmend.training.track import open_tracker

__all__ = ["Progress", "train"]

_MAX_FRAMES = 120


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
        "resumed", "checkpoint", "stopped" or "done" when that is news; "" else.
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

    Parameters
    ----------
    records
        The training images.
    should_stop
        Asked after every step; when it says yes, the state is saved and the iteration ends.

    Raises
    ------
    RunError
        The directory holds another run; see `open_run`.
    DivergedError
        A loss is not finite; the last checkpoint is good.
    OutputError
        The disk is full or not writable; the last checkpoint is good.
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
    started: float = field(default_factory=time.monotonic)
    seconds_before: float = 0.0  # of training, in the sittings before this one
    memory: Memory | None = None
    scores: Scores | None = None  # of the last checkpoint
    best: Scores | None = None  # of the best one

    def __post_init__(self) -> None:
        self.device = choose_device(self.settings.device)
        self.state = initial_state(self.settings, self.device)
        self.split = open_split(
            self.run.split, self.records, seed=self.settings.seed, share=self.settings.held_out
        )
        self.order = Order(len(self.split.training), self.settings.seed)
        held = self.records.resident(self.settings.memory_mib * 2**20)
        self.read = self.records.images if held is None else held.__getitem__
        self.holes = self._make_holes()
        watched = self.settings.monitor
        self.monitor = (
            Monitor(self.read, self.split, self.settings, self.device) if watched else None
        )
        self.tracker = open_tracker(self.run.tensorboard) if self.settings.track else None

    def steps(self, should_stop: Callable[[], bool]) -> Iterator[Progress]:
        state, settings = self.state, self.settings
        if self._resume():
            yield self._progress(math.nan, math.nan, 0.0, "resumed")
        started, first = time.monotonic(), state.images
        saved = state.step
        while state.step < settings.steps:
            loss_d, loss_g = self._step()
            rate = (state.images - first) / max(time.monotonic() - started, 1e-9)
            event = ""
            if state.step % settings.log_every == 0:
                self._log(rate)
            stop = should_stop()
            if stop or state.step % settings.checkpoint_every == 0 or state.step == settings.steps:
                self._checkpoint()
                saved, event = state.step, "stopped" if stop else "checkpoint"
            yield self._progress(loss_d, loss_g, rate, event)
            if stop:
                return
        if saved != state.step or not self.run.model.exists():
            self._checkpoint()
        yield self._progress(math.nan, math.nan, 0.0, "done")

    def _make_holes(self) -> Holes | None:
        if self.settings.encoder == "off":
            return None
        training = self.split.training
        self.memory, members = choose_memory(
            self.settings, len(training), lambda at: self.read(training[at]), self.device
        )
        return Holes(self.settings, family_numbers(self.records), self.memory, training[members])

    def _step(self) -> tuple[float, float]:
        """Take k steps of D and one of G (Algorithm 1); return the mean losses."""
        state, settings = self.state, self.settings
        count = settings.batch_size
        for inner in range(settings.discriminator_steps):
            indices = self.split.training[self.order.positions(state.images, count)]
            real = pixels_to_device(self.read, indices, self.device)
            z, holed = self._inputs(real, indices, "discriminator", inner)
            loss_d = discriminator_step(state, real, z, holed).mean()
            state.images += count
        z, holed = self._inputs(real, indices, "generator", 0)
        loss_g = generator_step(state, z, real, settings, holed).mean()
        if settings.encoder == "frozen":
            assert self.holes is not None
            encoder_step(state, self.holes.make(real, indices, state.step, "encoder"), settings)
        state.step += 1
        losses = float(loss_d), float(loss_g)
        if not all(map(math.isfinite, losses)):
            raise DivergedError(
                f"{self.run.path}: step {state.step}: the loss is not finite (loss_d {losses[0]}, loss_g {losses[1]}); "
                "the last checkpoint is good: try a smaller learning_rate in a new run directory"
            )
        self.losses.append(losses)
        return losses

    def _inputs(
        self, real: Tensor, indices: NDArray[np.int64], player: str, inner: int
    ) -> tuple[Tensor, Holed | None]:
        """Return what G draws a batch from: prior samples and, where G is trained to complete, real images with holes."""
        settings, step = self.settings, self.state.step
        count, holed = settings.batch_size, None
        if self.holes is not None and settings.encoder != "frozen":
            completions = max(1, round(count * settings.completion_share))
            # The first images of a batch in D's step, the last in G's: D has not just seen what it judges.
            part = (
                slice(completions)
                if player == "discriminator"
                else slice(count - completions, count)
            )
            holed = self.holes.make(real[part], indices[part], step, player, inner)
            count -= completions
        key = ("z", step, inner) if player == "discriminator" else ("z", step, player)
        z = sample_latents(settings.networks(), count, generator_for(settings.seed, *key))
        return z.to(self.device), holed

    def _resume(self) -> bool:
        checkpoint = newest_checkpoint(self.run.checkpoints)
        if checkpoint is None:
            self._cut_log(0)
            read_scores(self.run.scores, up_to=0)
            return False
        restore(self.state, checkpoint.tensors, step=checkpoint.step, images=checkpoint.images)
        self._cut_log(checkpoint.step)
        for scores in read_scores(self.run.scores, up_to=checkpoint.step):
            self.best = scores if scores.best else self.best
        return True

    def _checkpoint(self) -> None:
        state, settings = self.state, self.settings
        save_checkpoint(state, self.run.checkpoints, keep=settings.keep_checkpoints)
        networks = settings.networks()
        generator, encoder = self._frozen()
        latents = sample_latents(
            networks, settings.grid_images, generator_for(settings.seed, "grid")
        )
        with torch.no_grad():
            images = to_pixels(generator(latents.to(self.device)))
        frame = self.run.samples / f"step-{state.step:08d}.png"
        write_bytes(frame, encode_png(grid(images, min_cell=48)))
        model = DCGAN(networks, generator, state.discriminator, self._card(), encoder, self.memory)
        save_model(model, self.run.model)
        self._write_film()
        self._judge(model)
        if self.tracker is not None:
            self.tracker.checkpoint(state.step, open_image(frame).pixels, self.scores)
        write_report(self.run, settings, state.step)

    def _judge(self, model: DCGAN) -> None:
        """Score the model, write the scores down, and keep it if it is the best so far."""
        if self.monitor is None:
            return
        scores = self.monitor.score(model, step=self.state.step, images=self.state.images)
        if better(scores, self.best):
            scores = self.best = replace(scores, best=True)
            save_model(model, self.run.best)
        self.scores = scores
        append_line(self.run.scores, json.dumps(asdict(scores)))

    def _frozen(self) -> tuple[Generator, Encoder | None]:
        """Return the averaged networks with batch statistics of their own."""
        state, settings = self.state, self.settings
        if self.holes is None or state.average_encoder is None:
            return freeze_statistics(state.average, settings.networks(), seed=settings.seed), None
        if settings.encoder == "frozen":
            generator = freeze_statistics(state.average, settings.networks(), seed=settings.seed)
            _, encoder = freeze_pair(state.average, state.average_encoder, self._passes(0))
            return generator, encoder
        share = settings.completion_share
        return freeze_pair(
            state.average, state.average_encoder, self._passes(round(128 * (1 - share)))
        )

    def _passes(self, samples: int) -> Iterator[tuple[Holed, Tensor]]:
        """Yield 32 batches of 128, ``samples`` of them prior samples and the rest completions, the same at each checkpoint."""
        assert self.holes is not None
        count, settings = 128 - samples, self.settings
        order = Order(len(self.split.training), settings.seed)
        for batch in range(32):
            indices = self.split.training[order.positions(batch * count, count)]
            real = pixels_to_device(self.read, indices, self.device)
            generator = generator_for(settings.seed, "statistics", batch)
            z = sample_latents(settings.networks(), samples, generator).to(self.device)
            yield self.holes.make(real, indices, "statistics", batch), z

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
        mean_d, mean_g = np.mean(self.losses, axis=0)
        self.losses.clear()
        line = {
            "step": self.state.step,
            "images": self.state.images,
            "seconds": round(self.seconds_before + time.monotonic() - self.started, 3),
            "images_per_second": round(rate, 2),
            "loss_d": round(float(mean_d), 6),
            "loss_g": round(float(mean_g), 6),
        }
        append_line(self.run.log, json.dumps(line))
        if self.tracker is not None:
            self.tracker.log(line)

    def _cut_log(self, step: int) -> None:
        """Drop what the log says of steps that will be done again, and a last line that a crash cut short."""
        if not self.run.log.exists():
            return
        kept = []
        for line in self.run.log.read_text(errors="replace").splitlines():
            try:
                facts = json.loads(line)
                if facts["step"] <= step:
                    kept.append(line + "\n")
                    self.seconds_before = float(facts["seconds"])
            except (ValueError, KeyError, TypeError):
                continue
        write_text(self.run.log, "".join(kept))

    def _progress(self, loss_d: float, loss_g: float, rate: float, event: str) -> Progress:
        step, steps, images = self.state.step, self.settings.steps, self.state.images
        scores, self.scores = self.scores, None
        return Progress(step, steps, images, loss_d, loss_g, rate, event, scores)
