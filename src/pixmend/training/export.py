"""What a checkpoint gives people: the sample grid, the film, the scores and the model file."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pixmend.errors import ModelFileError
from pixmend.images import encode_png, grid, open_image, to_pixels, write_animation
from pixmend.models import DCGAN, Encoder, Generator, read_header, sample_latents, save_model
from pixmend.records import Records
from pixmend.rng import generator_for
from pixmend.storage import write_bytes
from pixmend.training.callbacks import DeferredWriter, Watch
from pixmend.training.data import Feed
from pixmend.training.ema import recompute_batchnorm, recompute_batchnorm_pair
from pixmend.training.regularise import plain
from pixmend.training.run_directory import RunDirectory
from pixmend.training.settings import TrainSettings
from pixmend.training.split import Split
from pixmend.training.state import TrainState

_MAX_FRAMES = 120


@dataclass(frozen=True)
class Export:
    """Writes what is made of a state, in the one process that writes."""

    records: Records
    run: RunDirectory
    settings: TrainSettings
    split: Split
    feed: Feed
    outbox: DeferredWriter
    watch: Watch

    def write(self, state: TrainState) -> None:
        """Write the sample grid, the film, the scores and, last, the model file."""
        settings, networks = self.settings, self.settings.networks()
        generator, encoder = self._frozen(state)
        discriminator = plain(state.discriminator, networks)
        latents = sample_latents(
            networks, settings.grid_images, generator_for(settings.seed, "grid")
        )
        with torch.no_grad():
            images = to_pixels(generator(latents.to(next(generator.parameters()).device)))
        frame, samples = self._frame(state.step), grid(images, min_cell=48)
        self.outbox.put(frame.name, encode_png(samples), partial(self._show, frame))
        card = self._card(state)
        model = DCGAN(networks, generator, discriminator, card, encoder, self.feed.retrieval)
        model = self.watch.calibrated(model)
        self.watch.checkpoint(model, samples, step=state.step, images=state.images)
        self.outbox.put("model", model, partial(save_model, path=self.run.model))

    def is_of(self, step: int) -> bool:
        """Whether grid and model file are those of this step."""
        try:
            card = read_header(self.run.model)["card"]
            return bool(card["steps"] == step) and self._frame(step).exists()
        except (ModelFileError, KeyError, TypeError):
            return False

    def _frame(self, step: int) -> Path:
        return self.run.samples / f"step-{step:08d}.png"

    def _show(self, frame: Path, png: bytes) -> None:
        write_bytes(frame, png)
        self._write_film()

    def _frozen(self, state: TrainState) -> tuple[Generator, Encoder | None]:
        """Return the averaged networks with batch statistics of their own."""
        settings = self.settings
        if state.ema_encoder is None:
            return recompute_batchnorm(state.ema, settings.networks(), seed=settings.seed), None
        if settings.encoder == "frozen":
            generator = recompute_batchnorm(state.ema, settings.networks(), seed=settings.seed)
            _, encoder = recompute_batchnorm_pair(
                generator, state.ema_encoder, self.feed.statistics(0)
            )
            return generator, encoder
        samples = round(128 * (1 - settings.completion_share))
        passes = self.feed.statistics(samples)
        return recompute_batchnorm_pair(state.ema, state.ema_encoder, passes)

    def _card(self, state: TrainState) -> dict[str, Any]:
        return {
            "steps": state.step,
            "images_seen": state.images,
            "training_images": len(self.split.training),
            "held_out_images": len(self.split.held_out),
            "data_digest": self.records.digest,
            "classes": len(self.records.manifest.classes),
            "fit": self.records.manifest.settings.fit,
            "background": self.records.manifest.settings.background,
            "training": self.settings.model_dump(mode="json", exclude_none=True),
        }

    def _write_film(self) -> None:
        frames = sorted(self.run.samples.glob("step-*.png"))
        stride = -(-len(frames) // _MAX_FRAMES)
        # Count from the end, so that the newest grid is always the film's last frame.
        chosen = [open_image(path).pixels for path in frames[::-1][::stride][::-1]]
        write_animation(chosen, self.run.film)
