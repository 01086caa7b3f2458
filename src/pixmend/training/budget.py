"""Training for a given time: settings that fit the machine, the data and the minutes.

The choices become ordinary settings of the run, so the same command resumes with the same networks.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pixmend.distributed import SINGLE_PROCESS, Group, choose_device
from pixmend.errors import SettingsError
from pixmend.hardware import is_fast_in_bfloat16
from pixmend.images import channel_count
from pixmend.masks import make_mask
from pixmend.models import Retrieval, gather_evidence
from pixmend.records import PackProgress, PackSettings, Records, pack
from pixmend.rng import array_generator_for
from pixmend.storage import StorePath
from pixmend.training.data import BatchLoader
from pixmend.training.run_directory import RunDirectory, is_run
from pixmend.training.settings import TrainSettings, read_recipe, resolve
from pixmend.training.split import group_numbers
from pixmend.training.step import TrainStep
from pixmend.training.train_state import initial_state

# Most of the time is for the inpainter, which completes.
_COMMON: dict[str, Any] = {
    "inpainter_filters": 32,
    "inpainter_steps": 3,
    "inpainter_reuse": 2,  # neighbours and fills of a batch take as long as an update
    "lr_schedule": "cosine",
    "steps": 10_000_000,  # never reached: time is up before
}
_WIDTHS = (64, 48, 32, 24, 16)
# Widths and the least number of images for them: a wide network memorises a small set.
_MIN_IMAGES = {64: 20_000, 48: 5_000, 32: 0}
_BATCHES = (32, 16, 8)
_WORTH_NARROWING = 0.8  # largest share of the time that narrow networks may take, to be chosen
_MIN_STEPS = 500  # a wider network with fewer steps is worse than a narrower one with more
_RETRIEVAL_BYTES = 16 * 2**20  # of pixels in the model file, before compression
_MAX_EMA_DECAY = 0.999
_FEW_IMAGES = 5000
_COMPARED, _QUERIES = 2048, 512  # images that tell what training may vary
_MIN_FLIP_SHARE = 0.45
_COPY_ERROR, _MIN_COPIES = 1e-3, 0.05  # mean square in [-1, 1]: 36 dB
_FITTED = {"filters", "retrieval_images", "batch_size", "ema_decay"}
CHOSEN = frozenset(_COMMON) | _FITTED | {"horizontal_flip", "inpainter_augmentation"}
_FORMAT = ("size", "channels", "fit", "background")  # settings that records decide
_PLACES = 1_000_000  # of a timed learning rate schedule


class Clock:
    """The progress of a run, by steps or, with ``minutes``, by time; the same in all processes."""

    def __init__(self, settings: TrainSettings, group: Group) -> None:
        self._settings, self._group = settings, group
        self.earlier = 0.0  # seconds of training in earlier sessions
        self.reserve = 0.0  # seconds for the last checkpoint, as the one before it took
        self._started = time.monotonic()
        self._done = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training so far, by this process's clock."""
        return self.earlier + time.monotonic() - self._started

    def done(self, step: int) -> float:
        """Return the share of the run after ``step`` steps, 1 or more at the end."""
        share = step / self._settings.steps
        if self._settings.minutes is None:
            return share
        timed = (self.seconds + self.reserve) / (60 * self._settings.minutes)
        # Never less than before, even after a quick checkpoint: learning rates do not rise again.
        done = torch.tensor([max(share, timed, self._done)], dtype=torch.float64)
        self._group.broadcast([done])
        self._done = float(done)
        return self._done

    def place(self, step: int, done: float) -> tuple[int, int]:
        """Return the position in the learning rate schedule, and the schedule's length."""
        if self._settings.minutes is None:
            return step, self._settings.steps
        return min(round(done * _PLACES), _PLACES - 1), _PLACES


