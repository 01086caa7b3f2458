"""One training step: updates of D, of G and of the inpainter (Goodfellow 2014, Algorithm 1)."""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.optim import Adam

from pixmend.distributed import Group
from pixmend.errors import DivergedError
from pixmend.models.inpainter import follow_estimator
from pixmend.training.augment import Transform, unchanged
from pixmend.training.data import BatchLoader
from pixmend.training.draws import draw_losses, hole_discriminator_losses, is_penalised
from pixmend.training.losses import (
    DISCRIMINATOR_LOSSES,
    GENERATOR_LOSSES,
    estimate_loss,
    feature_matching,
    gradient_penalty,
    variance_loss,
)
from pixmend.training.masking import MaskedBatch
from pixmend.training.optimise import set_learning_rates, update_ema, update_if_finite
from pixmend.training.settings import Precision, TrainSettings
from pixmend.training.spectral import iterate_powers
from pixmend.training.train_state import TrainState

_LIKELIHOOD_WEIGHT = 0.05
_DRAWS_FROM = 0.5  # of the run: a draw learns from the estimate, which learns faster alone
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
        means = self._update(draws=place >= _DRAWS_FROM * places)
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

    def _update(self, *, draws: bool) -> list[Tensor]:
        """Update D k times and G once, each over all micro-batches; return their mean losses."""
        state, settings, count = self._state, self._settings, self._state.micro_batches
        loaders = [self._loader.micro_batch(number, count) for number in range(count)]
        # Keeping G's graphs of all micro-batches would need the memory that accumulation saves.
        reuse = settings.reuse_fakes and count == 1
        means: list[Tensor] = []
        for inner in range(settings.n_critic):
            real = self._loader.real(state.images, settings.batch_size)
            batches = []
            for state.micro_batch, loader in enumerate(loaders):
                share = Group(state.micro_batch, count).shard(len(real))
                images = loader.augmented(real[share], state.step, inner)
                seen = loader.transform(state.step, "real", inner)(images)
                keep = reuse and inner == settings.n_critic - 1
                fakes = self._generate(loader, inner, with_grad=keep)
                transform = loader.transform(state.step, "fake", inner)
                loss = discriminator_step(state, seen, fakes, settings, transform)
                batches.append((loader, seen))
            means.append(loss.mean())
            state.images += settings.batch_size
        for state.micro_batch, (loader, seen) in enumerate(batches):
            if not reuse:
                again = inner if settings.reuse_fakes else "generator"
                fakes = self._generate(loader, again, with_grad=True)
            transform = loader.transform(state.step, "generator")
            loss = generator_step(state, fakes, seen, settings, transform)
        means.append(loss.mean())
        if state.inpainter is not None:
            numbers = range(settings.inpainter_steps)
            masked = [[each.masked(state.step, inner) for each in loaders] for inner in numbers]
            for once in masked * settings.inpainter_reuse:
                means.insert(0, self._inpaint(once, draws=draws))
        state.micro_batch = 0
        return means

    def _inpaint(self, batches: list[MaskedBatch], *, draws: bool) -> Tensor:
        """Update the inpainter over all micro-batches, then the discriminator of its draws; return the mean loss."""
        state, drawn = self._state, []
        for state.micro_batch, batch in enumerate(batches):
            losses, images = inpainter_step(state, batch, self._settings, draws=draws)
            drawn.append((batch, images))
        mean = losses.mean()
        for state.micro_batch, (batch, images) in enumerate(drawn):
            if images is not None:
                losses = hole_discriminator_step(state, batch, images, self._settings)
        return mean + 0 * losses.mean()  # NaN if either was skipped

    def _generate(self, loader: BatchLoader, number: int | str, *, with_grad: bool) -> Tensor:
        """Generate a batch at the latents of D's step of that number, or of G's own (``"generator"``)."""
        z = loader.latents(self._state.step, number)
        with torch.set_grad_enabled(with_grad), autocast(self._settings.precision, z.device):
            images: Tensor = self._state.generator(z)
        return images.float()

    def _count_skipped(self) -> None:
        state, problem = self._state, "loss or gradients not finite"
        state.skipped += 1
        state.skipped_in_row += 1
        if state.skipped_in_row >= _MAX_SKIPPED:
            raise DivergedError(f"step {state.step}: {problem} in {_MAX_SKIPPED} steps in a row")
        if state.skipped_in_row == 1:
            self._warn(f"step {state.step}: {problem}; update skipped ({state.skipped} so far)")


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Compute activations and products in ``precision`` (Micikevicius 2018, section 3).

    bfloat16 has the range of float32, so gradients need no scaling; its 8 bits are too few for
    sums.
    """
    if precision != "bfloat16":
        return contextlib.nullcontext()
    # No cache: a cast weight shared by two passes would sum its gradients in bfloat16.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


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
    fakes: Tensor,
    real: Tensor,
    settings: TrainSettings,
    transform: Transform = unchanged,
) -> Tensor:
    """Update G by the graph of its images ``fakes``; D stays fixed. Return the adversarial loss, [B].

    ``transform`` is DiffAugment, which passes gradients. A loss of NaN means that the update was skipped.
    """
    state.discriminator.requires_grad_(False)  # its gradients would be thrown away
    with autocast(settings.precision, real.device):
        features = state.discriminator.features(transform(fakes))
        logits = state.discriminator.logit(features[-1])
    losses = GENERATOR_LOSSES[settings.loss](logits.float())
    total = losses.mean()
    if settings.feature_matching:
        with torch.no_grad(), autocast(settings.precision, real.device):
            target = state.discriminator.features(real)[-1]
        distance = feature_matching(
            target.float(), features[-1].float(), over_batch=state.group.mean
        )
        total = total + settings.feature_matching * distance
    loss = _descend(state, total, losses, [state.generator_optimiser])
    state.discriminator.requires_grad_(True)
    _average(state, state.ema, state.generator, settings)
    return loss


def inpainter_step(
    state: TrainState, batch: MaskedBatch, settings: TrainSettings, *, draws: bool
) -> tuple[Tensor, Tensor | None]:
    """Update the inpainter, its draws too if so.

    Returns the loss of its estimate, [B], NaN if the update was skipped, and its draws, [B, C, S, S], if they were trained.
    """
    inpainter, drawn = state.inpainter, None
    assert inpainter is not None
    assert state.hole_discriminator is not None
    assert state.inpainter_optimiser is not None
    evidence, target = batch.evidence, batch.images
    with autocast(settings.precision, target.device):
        maps = inpainter.encode(evidence)
        estimate = inpainter.estimate(maps, evidence)
    losses = estimate_loss(estimate.images, target, evidence.known)
    likelihood = variance_loss(estimate.log_variance, estimate.images, target, evidence.known)
    total = losses.mean() + _LIKELIHOOD_WEIGHT * likelihood.mean()
    if draws:
        with autocast(settings.precision, target.device):
            loss, drawn = draw_losses(inpainter, state.hole_discriminator, maps, batch)
        total = total + loss
    losses = _descend(state, total, losses, [state.inpainter_optimiser])
    if not draws:
        follow_estimator(inpainter)  # where draws begin
    _average(state, state.ema_inpainter, inpainter, settings)
    return losses, drawn


def hole_discriminator_step(
    state: TrainState, batch: MaskedBatch, draws: Tensor, settings: TrainSettings
) -> Tensor:
    """Update the discriminator of the inpainter's ``draws``; return its loss, [B], NaN if the update was skipped."""
    discriminator = state.hole_discriminator
    assert discriminator is not None
    assert state.hole_discriminator_optimiser is not None
    # A penalty is a gradient of gradients, for which bfloat16 is too coarse.
    precision = "float32" if is_penalised(state.step) else settings.precision
    with autocast(precision, draws.device):
        losses, total = hole_discriminator_losses(discriminator, batch, draws, state.step)
    return _descend(state, total, losses, [state.hole_discriminator_optimiser])


def _average(
    state: TrainState, ema: nn.Module | None, network: nn.Module, settings: TrainSettings
) -> None:
    # The main process alone reads the averages.
    if ema is not None and state.group.is_main and state.micro_batch == state.micro_batches - 1:
        update_ema(ema, network, decay=settings.ema_decay, step=state.step)


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
