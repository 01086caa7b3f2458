"""The settings of a run: one flat list of plain names that recipes and ``--set key=value`` share."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from pixmend.errors import SettingsError
from pixmend.images import Fit
from pixmend.models import DCGANSettings
from pixmend.training.augment import TransformName, parse_transforms
from pixmend.training.losses import LossName
from pixmend.training.precision import Precision
from pixmend.training.schedule import Schedule

# What may change between two sittings of one run: none of it changes the weights at a given step (another device only
# by rounding; so do other parts, as other processes, unless `sync_batchnorm` is off).
FREE = frozenset(
    {
        *("steps", "minutes", "checkpoint_every", "log_every", "keep_checkpoints"),
        *("monitor", "tensorboard", "device", "memory_mib", "gradient_accumulation"),
    }
)

_MAX_BYTES = 2**20  # of a recipe
_FEW, _SHOWN = 8, 80  # mistakes told at once, and letters of a name or value


class TrainSettings(DCGANSettings):
    """A training run: the networks' settings and how they are trained. The defaults are Radford 2015's."""

    batch_size: int = Field(64, ge=2, le=65536, description="images a step")
    learning_rate: float = Field(2e-4, gt=0, le=1, description="of Adam, for G and D")
    discriminator_learning_rate: float | None = Field(
        None, gt=0, le=1, description="of Adam, for D alone; as G's if not given"
    )
    lr_schedule: Schedule = Field(
        "constant", description="of the learning rates: constant, or falling to 0 over `steps`"
    )
    warmup: float = Field(
        0.0, ge=0, lt=1, description="share of `steps` over which the learning rates rise"
    )
    beta1: float = Field(0.5, ge=0, lt=1, description="Adam's first moment decay")
    beta2: float = Field(0.999, ge=0, lt=1, description="Adam's second moment decay")
    n_critic: int = Field(
        1, ge=1, le=100, description="k of Algorithm 1: D's steps for each of G's"
    )
    reuse_fakes: bool = Field(
        True, description="G's step takes the images of D's last step, instead of drawing others"
    )
    loss: LossName = Field(
        "nonsaturating", description="of G: nonsaturating or minimax; of both players: hinge"
    )
    feature_matching: float = Field(0.0, ge=0, description="weight of feature matching in G's loss")
    r1_gamma: float = Field(0.0, ge=0, description="gamma, weight of the penalty on D's gradient")
    r1_every: int = Field(16, ge=1, description="D's steps from one R1 penalty to the next")
    spectral_norm: bool = Field(False, description="divide D's weights by their spectral norm")
    diffaugment: str = Field("", description="what D sees it through: colour,translation,cutout")
    diffaugment_probability: float = Field(
        1.0, ge=0, le=1, description="with which each of these is applied to an image"
    )
    horizontal_flip: bool = Field(
        False, description="flip training images at random; never for characters"
    )
    random_shift: int = Field(
        0,
        ge=0,
        le=64,
        description="pixels by which training images are moved at random, edges repeated",
    )
    gradient_accumulation: int = Field(
        1,
        ge=1,
        le=4096,
        description="micro-batches that each process splits its share into, to need less memory",
    )
    precision: Precision = Field(
        "float32", description="of maps and products while training; the rest stays float32"
    )
    sync_batchnorm: bool = Field(
        True,
        description="batch statistics over all processes that share a batch",
    )
    ema_decay: float = Field(
        0.999, ge=0, lt=1, description="decay of the moving average of G's weights; 0 = none"
    )
    encoder_learning_rate: float = Field(4e-4, gt=0, le=1, description="of Adam, for the encoder")
    completion_share: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="share of G's images that are completions, where there is an encoder",
    )
    completion_weight: float = Field(
        1.0, ge=0, description="weight of G's loss on completions, beside 1 on prior samples"
    )
    reconstruction_weight: float = Field(
        100.0, ge=0, description="weight of the mean absolute error of completions"
    )
    estimate_weight: float = Field(
        100.0, ge=0, description="weight of the mean squared error of the encoder's own estimate"
    )
    kl_weight: float = Field(
        0.03, ge=0, description="weight of the KL of the posterior from N(0, I), in nats"
    )
    free_nats: float = Field(0.0, ge=0, description="KL that costs nothing, in nats an image")
    steps: int = Field(50_000, ge=1, description="iterations: k steps of D and one of G each")
    minutes: float | None = Field(
        None, gt=0, le=1e6, description="of training, after which it ends, in place of `steps`"
    )
    checkpoint_every: int = Field(
        2_000, ge=1, description="steps between checkpoints and sample grids"
    )
    keep_checkpoints: int = Field(3, ge=1, description="how many of the last checkpoints stay")
    log_every: int = Field(50, ge=1, description="steps between lines of log.jsonl")
    grid_images: int = Field(64, ge=1, le=1024, description="images in a sample grid")
    fit: Fit = Field("crop", description="how images that are not square are packed")
    background: str = Field(
        "white", description="colour behind transparent pixels, and around padded images"
    )
    held_out: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="share of the images kept out of training, by whole families, to judge it by",
    )
    monitor: bool = Field(
        True, description="score each checkpoint, warn in words, keep the best model"
    )
    tensorboard: bool = Field(
        False, description="write for TensorBoard; needs the extra tensorboard"
    )
    seed: int = Field(0, ge=0, description="of every random draw of the run")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    memory_mib: int = Field(
        4096, ge=16, description="training images are kept decoded up to this size"
    )

    @field_validator("diffaugment")
    @classmethod
    def _known_transforms(cls, text: str) -> str:
        return ",".join(parse_transforms(text))

    @property
    def transforms(self) -> tuple[TransformName, ...]:
        """What `augment` names, in the order of application."""
        return parse_transforms(self.diffaugment)

    def networks(self) -> DCGANSettings:
        """Return the part that describes the networks."""
        return DCGANSettings(**self.model_dump(include=set(DCGANSettings.model_fields)))


def free_in(settings: TrainSettings) -> frozenset[str]:
    """Return the settings that a run may be continued with other values of.

    ``steps`` and ``minutes`` are none of them where learning rates depend on it: the steps done were steps of another schedule.
    """
    constant = settings.lr_schedule == "constant" and not settings.warmup
    return FREE if constant else FREE - {"steps", "minutes"}


def resolve(*layers: Mapping[str, Any]) -> TrainSettings:
    """Return the settings that layers of values give, later ones first in rank.

    Raises
    ------
    SettingsError
        An unknown key (the nearest name is offered) or a value out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    try:
        return TrainSettings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` texts; values are TOML (numbers, true, "text") or bare words.

    Raises
    ------
    SettingsError
        No ``=`` in one of them.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise SettingsError(
                f"--set {pair!r}: give it as key=value, such as --set batch_size=32"
            )
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # no TOML, or of too many digits or brackets
            values[key.strip()] = text.strip()
    return values


def recipe_names() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(__file__).parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Read a recipe given by name or as a TOML file.

    Raises
    ------
    SettingsError
        No such recipe (the known ones are listed), too large, or not TOML.
    """
    known = recipe_names()
    path = known.get(str(recipe), Path(recipe))
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise SettingsError(
                f"recipe {path}: over {_MAX_BYTES >> 20} MiB; give a file of settings, one a line"
            )
        return tomllib.loads(content.decode())
    except FileNotFoundError:
        raise SettingsError(
            f"recipe {recipe}: no such name or file; there are {', '.join(known)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: TOML, UTF-8, digits
        raise SettingsError(f"recipe {path}: cannot be read as TOML: {error}") from error


def to_toml(settings: TrainSettings) -> str:
    """Write settings as TOML that `read_recipe` reads back."""
    # A JSON scalar is a TOML scalar, but for the two halves of JSON's rarer letters and for DEL; what is not given is left out.
    values = settings.model_dump(exclude_none=True)
    return "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()
    ).replace("\x7f", "\\u007f")


def _explain(error: ValidationError) -> str:
    problems, items = [], error.errors()
    for item in items[:_FEW]:
        name = ".".join(str(part) for part in item["loc"])[:_SHOWN] or "settings"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, TrainSettings.model_fields, n=1)
            hint = f"did you mean {near[0]}?" if near else "pixmend train --dry-run lists all"
            problems.append(f"{name}: no such setting; {hint}")
        else:
            problems.append(f"{name} = {repr(item['input'])[:_SHOWN]}: {item['msg'].lower()}")
    if len(items) > _FEW:
        problems.append(f"and {len(items) - _FEW:,} more")
    return "; ".join(problems)
