"""One training step: updates of D, then of G and E (Goodfellow 2014, Algorithm 1)."""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Adam

from pixmend.distributed import Group
from pixmend.errors import DivergedError
from pixmend.training.augment import Transform, unchanged
from pixmend.training.data import BatchLoader
from pixmend.training.ema import update_ema
from pixmend.training.losses import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    completion_loss,
    feature_matching,
    gradient_penalty,
)
from pixmend.training.masking import Generated, generate
from pixmend.training.optimise import set_learning_rates, update_if_finite
from pixmend.training.settings import Precision, TrainSettings
from pixmend.training.spectral import iterate_powers
from pixmend.training.train_state import TrainState

_MAX_SKIPPED = 5  # skipped steps in a row before a rollback


class TrainStep:
    """Takes training steps; skips non-finite updates, in all processes of the group alike."""

    def __init__(
        self,
        state: TrainState,
        settings: TrainSettings,
        loader: BatchLoader,
        warn: Callable[[str], None],
    ) -> None:
        self._state, self._settings, self._loader, self._warn = state, settings, loader, warn
        self._buffers = [each for net in state.networks().values() for each in net.buffers()]

    def take(self, place: int, places: int) -> tuple[float, float]:
        """Take k steps of D and one of G at a place of the learning rate schedule.

        Returns the mean losses of D and G, not finite if an update was skipped. Raises
        DivergedError after 5 skipped steps in a row.
        """
        # Training passes do not read batch norm statistics, but write them: NaN would stay there.
        buffers = [buffer.clone() for buffer in self._buffers]
        set_learning_rates(self._state.optimisers(), self._settings, place, places)
        means = self._update()
        self._state.step += 1
        losses: list[float] = self._state.group.mean(torch.stack(means)).tolist()
        if all(map(math.isfinite, losses)):
            self._state.skipped_in_row = 0
        else:
            for buffer, value in zip(self._buffers, buffers, strict=True):
                buffer.copy_(value)
            self._count_skipped()
        loss_d, loss_g = losses[-2:]
        return loss_d, loss_g

    def _update(self) -> list[Tensor]:
        """Update D k times and G once, each over all micro-batches; return their mean losses."""
        state, settings, count = self._state, self._settings, self._state.micro_batches
        loaders = [self._loader.micro_batch(number, count) for number in range(count)]
        # Keeping G's graphs of all micro-batches would need the memory that accumulation saves.
        reuse = settings.reuse_fakes and count == 1
        means: list[Tensor] = []
        for inner in range(settings.n_critic):
            real, indices = self._loader.real(state.images, settings.batch_size)
            batches = []
            for state.micro_batch, loader in enumerate(loaders):
                share = Group(state.micro_batch, count).shard(len(indices))
                images = loader.augmented(real[share], state.step, inner)
                seen = loader.transform(state.step, "real", inner)(images)
                keep = reuse and inner == settings.n_critic - 1
                fakes = self._generate(loader, images, indices[share], inner, with_grad=keep)
                transform = loader.transform(state.step, "fake", inner)
                loss = discriminator_step(state, seen, fakes.images, settings, transform)
                batches.append((loader, images, indices[share], seen))
            means.append(loss.mean())
            state.images += settings.batch_size
        for state.micro_batch, (loader, images, members, seen) in enumerate(batches):
            if not reuse:
                again = inner if settings.reuse_fakes else None
                fakes = self._generate(loader, images, members, again, with_grad=True)
            transform = loader.transform(state.step, "generator")
            loss = generator_step(state, fakes, seen, settings, transform)
        state.micro_batch = 0
        return [*means, loss.mean()]

    def _generate(
        self,
        loader: BatchLoader,
        real: Tensor,
        indices: NDArray[np.int64],
        inner: int | None,
        *,
        with_grad: bool,
    ) -> Generated:
        """Generate a batch for D's inner-th step or, with None, for G's own."""
        state = self._state
        player = "generator" if inner is None else "discriminator"
        z, masked = loader.inputs(real, indices, state.step, player, inner or 0)
        with torch.set_grad_enabled(with_grad), autocast(self._settings.precision, real.device):
            return generate(state.generator, state.encoder, masked, z).exact()

    def _count_skipped(self) -> None:
        state, problem = self._state, "loss or gradients not finite"
        state.skipped += 1
        state.skipped_in_row += 1
        if state.skipped_in_row >= _MAX_SKIPPED:
            raise DivergedError(f"step {state.step}: {problem} in {_MAX_SKIPPED} steps in a row")
        if state.skipped_in_row == 1:
            self._warn(f"step {state.step}: {problem}; update skipped ({state.skipped} so far)")


