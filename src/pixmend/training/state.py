"""All that a run must remember, and the two steps that change it (Goodfellow 2014, Algorithm 1)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixmend.errors import ModelFileError
from pixmend.models import Discriminator, Generator, initialise
from pixmend.randomness import generator_for
from pixmend.training.augment import Transform, unchanged
from pixmend.training.average import update_average
from pixmend.training.losses import DISCRIMINATOR_LOSSES, GENERATOR_LOSSES, feature_matching
from pixmend.training.regularise import gradient_penalty, iterate_powers, normalise_spectrally
from pixmend.training.schedule import rate_share
from pixmend.training.settings import TrainSettings

__all__ = [
    "TrainState",
    "discriminator_step",
    "generator_step",
    "initial_state",
    "is_finite",
    "restore",
    "set_learning_rates",
    "tensors_of",
]


@dataclass
class TrainState:
    """Networks, their optimisers and the position in the run; everything else is a function of these.

    Attributes
    ----------
    step, images
        Iterations done, and training images that D has seen.
    """

    generator: Generator
    discriminator: Discriminator
    average: Generator
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam
    step: int = 0
    images: int = 0


def initial_state(settings: TrainSettings, device: torch.device) -> TrainState:
    """Return the state before the first step, a function of ``settings.seed``."""
    networks = settings.networks()
    generator, discriminator = Generator(networks), Discriminator(networks)
    initialise(generator, generator_for(settings.seed, "weights", "generator"))
    initialise(discriminator, generator_for(settings.seed, "weights", "discriminator"))
    if settings.spectral_norm:
        normalise_spectrally(discriminator, seed=settings.seed)
    average = copy.deepcopy(generator).requires_grad_(False)
    for network in (generator, discriminator, average):
        # Convolutions of this shape run faster with channels innermost, on CPUs as on GPUs.
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainState(
        generator,
        discriminator,
        average,
        _adam(generator, settings, settings.learning_rate),
        _adam(discriminator, settings, _discriminator_rate(settings)),
    )


def set_learning_rates(state: TrainState, settings: TrainSettings) -> None:
    """Give both optimisers the rate of the coming step."""
    share = rate_share(
        state.step, settings.steps, schedule=settings.schedule, warm_up=settings.warm_up
    )
    for optimiser, full in (
        (state.generator_optimiser, settings.learning_rate),
        (state.discriminator_optimiser, _discriminator_rate(settings)),
    ):
        for group in optimiser.param_groups:
            group["lr"] = full * share


def discriminator_step(
    state: TrainState,
    real: Tensor,
    z: Tensor,
    settings: TrainSettings,
    transform: Transform = unchanged,
) -> Tensor:
    """Take one step of D on real images [B, C, H, W] and as many of G's; return its loss per image, [B].

    ``transform`` is what D sees G's images through; ``real`` comes transformed already. Every so many steps R1 is added, times as many
    (Karras 2020, section 3.1); it is no part of the loss that is returned.
    """
    if settings.spectral_norm:
        iterate_powers(state.discriminator)
    penalised = settings.r1 > 0 and state.images // settings.batch_size % settings.r1_every == 0
    real = real.detach().requires_grad_(penalised)
    with torch.no_grad():
        fake = transform(state.generator(z))
    # Two passes: batch statistics of real and of generated images stay apart, as in the paper's code.
    real_logits = state.discriminator(real)
    loss = DISCRIMINATOR_LOSSES[settings.loss](real_logits, state.discriminator(fake))
    total = loss.mean()
    if penalised:
        weight = settings.r1 / 2 * settings.r1_every
        total = total + weight * gradient_penalty(real_logits, real).mean()
    state.discriminator_optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    state.discriminator_optimiser.step()
    return loss.detach()


def generator_step(
    state: TrainState,
    z: Tensor,
    real: Tensor,
    settings: TrainSettings,
    transform: Transform = unchanged,
) -> Tensor:
    """Take one step of G through a D that stays as it is; return its adversarial loss per image, [B].

    ``transform`` is what D sees G's images through; gradients pass it.
    """
    # Gradients for D's weights would be computed only to be thrown away.
    state.discriminator.requires_grad_(False)
    features = state.discriminator.features(transform(state.generator(z)))
    loss = GENERATOR_LOSSES[settings.loss](state.discriminator.logit(features[-1]))
    total = loss.mean()
    if settings.feature_matching:
        with torch.no_grad():
            wanted = state.discriminator.features(real)[-1]
        total = total + settings.feature_matching * feature_matching(wanted, features[-1])
    state.generator_optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    state.generator_optimiser.step()
    state.discriminator.requires_grad_(True)
    update_average(state.average, state.generator, decay=settings.average_decay, step=state.step)
    return loss.detach()


def tensors_of(state: TrainState) -> dict[str, Tensor]:
    """Return every tensor of the state under a unique name."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in _modules(state).items():
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for prefix, optimiser, module in _optimisers(state):
        for name, weight in module.named_parameters():
            for moment, value in optimiser.state[weight].items():
                tensors[f"{prefix}.{name}.{moment}"] = value
    return tensors


def restore(state: TrainState, tensors: Mapping[str, Tensor], *, step: int, images: int) -> None:
    """Bring a fresh state of the same settings to the one that `tensors_of` described.

    Raises
    ------
    ModelFileError
        Names or shapes that this state does not have.
    """
    try:
        for prefix, module in _modules(state).items():
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
    state.step, state.images = step, images


def is_finite(tensors: Mapping[str, Tensor]) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(
        bool(torch.isfinite(value).all()) for value in tensors.values() if value.is_floating_point()
    )


def _adam(module: nn.Module, settings: TrainSettings, rate: float) -> torch.optim.Adam:
    betas = (settings.beta1, settings.beta2)
    return torch.optim.Adam(module.parameters(), rate, betas, fused=True)


def _discriminator_rate(settings: TrainSettings) -> float:
    return settings.discriminator_learning_rate or settings.learning_rate


def _modules(state: TrainState) -> dict[str, nn.Module]:
    return {
        "generator": state.generator,
        "discriminator": state.discriminator,
        "average": state.average,
    }


def _optimisers(state: TrainState) -> list[tuple[str, torch.optim.Adam, nn.Module]]:
    return [
        ("generator_optimiser", state.generator_optimiser, state.generator),
        ("discriminator_optimiser", state.discriminator_optimiser, state.discriminator),
    ]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) + 1 :]: value
        for name, value in tensors.items()
        if name.startswith(f"{prefix}.")
    }