def plan_training(recipe: str | Path | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the valid values of a recipe with overrides."""
    values = {} if recipe is None else read_recipe(recipe)
    try:
        resolve(values)
    except SettingsError as error:
        raise SettingsError(f"recipe {recipe}: {error}") from error
    values = {**values, **overrides}
    resolve(values)
    return values


def prepare_records(
    data: StorePath | Path,
    run: Path,
    plan: Mapping[str, Any],
    *,
    skip_bad: bool = False,
    on_progress: Callable[[PackProgress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    group: Group = SINGLE_PROCESS,
) -> Records:
    """Open a record folder (or URL), or pack an image folder into the run directory and open that.

    In a group the main process packs while the others wait. SettingsError: the records differ from
    the plan. StoppedError: ``should_stop`` returned true; the same call resumes.
    """
    if (StorePath.of(data) / "manifest.json").is_file():
        records = Records(data, skip_bad=skip_bad, should_stop=should_stop)
    else:
        # The images of a run are packed as before: `_format_of` then names all that differ at once.
        known = {**(read_recipe(RunDirectory(run).settings) if is_run(run) else {}), **plan}
        values = {key: known[key] for key in _FORMAT if key in known}
        if "minutes" in plan and "size" not in known:
            values["size"] = default_size(
                plan["minutes"], choose_device(plan.get("device", "auto"))
            )
        packing = PackSettings(**values)
        folder = RunDirectory(run).records
        if group.is_main:
            pack(data, folder, packing, on_progress=on_progress, should_stop=should_stop)
        group.broadcast_object(None)  # the others wait for the main process
        records = Records(folder, skip_bad=skip_bad, should_stop=should_stop)
    for key, value in _format_of(records).items():
        if key in plan and plan[key] != value:
            raise SettingsError(
                f"{key} = {plan[key]}: the records in {data} have {key} {value}; "
                f"pack the images again (pixmend pack --{key} {plan[key]}) or leave {key} out"
            )
    return records


def resolve_training(
    plan: Mapping[str, Any], records: Records, run: Path, *, group: Group = SINGLE_PROCESS
) -> TrainSettings:
    """Return a run's settings; with ``minutes``, open ones fit the time, or are the run's so far."""
    given = {**plan, **_format_of(records)}
    choices: dict[str, Any] = {}
    if group.is_main and "minutes" in plan:
        if is_run(run):
            before = read_recipe(RunDirectory(run).settings)
            choices = {key: before[key] for key in CHOSEN if key in before}
        else:
            device = group.device(plan.get("device", "auto"))
            choices = fit_to_minutes(plan["minutes"], records, given, device)
    return settle_precision(resolve(group.broadcast_object(choices), given), run, group)


def settle_precision(settings: TrainSettings, run: Path, group: Group) -> TrainSettings:
    """Return the settings with the run's precision so far, or with the faster one here, in place of ``auto``."""
    if settings.precision != "auto":
        return settings
    precision = ""
    if group.is_main:
        before = read_recipe(RunDirectory(run).settings) if is_run(run) else {}
        faster = choose_precision(settings, group.device(settings.device)).precision
        precision = before.get("precision", faster)
    return resolve(settings.model_dump(), {"precision": group.broadcast_object(precision)})


def choose_precision(settings: TrainSettings, device: torch.device) -> TrainSettings:
    """Return the settings with the faster precision on a device in place of ``auto``."""
    if settings.precision != "auto":
        return settings
    faster = "bfloat16" if is_fast_in_bfloat16(device) else "float32"
    return settings.model_copy(update={"precision": faster})


def fit_to_minutes(
    minutes: float, records: Records, given: Mapping[str, Any], device: torch.device
) -> dict[str, Any]:
    """Return settings for so many minutes of training; ``given`` ones stay.

    G and D are the widest that take 500 steps in that time, or else the narrowest with smaller
    batches; the widest too if narrower ones would hardly save time, which the inpainter takes.
    """
    images = len(records)
    few = images < _FEW_IMAGES
    shape = resolve({key: given[key] for key in ("size", "channels") if key in given})
    fitting = _RETRIEVAL_BYTES // (shape.size**2 * channel_count(shape.channels))
    values: dict[str, Any] = {
        **_COMMON,
        "retrieval_images": min(images, fitting) if given.get("inpainter_filters", 1) else 0,
        "horizontal_flip": few and is_flip_invariant(records),
        "inpainter_augmentation": 0.5 if few and not has_near_copies(records) else 0.0,
    }
    candidates = [{**values, **candidate, **given} for candidate in _candidates(images)]
    widest, narrowest = candidates[0], candidates[-1]

    def steps_of(candidate: Mapping[str, Any]) -> float:
        settings = choose_precision(resolve(candidate), device)
        return minutes * 60 / seconds_per_step(settings, device)

    values, steps = widest, steps_of(widest)
    if steps < _MIN_STEPS and steps_of(narrowest) * _WORTH_NARROWING > steps:
        for values in candidates[1:]:
            steps = steps_of(values)
            if steps >= _MIN_STEPS:
                break
    # The average spans the last twentieth of the steps, or a thousand.
    decay = min(_MAX_EMA_DECAY, 1 - 20 / max(steps, 40))
    return {**values, "ema_decay": round(decay, 4), **given}


def default_size(minutes: float, device: torch.device) -> Literal[32, 64]:
    """Return the default size of images: within two hours a CPU sees too few of 64 px."""
    return 32 if device.type == "cpu" and minutes < 120 else 64


def is_flip_invariant(records: Records) -> bool:
    """Whether flipped images are as near to other images as unflipped ones.

    Counts, of up to 512 images, those whose flip is nearer to the nearest image of another group:
    about half if left and right are alike; a quarter of characters.
    """
    images, own_group = _compared(records)
    images = images.float()
    queries = images[: len(own_group)]
    unflipped, flipped = (
        torch.cdist(each.flatten(1), images.flatten(1)).masked_fill(own_group, torch.inf).amin(1)
        for each in (queries, queries.flip(3))
    )
    return bool((flipped < unflipped).float().mean() > _MIN_FLIP_SHARE)


def has_near_copies(records: Records) -> bool:
    """Whether one image in 20 has a near copy in another group: the same centre where the rest is alike.

    Then the inpainter is to see images as they are: varied ones have no copies.
    """
    images, own_group = _compared(records)
    target = images[: len(own_group)] / 127.5 - 1
    known = torch.from_numpy(make_mask("center", *target.shape[2:]).known).float()
    known = known.expand(len(target), 1, -1, -1)
    evidence = gather_evidence(target, known, Retrieval(images), excluded=own_group, exact=False)
    squared = (evidence.neighbours[:, 0] - target).square().mean(1, keepdim=True)
    error = (squared * (1 - known)).flatten(1).sum(1) / (1 - known).flatten(1).sum(1)
    return bool((error < _COPY_ERROR).float().mean() > _MIN_COPIES)


def _compared(records: Records) -> tuple[torch.Tensor, torch.Tensor]:
    """Return up to 2,048 images, uint8 [N, C, S, S], and which are of the group of each of the first 512, bool [512, N]."""
    order = array_generator_for(0, "mirror images").permutation(len(records))
    indices = np.sort(order[:_COMPARED])
    images = torch.from_numpy(records.images(indices)).permute(0, 3, 1, 2).contiguous()
    groups = torch.from_numpy(group_numbers(records)[indices])
    return images, groups[:_QUERIES, None] == groups[None]


def seconds_per_step(settings: TrainSettings, device: torch.device) -> float:
    """Return the least time of three steps on noise, after a warm-up step."""
    # Accumulation costs all networks alike, so it does not matter for their choice.
    settings = settings.model_copy(update={"gradient_accumulation": 1})
    count = max(settings.batch_size, settings.retrieval_images)
    shape = (count, settings.size, settings.size, channel_count(settings.channels))
    noise = array_generator_for(0, "budget").integers(0, 256, shape, np.uint8)
    loader = BatchLoader(noise.__getitem__, settings, device, np.arange(count))
    if settings.inpainter_filters:
        loader.open_masks(np.zeros(count, np.int64))
    state, warnings = initial_state(settings, device), list[str]()
    step = TrainStep(state, settings, loader, warnings.append)
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        step.take(1, 2)  # from the middle of a run on, the inpainter's draws are trained too
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def _candidates(images: int) -> Iterator[dict[str, int]]:
    """Yield widths and batch sizes, the most expensive first."""
    widest = next(width for width, least in _MIN_IMAGES.items() if images >= least)
    for width in (width for width in _WIDTHS if width <= widest):
        yield {"filters": width, "batch_size": _BATCHES[0]}
    for batch in _BATCHES[1:]:
        yield {"filters": _WIDTHS[-1], "batch_size": batch}


def _format_of(records: Records) -> dict[str, Any]:
    settings = records.manifest.settings
    values = records.size, records.channels, settings.fit, settings.background
    return dict(zip(_FORMAT, values, strict=True))
