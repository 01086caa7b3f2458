"""Training for a time instead of a number of steps: a net that fits the machine, the data and the minutes.

What it chooses are ordinary settings, kept with the run: the same command goes on with the same net, however fast the machine is then.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch

from pixmend.images import channel_count
from pixmend.models import sample_latents
from pixmend.records import Records
from pixmend.rng import array_generator_for, generator_for
from pixmend.training.inversion import MaskedBatch, draw, sample_masks
from pixmend.training.precision import arithmetic
from pixmend.training.settings import TrainSettings, resolve
from pixmend.training.split import family_numbers
from pixmend.training.state import TrainState, discriminator_step, generator_step, initial_state

# Completing is what a user with minutes wants, so the net has an encoder with a memory: it learns to complete in a
# tenth of the steps after which a search of G alone would.
_COMMON: dict[str, Any] = {
    "encoder": "conditional",
    "latent_prior": "normal",
    "hole_init": "harmonic",
    "lr_schedule": "cosine",
    "steps": 10_000_000,  # never reached: time is up before
}
_WIDTHS = (64, 48, 32, 24, 16)
_WIDEST = {
    64: 20_000,
    48: 5_000,
    32: 0,
}  # and the images from which on: a wide net learns a small set by heart
_BATCHES = (64, 32, 16)
_ENOUGH = 1500  # steps: of a wider net fewer leave it less far than a narrower one gets with more
_MEMORY_BYTES = 16 * 2**20  # of pixels in the model file, before they are compressed
_MOST_AVERAGED = 0.999
_FEW = 5000  # images
_COMPARED, _ASKED = 2048, 512
_ALIKE = 0.45
_FITTED = (
    "filters",
    "encoder_filters",
    "retrieval_images",
    "batch_size",
    "ema_decay",
    "random_shift",
    "horizontal_flip",
)
CHOSEN = frozenset({*_COMMON, *_FITTED})


def chosen_for(
    minutes: float, records: Records, given: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Return settings for a run of so many minutes on these images; what is ``given`` already stays.

    The widest net of which the machine does 1,500 steps in that time, measured with three steps of each; failing that, the narrowest
    with smaller batches. Few images are moved a little at random, and flipped where flipped ones are of the same kind, so that
    they are not learned by heart.
    """
    images = len(records)
    held: dict[str, Any] = {**_COMMON, "retrieval_images": _memory(images, given)}
    few = images < _FEW
    held["random_shift"] = records.size // 16 if few else 0
    held["horizontal_flip"] = few and flips_belong(records)
    held |= given
    count = 0.0
    for values in _candidates(images):
        held = {**held, **values, **given}
        count = minutes * 60 / seconds_a_step(resolve(held), device)
        if count >= _ENOUGH:
            break
    # An average over the last twentieth of the steps, or over a thousand.
    decay = min(_MOST_AVERAGED, 1 - 20 / max(count, 40))
    return {**held, "ema_decay": round(decay, 4), **given}


def size_for(minutes: float, device: torch.device) -> Literal[32, 64]:
    """Return the side of the images to train on where the user has not said it: of 64 px a CPU sees too few in less than two hours."""
    return 32 if device.type == "cpu" and minutes < 120 else 64


def flips_belong(records: Records) -> bool:
    """Whether a mirror image is as near to other images as the image itself is, so that flipping leaves the domain what it is.

    Of up to 512 images, those whose mirror image has the nearer nearest image of another family are counted: half, where left and
    right are alike; a quarter, of characters.
    """
    chosen = array_generator_for(0, "mirror images").permutation(len(records))[:_COMPARED]
    images = torch.from_numpy(records.images(np.sort(chosen))).float()  # [N, S, S, C]
    family = torch.from_numpy(family_numbers(records)[np.sort(chosen)])
    own = family[:, None] == family[None]
    some = images[:_ASKED]
    gaps = [
        torch.cdist(each.flatten(1), images.flatten(1)).masked_fill(own[: len(some)], torch.inf)
        for each in (some, some.flip(2))
    ]
    itself, flipped = (each.amin(1) for each in gaps)
    return bool((flipped < itself).float().mean() > _ALIKE)


def seconds_a_step(settings: TrainSettings, device: torch.device) -> float:
    """Return the least time of three steps of these settings on noise, after one to warm up."""
    settings = settings.model_copy(
        update={"gradient_accumulation": 1}
    )  # which changes no net's place among others
    state = initial_state(settings, device)
    taken = []
    for _ in range(4):
        started = time.perf_counter()
        _step(state, settings, device)
        taken.append(time.perf_counter() - started)
    return min(taken[1:])


def _step(state: TrainState, settings: TrainSettings, device: torch.device) -> None:
    generator = generator_for(0, "budget")
    count, size = settings.batch_size, settings.size
    shape = (count, channel_count(settings.channels), size, size)
    real = (torch.rand(shape, generator=generator) * 2 - 1).to(device)
    some, holed = 0, None
    if settings.encoder != "off":
        some = count // 2
        known = sample_masks(some, size, generator).to(device)
        noise = torch.randn(some, settings.latent_dim, generator=generator).to(device)
        neighbour = real[:some] if settings.retrieval_images else None
        holed = MaskedBatch(real[:some], known, neighbour, noise)
    z = sample_latents(settings.networks(), count - some, generator).to(device)
    with arithmetic(settings.precision, device):
        drawn = draw(state.generator, state.encoder, holed, z).exact()
    loss = discriminator_step(state, real, drawn.images, settings).sum()
    loss = loss + generator_step(state, drawn, real, settings).sum()
    loss.item()  # waits for a GPU


def _candidates(images: int) -> Iterator[dict[str, int]]:
    """Yield widths and batches, the dearest first."""
    widest = next(width for width, least in _WIDEST.items() if images >= least)
    for width in (width for width in _WIDTHS if width <= widest):
        yield {"filters": width, "encoder_filters": width * 5 // 6, "batch_size": _BATCHES[0]}
    for batch in _BATCHES[1:]:
        yield {"batch_size": batch}


def _memory(images: int, given: Mapping[str, Any]) -> int:
    """Return how many training images fit in the model file's share, none past what there is."""
    look = resolve({key: given[key] for key in ("size", "channels") if key in given})
    return min(images, _MEMORY_BYTES // (look.size**2 * channel_count(look.channels)))
