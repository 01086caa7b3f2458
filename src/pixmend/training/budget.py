"""Training for a time instead of a number of steps: a net that fits the machine, the data and the minutes.

What it chooses are ordinary settings, kept with the run: the same command goes on with the same net, however fast the machine is then.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pixmend.distributed import SINGLE_PROCESS, Group, choose_device
from pixmend.errors import SettingsError
from pixmend.images import channel_count
from pixmend.models import sample_latents
from pixmend.records import PackProgress, PackSettings, Records, pack
from pixmend.rng import array_generator_for, generator_for
from pixmend.storage import StorePath
from pixmend.training.inversion import MaskedBatch, draw, sample_masks
from pixmend.training.precision import arithmetic
from pixmend.training.run_directory import RunDirectory, is_run
from pixmend.training.settings import TrainSettings, read_recipe, resolve
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


_PARTS = 1_000_000  # a share of time as a whole number, for schedules that count


@dataclass
class Clock:
    """Tells all processes of a run the same; a run without ``minutes`` does not depend on time.

    Attributes
    ----------
    before
        Seconds of training in the sittings before this one.
    last
        Seconds that the end of a run will take, as its last checkpoint did: kept free, so that the run ends in time.
    told
        The share that was told last.
    """

    settings: TrainSettings
    group: Group
    before: float = 0.0
    last: float = 0.0
    started: float = field(init=False)
    told: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Start it."""
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training so far, by this process's clock."""
        return self.before + time.monotonic() - self.started

    def done(self, step: int) -> float:
        """Return the share of the run that is done after ``step`` steps, 1 and more at its end; the first process's word counts."""
        share = step / self.settings.steps
        if self.settings.minutes is None:
            return share
        timed = (self.seconds + self.last) / (60 * self.settings.minutes)
        # A checkpoint that takes less than the one before gives time back, but learning rates do not rise again.
        told = torch.tensor([max(share, timed, self.told)], dtype=torch.float64)
        self.group.broadcast([told])
        self.told = float(told)
        return self.told

    def place(self, step: int, done: float) -> tuple[int, int]:
        """Return where the schedule of learning rates is: at which step of how many."""
        if self.settings.minutes is None:
            return step, self.settings.steps
        return min(round(done * _PARTS), _PARTS - 1), _PARTS


def plan_training(recipe: str | Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a recipe and overrides give, checked."""
    held = read_recipe(recipe) if recipe else {}
    try:
        resolve(held)
    except SettingsError as error:
        raise SettingsError(f"recipe {recipe}: {error}") from error
    wanted = {**held, **overrides}
    resolve(wanted)
    return wanted


def prepare_records(
    data: StorePath | Path,
    run: Path,
    wanted: Mapping[str, Any],
    *,
    skip_bad: bool = False,
    on_progress: Callable[[PackProgress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = SINGLE_PROCESS,
) -> Records:
    """Open a record folder (or its URL), or pack an image folder into the run directory (once) and open that.

    In a group the first process packs while the others wait.

    Raises
    ------
    SettingsError
        ``wanted`` asks for another size or other channels than the records have.
    StoppedError
        ``should_stop`` said yes; the same call goes on.
    """
    if (StorePath.of(data) / "manifest.json").is_file():
        packed = Records(data, skip_bad=skip_bad, should_stop=should_stop)
    else:
        keys = ("size", "channels", "fit", "background")
        values = {key: wanted[key] for key in keys if key in wanted}
        if "minutes" in wanted and "size" not in wanted:
            device = choose_device(wanted.get("device", "auto"))
            values["size"] = size_for(wanted["minutes"], device)
        chosen = PackSettings(**values)
        folder = RunDirectory(run).records
        with group.main_first():
            if group.is_main:
                pack(data, folder, chosen, on_progress=on_progress, should_stop=should_stop)
            packed = Records(folder, skip_bad=skip_bad, should_stop=should_stop)
    for key, held in _shape_of(packed).items():
        if key in wanted and wanted[key] != held:
            raise SettingsError(
                f"{key} = {wanted[key]}: the records in {data} have {key} {held}; "
                f"pack the images again (pixmend pack --{key} {wanted[key]}) or leave {key} out"
            )
    return packed


def resolve_training(
    wanted: Mapping[str, Any], packed: Records, run: Path, *, group: Group = SINGLE_PROCESS
) -> TrainSettings:
    """Return the settings of a run on these records; with ``minutes``, what is not said is measured, or as the run was begun with."""
    given = {**wanted, **_shape_of(packed)}
    if "minutes" not in wanted:
        return resolve(given)
    chosen: dict[str, Any] | None = None
    if group.is_main:
        if is_run(run):
            begun = read_recipe(RunDirectory(run).settings)
            chosen = {key: begun[key] for key in CHOSEN if key in begun}
        else:
            device = group.device(wanted.get("device", "auto"))
            chosen = chosen_for(wanted["minutes"], packed, given, device)
    return resolve(group.broadcast_object(chosen), given)


def _shape_of(packed: Records) -> dict[str, Any]:
    return {
        "size": packed.size,
        "channels": packed.channels,
        "fit": packed.manifest.settings.fit,
        "background": packed.manifest.settings.background,
    }