def discriminator_step(
    state: TrainState,
    real: Tensor,
    fakes: Tensor,
    settings: TrainSettings,
    transform: Transform = unchanged,
) -> Tensor:
    """Update D on real images and G's ``fakes``, [B, C, H, W] each; return its loss, [B].

    ``transform`` is DiffAugment of the fakes; ``real`` is transformed already. Every `r1_every`
    steps R1 is added, times as many (Karras 2020, section 3.1); the returned loss is without it. A
    loss of NaN means that the update was skipped, in `generator_step` too.
    """
    if settings.spectral_norm and state.micro_batch == 0:
        iterate_powers(state.discriminator)
    number = state.images // settings.batch_size
    penalised = settings.r1_gamma > 0 and number % settings.r1_every == 0
    real = real.detach().requires_grad_(penalised)
    # Two passes: batch norm sees real and fake images apart, as in the paper's code.
    with autocast(settings.precision, real.device):
        real_logits = state.discriminator(real)
        fake_logits = state.discriminator(transform(fakes.detach()))
    real_logits, fake_logits = real_logits.float(), fake_logits.float()
    loss = DISCRIMINATOR_LOSSES[settings.loss](real_logits, fake_logits)
    total = loss.mean()
    if penalised:
        weight = settings.r1_gamma / 2 * settings.r1_every
        total = total + weight * gradient_penalty(real_logits, real).mean()
    return _descend(state, total, loss, [state.discriminator_optimiser])


def generator_step(
    state: TrainState,
    generated: Generated,
    real: Tensor,
    settings: TrainSettings,
    transform: Transform = unchanged,
) -> Tensor:
    """Update G, and E where there are completions, with the graph of ``generated``; D stays fixed.

    Returns the adversarial loss of the prior samples, [M].
    """
    state.discriminator.requires_grad_(False)  # its gradients would be thrown away
    count = generated.completions
    with autocast(settings.precision, real.device):
        features = state.discriminator.features(transform(generated.images))
        logits = state.discriminator.logit(features[-1])
    losses = GENERATOR_LOSSES[settings.loss](logits.float())
    total = losses[count:].mean()
    optimisers = [state.generator_optimiser]
    if count:
        total = total + settings.completion_weight * losses[:count].mean()
        total = total + completion_loss(generated, settings).mean()
        assert state.encoder_optimiser is not None
        optimisers.append(state.encoder_optimiser)
    if settings.feature_matching:
        with torch.no_grad(), autocast(settings.precision, real.device):
            target = state.discriminator.features(real)[-1]
        fakes = features[-1].float()
        distance = feature_matching(target.float(), fakes, over_batch=state.group.mean)
        total = total + settings.feature_matching * distance
    loss = _descend(state, total, losses[count:], optimisers)
    state.discriminator.requires_grad_(True)
    # The main process alone reads the averages.
    if state.group.is_main and state.micro_batch == state.micro_batches - 1:
        update_ema(state.ema, state.generator, decay=settings.ema_decay, step=state.step)
        if state.encoder is not None and state.ema_encoder is not None:
            update_ema(state.ema_encoder, state.encoder, decay=settings.ema_decay, step=state.step)
    return loss


def _descend(state: TrainState, total: Tensor, losses: Tensor, optimisers: list[Adam]) -> Tensor:
    """Backpropagate ``total``; at the last micro-batch, update with the mean gradient.

    Returns the losses so far, in micro-batches' order; NaN if the update was skipped.
    """
    if state.micro_batch == 0:
        state.losses.clear()
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
    (total / state.micro_batches).backward()  # type: ignore[no-untyped-call]
    state.losses.append(losses.detach())
    if state.micro_batch < state.micro_batches - 1:
        return losses.detach()
    return update_if_finite(torch.cat(state.losses), *optimisers, group=state.group)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute activations and products in ``precision`` (Micikevicius 2018, section 3).

    bfloat16 has the range of float32, so gradients need no scaling. Its 8 bits are too few for sums
    of many values: batch norm statistics, losses and moments stay float32.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    # No cache: a cast weight shared by two passes would sum its gradients in bfloat16.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
