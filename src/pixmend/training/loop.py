"""The training loop: Goodfellow 2014, Algorithm 1, with a checkpoint and a sample grid every so often."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixmend.errors import DivergedError
from pixmend.images import encode_png, grid, open_image, to_pixels, write_film
from pixmend.models import DCGAN, sample_latents, save_model
from pixmend.processes import choose_device
from pixmend.randomness import generator_for
from pixmend.records import Records
from pixmend.storage import append_line, write_bytes, write_text
from pixmend.training.augment import Transform, mirror, transform_for
from pixmend.training.average import freeze_statistics
from pixmend.training.checkpoint import newest_checkpoint, save_checkpoint
from pixmend.training.data import Order, pixels_to_device
from pixmend.training.regularise import plain
from pixmend.training.run import RunDirectory, RunFacts, open_run
from pixmend.training.settings import TrainSettings
from pixmend.training.state import (
    discriminator_step,
    generator_step,
    initial_state,
    restore,
    set_learning_rates,
)

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
    """

    step: int
    steps: int
    images: int
    loss_d: float
    loss_g: float
    images_per_second: float
    event: str = ""


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

    def __post_init__(self) -> None:
        self.device = choose_device(self.settings.device)
        self.state = initial_state(self.settings, self.device)
        self.order = Order(len(self.records), self.settings.seed)
        held = self.records.resident(self.settings.memory_mib * 2**20)
        self.read = self.records.images if held is None else held.__getitem__

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

    def _step(self) -> tuple[float, float]:
        """Take k steps of D and one of G (Algorithm 1); return the mean losses."""
        state, settings = self.state, self.settings
        count, networks = settings.batch_size, settings.networks()
        set_learning_rates(state, settings)
        for inner in range(settings.discriminator_steps):
            indices = self.order.positions(state.images, count)
            real = pixels_to_device(self.read, indices, self.device)
            if settings.mirror:
                real = mirror(real, generator_for(settings.seed, "mirror", state.step, inner))
            real = self._transform("real", inner)(real)
            z = sample_latents(
                networks, count, generator_for(settings.seed, "z", state.step, inner)
            )
            loss_d = discriminator_step(
                state, real, z.to(self.device), settings, self._transform("fake", inner)
            ).mean()
            state.images += count
        z = sample_latents(
            networks, count, generator_for(settings.seed, "z", state.step, "generator")
        )
        loss_g = generator_step(
            state, z.to(self.device), real, settings, self._transform("generator", 0)
        ).mean()
        state.step += 1
        losses = float(loss_d), float(loss_g)
        if not all(map(math.isfinite, losses)):
            raise DivergedError(
                f"{self.run.path}: step {state.step}: the loss is not finite (loss_d {losses[0]}, loss_g {losses[1]}); "
                "the last checkpoint is good: try a smaller learning_rate in a new run directory"
            )
        self.losses.append(losses)
        return losses

    def _transform(self, of: str, inner: int) -> Transform:
        """Return what D sees a batch through at this step."""
        settings = self.settings
        generator = generator_for(settings.seed, "augment", self.state.step, of, inner)
        return transform_for(
            settings.transforms, settings.augment_probability, settings.batch_size, generator
        )

    def _resume(self) -> bool:
        checkpoint = newest_checkpoint(self.run.checkpoints)
        if checkpoint is None:
            self._cut_log(0)
            return False
        restore(self.state, checkpoint.tensors, step=checkpoint.step, images=checkpoint.images)
        self._cut_log(checkpoint.step)
        return True

    def _checkpoint(self) -> None:
        state, settings = self.state, self.settings
        save_checkpoint(state, self.run.checkpoints, keep=settings.keep_checkpoints)
        networks = settings.networks()
        generator = freeze_statistics(state.average, networks, seed=settings.seed)
        latents = sample_latents(
            networks, settings.grid_images, generator_for(settings.seed, "grid")
        )
        with torch.no_grad():
            images = to_pixels(generator(latents.to(self.device)))
        frame = self.run.samples / f"step-{state.step:08d}.png"
        write_bytes(frame, encode_png(grid(images, min_cell=48)))
        model = DCGAN(networks, generator, plain(state.discriminator, networks), self._card())
        save_model(model, self.run.model)
        self._write_film()

    def _card(self) -> dict[str, Any]:
        return {
            "steps": self.state.step,
            "images_seen": self.state.images,
            "training_images": len(self.records),
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
        state = self.state
        return Progress(state.step, self.settings.steps, state.images, loss_d, loss_g, rate, event)
