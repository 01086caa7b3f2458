"""All that a run must remember, and the two steps that change it (Goodfellow 2014, Algorithm 1)."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pixmend.errors import ModelFileError
from pixmend.models import Discriminator, Generator, initialise
from pixmend.randomness import generator_for
from pixmend.training.average import update_average
from pixmend.training.finite import update_if_finite
from pixmend.training.losses import GENERATOR_LOSSES, discriminator_loss, feature_matching
from pixmend.training.settings import TrainSettings

__all__ = [
    "TrainState",
    "counts_of",
    "discriminator_step",
    "generator_step",
    "initial_state",
    "restore",
    "tensors_of",
]


_COUNTS = ("step", "images", "skipped", "skipped_in_row", "rollbacks")


@dataclass
class TrainState:
    """Networks, their optimisers and the position in the run; everything else is a function of these.

    Attributes
    ----------
    step, images
        Iterations done, and training images that D has seen.
    skipped, skipped_in_row
        Iterations in which an update was left out because it was not finite: all, and the last ones in a row.
    rollbacks
        How often the run was taken back to a checkpoint; it decides the draws after it.
    """

    generator: Generator
    discriminator: Discriminator
    average: Generator
    generator_optimiser: torch.optim.Adam
    discriminator_optimiser: torch.optim.Adam
    step: int = 0
    images: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    rollbacks: int = 0


def initial_state(settings: TrainSettings, device: torch.device) -> TrainState:
    """Return the state before the first step, a function of ``settings.seed``."""
    networks = settings.networks()
    generator, discriminator = Generator(networks), Discriminator(networks)
    initialise(generator, generator_for(settings.seed, "weights", "generator"))
    initialise(discriminator, generator_for(settings.seed, "weights", "discriminator"))
    average = copy.deepcopy(generator).requires_grad_(False)
    for network in (generator, discriminator, average):
        # Convolutions of this shape run faster with channels innermost, on CPUs as on GPUs.
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainState(
        generator,
        discriminator,
        average,
        _adam(generator, settings),
        _adam(discriminator, settings),
    )


def discriminator_step(state: TrainState, real: Tensor, z: Tensor) -> Tensor:
    """Take one step of D on real images [B, C, H, W] and as many of G's; return its loss per image, [B].

    NaN says that the step was not finite and was left out; so it does of G's.
    """
    with torch.no_grad():
        fake = state.generator(z)
    # Two passes: batch statistics of real and of generated images stay apart, as in the paper's code.
    loss = discriminator_loss(state.discriminator(real), state.discriminator(fake))
    state.discriminator_optimiser.zero_grad(set_to_none=True)
    loss.mean().backward()  # type: ignore[no-untyped-call]
    return update_if_finite(state.discriminator_optimiser, loss)


def generator_step(state: TrainState, z: Tensor, real: Tensor, settings: TrainSettings) -> Tensor:
    """Take one step of G through a D that stays as it is; return its adversarial loss per image, [B]."""
    # Gradients for D's weights would be computed only to be thrown away.
    state.discriminator.requires_grad_(False)
    features = state.discriminator.features(state.generator(z))
    loss = GENERATOR_LOSSES[settings.loss](state.discriminator.logit(features[-1]))
    total = loss.mean()
    if settings.feature_matching:
        with torch.no_grad():
            wanted = state.discriminator.features(real)[-1]
        total = total + settings.feature_matching * feature_matching(wanted, features[-1])
    state.generator_optimiser.zero_grad(set_to_none=True)
    total.backward()  # type: ignore[no-untyped-call]
    loss = update_if_finite(state.generator_optimiser, loss)
    state.discriminator.requires_grad_(True)
    update_average(state.average, state.generator, decay=settings.average_decay, step=state.step)
    return loss


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
    for name in _COUNTS:
        setattr(state, name, counts.get(name, 0))


def _adam(module: nn.Module, settings: TrainSettings) -> torch.optim.Adam:
    betas = (settings.beta1, settings.beta2)
    return torch.optim.Adam(module.parameters(), settings.learning_rate, betas, fused=True)


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
