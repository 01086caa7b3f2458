"""All that a run must remember, and the two steps that change it (Goodfellow 2014, Algorithm 1)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.errors import ModelFileError
from pixmend.models import (
    Discriminator,
    Encoder,
    Generator,
    initialise,
)
from pixmend.rng import generator_for
from pixmend.training.augment import Transform, unchanged
from pixmend.training.ema import update_ema
from pixmend.training.finite import update_if_finite
from pixmend.training.inversion import Drawn, MaskedBatch, completion_loss, draw
from pixmend.training.losses import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES, feature_matching
from pixmend.training.precision import arithmetic
from pixmend.training.regularise import gradient_penalty, iterate_powers, normalise_spectrally
from pixmend.training.schedule import rate_share
from pixmend.training.settings import TrainSettings
from pixmend.training.synchronise import start_alike

_COUNTS = ("step", "images", "skipped", "skipped_in_row", "rollbacks")


@dataclass
class TrainState:
    """Networks, their optimisers and the position in the run; everything else is a function of these.

    Attributes
    ----------
    step, images
        Iterations done, and training images that D has seen, in all processes.
    skipped, skipped_in_row
        Iterations in which an update was left out because it was not finite: all, and the last ones in a row.
    rollbacks
        How often the run was taken back to a checkpoint; it decides the draws after it.
    group
        The processes that train this state together, each on its share of every batch.
    micro_batch, micro_batches
        Gradient accumulation: the number of the current micro-batch, and how many each process splits its share into.
    losses
        Losses of the micro-batches of the current update so far.
    """

    generator: Generator
    discriminator: Discriminator
    ema: Generator
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam
    step: int = 0
    images: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0
    encoder: Encoder | None = None
    ema_encoder: Encoder | None = None
    encoder_optimiser: torch.optim.Adam | None = None
    group: Group = SINGLE_PROCESS
    micro_batch: int = 0
    micro_batches: int = 1
    losses: list[Tensor] = field(default_factory=list)


def initial_state(
    settings: TrainSettings, device: torch.device, group: Group = SINGLE_PROCESS
) -> TrainState:
    """Return the state before the first step, a function of ``settings.seed``."""
    networks = settings.networks()
    generator, discriminator = Generator(networks), Discriminator(networks)
    initialise(generator, generator_for(settings.seed, "weights", "generator"))
    initialise(discriminator, generator_for(settings.seed, "weights", "discriminator"))
    if settings.spectral_norm:
        normalise_spectrally(discriminator, seed=settings.seed)
    average = copy.deepcopy(generator).requires_grad_(False)
    networks_held: list[nn.Module] = [generator, discriminator, average]
    encoder, ema_encoder = None, None
    if settings.encoder != "off":
        encoder = Encoder(networks)
        initialise(encoder, generator_for(settings.seed, "weights", "encoder"))
        ema_encoder = copy.deepcopy(encoder).requires_grad_(False)
        networks_held += [encoder, ema_encoder]
    for network in networks_held:
        # Convolutions of this shape run faster with channels innermost, on CPUs as on GPUs.
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The averages keep torch's own batch norms: the first process measures their statistics alone.
    trained = [net for net in (generator, discriminator, encoder) if net is not None]
    start_alike(trained, group, synchronised=settings.sync_batchnorm)
    state = TrainState(
        generator,
        discriminator,
        average,
        _adam(generator, settings, settings.learning_rate),
        _adam(discriminator, settings, _discriminator_rate(settings)),
        group=group,
        micro_batches=settings.gradient_accumulation,
    )
    if encoder is not None:
        state.encoder, state.ema_encoder = encoder, ema_encoder
        state.encoder_optimiser = _adam(encoder, settings, settings.encoder_learning_rate)
    return state


def set_learning_rates(state: TrainState, settings: TrainSettings, step: int, steps: int) -> None:
    """Give all optimisers the rate of step number ``step`` of ``steps``."""
    share = rate_share(step, steps, schedule=settings.lr_schedule, warmup=settings.warmup)
    rates = {
        "generator_optimiser": settings.learning_rate,
        "discriminator_optimiser": _discriminator_rate(settings),
        "encoder_optimiser": settings.encoder_learning_rate,
    }
    for name, optimiser, _ in _optimisers(state):
        for group in optimiser.param_groups:
            group["lr"] = rates[name] * share


def discriminator_step(
    state: TrainState,
    real: Tensor,
    drawn: Tensor,
    settings: TrainSettings,
    transform: Transform = unchanged,
) -> Tensor:
    """Take one step of D on real images and on images that G has ``drawn``, each [B, C, H, W]; return its loss per image, [B].

    ``transform`` is what D sees G's images through; ``real`` comes transformed already. Every so many steps R1 is added, times
    as many (Karras 2020, section 3.1); it is no part of the loss that is returned. NaN says that the step was not finite and was
    left out; so it does of G's.
    """
    if settings.spectral_norm and state.micro_batch == 0:
        iterate_powers(state.discriminator)
    penalised = (
        settings.r1_gamma > 0 and state.images // settings.batch_size % settings.r1_every == 0
    )
    real = real.detach().requires_grad_(penalised)
    # Two passes: batch statistics of real and of generated images stay apart, as in the paper's code.
    with arithmetic(settings.precision, real.device):
        real_logits = state.discriminator(real)
        fake_logits = state.discriminator(transform(drawn.detach()))
    real_logits, fake_logits = real_logits.float(), fake_logits.float()
    loss = DISCRIMINATOR_LOSSES[settings.loss](real_logits, fake_logits)
    total = loss.mean()
    if penalised:
        weight = settings.r1_gamma / 2 * settings.r1_every
        total = total + weight * gradient_penalty(real_logits, real).mean()
    return _descend(state, total, loss, state.discriminator_optimiser)


def generator_step(
    state: TrainState,
    drawn: Drawn,
    real: Tensor,
    settings: TrainSettings,
    transform: Transform = unchanged,
) -> Tensor:
    """Take one step of G, and of E with it where there are completions, through a D that stays as it is.

    ``drawn`` comes with its gradients, from G as it is. ``transform`` is what D sees G's images through; gradients pass it.

    Returns
    -------
    Tensor
        The adversarial loss of the prior samples.
    """
    # Gradients for D's weights would be computed only to be thrown away.
    state.discriminator.requires_grad_(False)
    count = drawn.completions
    with arithmetic(settings.precision, real.device):
        features = state.discriminator.features(transform(drawn.images))
        logits = state.discriminator.logit(features[-1])
    losses = GENERATOR_LOSSES[settings.loss](logits.float())
    total = losses[count:].mean()
    if count:
        total = total + settings.completion_weight * losses[:count].mean()
        total = total + _completion_loss(drawn, settings)
    if settings.feature_matching:
        with torch.no_grad(), arithmetic(settings.precision, real.device):
            wanted = state.discriminator.features(real)[-1]
        ours = features[-1].float()
        distance = feature_matching(wanted.float(), ours, over_batch=state.group.mean)
        total = total + settings.feature_matching * distance
    loss = _descend(state, total, losses[count:], *_moving(state, drawn))
    state.discriminator.requires_grad_(True)
    _update_averages(state, settings)
    return loss


def encoder_step(state: TrainState, holed: MaskedBatch, settings: TrainSettings) -> Tensor:
    """Take one step of E through a G that stays as it is; return its loss, a mean over the batch."""
    assert state.encoder_optimiser is not None
    state.generator.requires_grad_(False)
    with arithmetic(settings.precision, holed.images.device):
        drawn = draw(state.generator, state.encoder, holed, holed.noise[:0]).exact()
    total = _completion_loss(drawn, settings)
    loss = _descend(state, total, total, state.encoder_optimiser).mean()
    state.generator.requires_grad_(True)
    return loss


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    """Return every tensor of the state under a unique name."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in modules_of(state).items():
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for prefix, optimiser, module in _optimisers(state):
        for name, weight in module.named_parameters():
            for moment, value in optimiser.state[weight].items():
                tensors[f"{prefix}.{name}.{moment}"] = value
    return tensors


