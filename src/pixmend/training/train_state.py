"""The state of a run: networks, optimisers and counters; all else is a function of these."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from pixmend.distributed import SINGLE_PROCESS, Group
from pixmend.models import Discriminator, Generator, Inpainter, initialise, initialise_inpainter
from pixmend.models.inpainter import initialise_he
from pixmend.rng import generator_for
from pixmend.training.data_parallel import replicate
from pixmend.training.draws import HoleDiscriminator
from pixmend.training.optimise import make_optimiser
from pixmend.training.settings import TrainSettings
from pixmend.training.spectral import normalise_spectrally

_INITIALISE: dict[str, Callable[[Any, torch.Generator], None]] = {
    "inpainter": initialise_inpainter,
    "hole_discriminator": initialise_he,
}


@dataclass
class TrainState:
    """Networks, optimisers and the position in the run."""

    generator: Generator
    discriminator: Discriminator
    ema: Generator
    generator_optimiser: Adam
    discriminator_optimiser: Adam
    inpainter: Inpainter | None = None
    ema_inpainter: Inpainter | None = None
    inpainter_optimiser: Adam | None = None
    hole_discriminator: HoleDiscriminator | None = None
    hole_discriminator_optimiser: Adam | None = None
    step: int = 0
    images: int = 0  # that D has seen, in all processes
    skipped: int = 0  # steps with a non-finite update
    skipped_in_row: int = 0
    rollbacks: int = 0  # to a checkpoint; they decide the draws after them
    group: Group = SINGLE_PROCESS  # the processes that share each batch
    micro_batch: int = 0  # number of the current one
    micro_batches: int = 1  # of each share: gradient accumulation
    losses: list[Tensor] = field(default_factory=list)  # of the micro-batches so far

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by name."""
        names = ("generator", "discriminator", "ema", "inpainter", "ema_inpainter")
        names_and_nets = ((name, getattr(self, name)) for name in (*names, "hole_discriminator"))
        return {name: net for name, net in names_and_nets if net is not None}

    def optimisers(self) -> dict[str, Adam]:
        """Return the optimisers by the names of their networks."""
        names = ("generator", "discriminator", "inpainter", "hole_discriminator")
        optimisers = {name: getattr(self, f"{name}_optimiser") for name in names}
        return {name: each for name, each in optimisers.items() if each is not None}


def initial_state(
    settings: TrainSettings, device: torch.device, group: Group = SINGLE_PROCESS
) -> TrainState:
    """Return the state before the first step, a function of ``settings.seed``."""
    model = settings.networks()
    generator, discriminator = Generator(model), Discriminator(model)
    trained: dict[str, nn.Module] = {"generator": generator, "discriminator": discriminator}
    inpainter = ema_inpainter = hole_discriminator = None
    if settings.inpainter_filters:
        trained["inpainter"] = inpainter = Inpainter(model)
        trained["hole_discriminator"] = hole_discriminator = HoleDiscriminator(model)
    for name, network in trained.items():
        _INITIALISE.get(name, initialise)(network, generator_for(settings.seed, "weights", name))
    if settings.spectral_norm:
        normalise_spectrally(discriminator, seed=settings.seed)
    ema = copy.deepcopy(generator).requires_grad_(False)
    networks = [*trained.values(), ema]
    if inpainter is not None:
        ema_inpainter = copy.deepcopy(inpainter).requires_grad_(False)
        networks.append(ema_inpainter)
    for network in networks:
        # Strided convolutions are faster with channels last; on a CPU, group norm is slower by more.
        normed = isinstance(network, Inpainter) and device.type == "cpu"
        layout = torch.contiguous_format if normed else torch.channels_last
        network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    # The averages keep torch's batch norm: the main process alone recomputes their statistics.
    replicate(trained.values(), group, sync_batchnorm=settings.sync_batchnorm)
    optimisers = {name: make_optimiser(name, each, settings) for name, each in trained.items()}
    return TrainState(
        generator,
        discriminator,
        ema,
        optimisers["generator"],
        optimisers["discriminator"],
        inpainter,
        ema_inpainter,
        optimisers.get("inpainter"),
        hole_discriminator,
        optimisers.get("hole_discriminator"),
        group=group,
        micro_batches=settings.gradient_accumulation,
    )
