"""One iteration of training: k steps of the discriminator and one of the generator (Goodfellow 2014, Algorithm 1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.distributed import Group
from pixmend.errors import DivergedError
from pixmend.training.data import Feed
from pixmend.training.finite import Statistics
from pixmend.training.inversion import Drawn, draw
from pixmend.training.precision import arithmetic
from pixmend.training.settings import TrainSettings
from pixmend.training.state import (
    TrainState,
    discriminator_step,
    encoder_step,
    generator_step,
    modules_of,
    set_learning_rates,
)

_PATIENCE = 5  # steps in a row that are not finite, before the run is taken back


@dataclass
class Iteration:
    """Takes a run's state on; an update that is not finite is left out, in all processes of the group alike.

    Attributes
    ----------
    warn
        Is told in words when an update is left out.
    """

    state: TrainState
    settings: TrainSettings
    feed: Feed
    group: Group
    warn: Callable[[str], None]

    def __post_init__(self) -> None:
        self._statistics = Statistics(*modules_of(self.state).values())

    def take(self, place: int, places: int) -> tuple[float, float]:
        """Take k steps of D and one of G, at a place of the schedule of learning rates; return the mean losses of both.

        Of an update that was left out they are not finite.

        Raises
        ------
        DivergedError
            Too many steps in a row were left out.
        """
        state, settings = self.state, self.settings
        self._statistics.keep()
        set_learning_rates(state, settings, place, places)
        losses = self._take()
        state.step += 1
        fetched: list[float] = self.group.mean(torch.stack(losses)).tolist()
        self._count(all(map(math.isfinite, fetched)))
        loss_d, loss_g = fetched[-2:]
        return loss_d, loss_g

    def _take(self) -> list[torch.Tensor]:
        """Take D's steps and G's, each over all micro-batches; return this process's mean losses."""
        state, settings, count = self.state, self.settings, self.state.micro_batches
        feeds = [self.feed.of_part(number, count) for number in range(count)]
        # Keeping G's graphs of several micro-batches would need the memory that splitting saves.
        reuse = settings.reuse_fakes and count == 1
        means: list[torch.Tensor] = []
        for inner in range(settings.n_critic):
            real, indices = self.feed.real(state.images, settings.batch_size)
            batches = []
            for state.micro_batch, feed in enumerate(feeds):
                here = Group(state.micro_batch, count).shard(len(indices))
                images = feed.varied(real[here], state.step, inner)
                seen = feed.transform(state.step, "real", inner)(images)
                keep = reuse and inner == settings.n_critic - 1
                drawn = self._draw(feed, images, indices[here], inner, keep=keep)
                transform = feed.transform(state.step, "fake", inner)
                loss = discriminator_step(state, seen, drawn.images, settings, transform)
                batches.append((feed, images, indices[here], seen))
            means.append(loss.mean())
            state.images += settings.batch_size
        for state.micro_batch, (feed, images, members, seen) in enumerate(batches):
            if not reuse:
                again = inner if settings.reuse_fakes else None
                drawn = self._draw(feed, images, members, again, keep=True)
            transform = feed.transform(state.step, "generator")
            loss = generator_step(state, drawn, seen, settings, transform)
        means.append(loss.mean())
        if settings.encoder == "frozen":
            for state.micro_batch, (feed, images, members, _) in enumerate(batches):
                holed = feed.holed(images, members, state.step, "encoder")
                loss = encoder_step(state, holed, settings)
            means.insert(0, loss)
        state.micro_batch = 0
        return means

    def _draw(
        self,
        feed: Feed,
        real: torch.Tensor,
        indices: NDArray[np.int64],
        inner: int | None,
        *,
        keep: bool,
    ) -> Drawn:
        """Draw a batch for D's inner-th step or, with None, for G's own; ``keep`` gradients if G is to learn from it."""
        state = self.state
        player = "generator" if inner is None else "discriminator"
        z, holed = feed.inputs(real, indices, state.step, player, inner or 0)
        with torch.set_grad_enabled(keep), arithmetic(self.settings.precision, self.feed.device):
            drawn = draw(state.generator, state.encoder, holed, z)
            return drawn.exact()

    def _count(self, finite: bool) -> None:
        """Count a step as good, or as one with an update left out; all processes come to the same."""
        state = self.state
        if finite:
            state.skipped_in_row = 0
            return
        self._statistics.put_back()
        state.skipped += 1
        state.skipped_in_row += 1
        if state.skipped_in_row >= _PATIENCE:
            raise DivergedError(
                f"loss or gradients were not finite in {_PATIENCE} steps in a row, up to step {state.step}"
            )
        if state.skipped_in_row == 1:
            self.warn(
                f"step {state.step}: loss or gradients not finite; the update was left out ({state.skipped} so far)"
            )