def counts_of(state: TrainState) -> dict[str, int]:
    """Return the counters of the state by name."""
    return {name: getattr(state, name) for name in _COUNTS}


def restore(state: TrainState, tensors: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
    """Bring a fresh state of the same settings to the one that `tensors_of` and `counts_of` described; no count is 0.

    Raises
    ------
    ModelFileError
        Names or shapes that this state does not have.
    """
    try:
        for prefix, module in modules_of(state).items():
            module.load_state_dict(_under(tensors, prefix))
        for prefix, optimiser, module in _optimisers(state):
            held = _under(tensors, prefix)
            for name, weight in module.named_parameters():
                for moment in ("step", "exp_avg", "exp_avg_sq"):
                    value = held[f"{name}.{moment}"]
                    if moment != "step":
                        # The memory layout must be the weight's own: it decides the order of sums.
                        value = torch.empty_like(weight).copy_(value)
                    optimiser.state[weight][moment] = value.clone()
    except (KeyError, RuntimeError) as error:
        raise ModelFileError(f"the checkpoint does not fit these settings: {error}") from error
    for name in _COUNTS:
        setattr(state, name, counts.get(name, 0))


def _completion_loss(drawn: Drawn, settings: TrainSettings) -> Tensor:
    return completion_loss(
        drawn,
        reconstruction_weight=settings.reconstruction_weight,
        estimate_weight=settings.estimate_weight,
        kl_weight=settings.kl_weight,
        free_nats=settings.free_nats,
    ).mean()


def _moving(state: TrainState, drawn: Drawn) -> list[torch.optim.Adam]:
    """Return the optimisers of what G's step moves: G, and E with it where there are completions."""
    optimisers = [state.generator_optimiser]
    if drawn.completions and state.encoder_optimiser is not None:
        optimisers.append(state.encoder_optimiser)
    return optimisers


def _descend(
    state: TrainState, total: Tensor, losses: Tensor, *optimisers: torch.optim.Adam
) -> Tensor:
    """Descend the gradient of ``total``, unless something is not finite; return ``losses``, NaN where it was left out.

    Gradients add up over the micro-batches; the last one takes the step and returns the losses of all of them. All processes descend
    the mean gradient of their shares.
    """
    if state.micro_batch == 0:
        state.losses.clear()
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
    count = state.micro_batches
    (total / count if count > 1 else total).backward()  # type: ignore[no-untyped-call]
    state.losses.append(losses.detach())
    if state.micro_batch < count - 1:
        return losses.detach()
    every = [each.reshape(-1) for each in state.losses]
    joined = losses if count == 1 else torch.cat(every)
    state.losses.clear()
    return update_if_finite(joined, *optimisers, group=state.group)


def _update_averages(state: TrainState, settings: TrainSettings) -> None:
    # The first process writes; nothing else reads the averages.
    if not (state.group.is_main and state.micro_batch == state.micro_batches - 1):
        return
    decay, step = settings.ema_decay, state.step
    update_ema(state.ema, state.generator, decay=decay, step=step)
    if state.encoder is not None and state.ema_encoder is not None:
        update_ema(state.ema_encoder, state.encoder, decay=decay, step=step)


def _discriminator_rate(settings: TrainSettings) -> float:
    return settings.discriminator_learning_rate or settings.learning_rate


def _adam(module: nn.Module, settings: TrainSettings, rate: float) -> torch.optim.Adam:
    betas = (settings.beta1, settings.beta2)
    return torch.optim.Adam(module.parameters(), rate, betas, fused=True)


def modules_of(state: TrainState) -> dict[str, nn.Module]:
    """Return the networks of the state by name."""
    modules: dict[str, nn.Module | None] = {
        "generator": state.generator,
        "discriminator": state.discriminator,
        "ema": state.ema,
        "encoder": state.encoder,
        "ema_encoder": state.ema_encoder,
    }
    return {name: module for name, module in modules.items() if module is not None}


def _optimisers(state: TrainState) -> list[tuple[str, torch.optim.Adam, nn.Module]]:
    found: list[tuple[str, torch.optim.Adam, nn.Module]] = [
        ("generator_optimiser", state.generator_optimiser, state.generator),
        ("discriminator_optimiser", state.discriminator_optimiser, state.discriminator),
    ]
    if state.encoder is not None and state.encoder_optimiser is not None:
        found.append(("encoder_optimiser", state.encoder_optimiser, state.encoder))
    return found


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) + 1 :]: value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }
