"""Settings of a run: one flat list of names that recipes and ``--set key=value`` share."""

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from pixmend.errors import InputError, MissingError, SettingsError
from pixmend.images import Fit
from pixmend.models import DCGANSettings
from pixmend.storage import StorePath
from pixmend.training.augment import TransformName, parse_transforms

LossName = Literal["nonsaturating", "minimax", "hinge"]
Precision = Literal["auto", "float32", "bfloat16"]
Schedule = Literal["constant", "linear", "cosine"]

_MAX_RECIPE_BYTES = 2**20
_MAX_ERRORS, _MAX_ERROR_LENGTH = 8, 80  # errors in one message; characters of a name or value


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0)]


class TrainSettings(DCGANSettings):
    """Settings of the networks and of their training; the defaults are those of Radford 2015."""

    batch_size: int = Field(64, ge=2, le=65536, description="images per step")
    learning_rate: Rate = Field(2e-4, description="Adam's learning rate for G and D")
    discriminator_learning_rate: float | None = Field(
        None, gt=0, le=1, description="Adam's learning rate for D; default: as G's"
    )
    lr_schedule: Schedule = Field("constant", description="constant, or decay to 0 over `steps`")
    warmup: Share = Field(0.0, description="share of `steps` with linearly rising learning rates")
    beta1: Share = Field(0.5, description="Adam's decay rate of the first moment")
    beta2: Share = Field(0.999, description="Adam's decay rate of the second moment")
    n_critic: int = Field(1, ge=1, le=100, description="steps of D per step of G")
    reuse_fakes: bool = Field(True, description="G's step reuses the images of D's last step")
    loss: LossName = Field("nonsaturating", description="loss of G; hinge: loss of G and D")
    feature_matching: Weight = Field(0.0, description="weight of feature matching in G's loss")
    r1_gamma: Weight = Field(0.0, description="weight of the R1 gradient penalty on D")
    r1_every: Count = Field(16, description="steps of D per R1 penalty")
    spectral_norm: bool = Field(False, description="spectral normalisation of D's weights")
    diffaugment: str = Field("", description="DiffAugment transforms: colour,translation,cutout")
    diffaugment_probability: float = Field(
        1.0, ge=0, le=1, description="probability of a transform"
    )
    horizontal_flip: bool = Field(False, description="random left-right flips; not for characters")
    gradient_accumulation: int = Field(1, ge=1, le=4096, description="micro-batches per step")
    precision: Precision = Field(
        "auto",
        description="of activations; weights stay float32; auto: bfloat16 where it is fast here",
    )
    sync_batchnorm: bool = Field(True, description="batch norm statistics over all processes")
    ema_decay: Share = Field(0.999, description="decay of G's moving average; 0 = no average")
    inpainter_learning_rate: Rate = Field(2e-3, description="AdamW's learning rate, inpainter")
    inpainter_batch: int = Field(32, ge=1, le=65536, description="images per step, inpainter")
    inpainter_steps: Count = Field(1, description="steps of the inpainter per step of G")
    inpainter_reuse: int = Field(
        1, ge=1, le=64, description="times that each masked batch is trained on, in turn"
    )
    inpainter_draws: int = Field(
        4, ge=1, le=64, description="completions per image, of which the best is trained"
    )
    inpainter_augmentation: Share = Field(
        0.0, description="share of the inpainter's images that are flipped, turned or recoloured"
    )
    steps: Count = Field(50_000, description="training steps: n_critic steps of D, one of G")
    minutes: float | None = Field(None, gt=0, le=1e6, description="training time; replaces `steps`")
    checkpoint_every: Count = Field(2_000, description="steps per checkpoint and sample grid")
    keep_checkpoints: Count = Field(3, description="number of latest checkpoints to keep")
    log_every: Count = Field(50, description="steps per line of log.jsonl")
    grid_images: int = Field(64, ge=1, le=1024, description="images in a sample grid")
    fit: Fit = Field("crop", description="how non-square images are packed")
    background: str = Field("white", description="colour behind transparency and padding")
    held_out: float = Field(0.05, ge=0, le=0.5, description="share of images held out for scoring")
    monitor: bool = Field(True, description="score checkpoints, warn, keep the best model")
    tensorboard: bool = Field(False, description="write TensorBoard events; needs its extra")
    seed: int = Field(0, ge=0, description="random seed of the run")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    memory_mib: int = Field(4096, ge=16, description="memory for decoded images; else streamed")

    @field_validator("diffaugment")
    @classmethod
    def _known_transforms(cls, text: str) -> str:
        return ",".join(parse_transforms(text))

    @property
    def transforms(self) -> tuple[TransformName, ...]:
        """The transforms of `diffaugment`, in order of application."""
        return parse_transforms(self.diffaugment)

    def networks(self) -> DCGANSettings:
        """Return the settings of the networks alone."""
        return DCGANSettings(**self.model_dump(include=set(DCGANSettings.model_fields)))


def resolve(*layers: Mapping[str, Any]) -> TrainSettings:
    """Return the settings of merged layers, later ones first; SettingsError names an unusable key."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged |= layer
    try:
        return TrainSettings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Parse ``key=value`` strings; a value is TOML (numbers, true, "text") or a bare word."""
    values: dict[str, Any] = {}
    for pair in pairs:
        key, sign, text = pair.partition("=")
        if not sign or not key.strip():
            raise SettingsError(f"--set {pair!r}: expected key=value, such as --set batch_size=32")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):  # not TOML, or too many digits or brackets
            values[key.strip()] = text.strip()
    return values


def recipe_names() -> dict[str, Path]:
    """Return the paths of the bundled recipes by name."""
    folder = Path(__file__).parent.parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """Read a bundled recipe by name, or a TOML file; SettingsError if there is none or it is unusable."""
    recipes = recipe_names()
    path = StorePath.of(recipes.get(str(recipe), recipe))
    try:
        content = path.read_bytes(0, _MAX_RECIPE_BYTES + 1)
        if len(content) > _MAX_RECIPE_BYTES:
            raise SettingsError(f"recipe {path}: over 1 MiB; a recipe holds one setting per line")
        return tomllib.loads(content.decode("utf-8-sig"))  # some editors write a byte order mark
    except MissingError:
        raise SettingsError(
            f"recipe {recipe}: no such name or file; recipes: {', '.join(recipes)}"
        ) from None
    except InputError as error:
        raise SettingsError(f"recipe {error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: TOML, UTF-8, digits
        raise SettingsError(f"recipe {path}: cannot be read as TOML: {error}") from error


def to_toml(settings: TrainSettings) -> str:
    """Write settings as TOML for `read_recipe`; settings of None are left out."""
    # JSON scalars are TOML scalars, except surrogate pairs (hence ensure_ascii) and DEL.
    values = settings.model_dump(exclude_none=True)
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items())
    return "".join(lines).replace("\x7f", "\\u007f")


def _explain(error: ValidationError) -> str:
    problems, items = [], error.errors()
    for item in items[:_MAX_ERRORS]:
        name = ".".join(str(part) for part in item["loc"])[:_MAX_ERROR_LENGTH] or "settings"
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, TrainSettings.model_fields, n=1)
            hint = f"did you mean {near[0]}?" if near else "pixmend train --dry-run lists all"
            problems.append(f"{name}: no such setting; {hint}")
        else:
            value = repr(item["input"])[:_MAX_ERROR_LENGTH]
            problems.append(f"{name} = {value}: {item['msg'].lower()}")
    if len(items) > _MAX_ERRORS:
        problems.append(f"and {len(items) - _MAX_ERRORS:,} more")
    return "; ".join(problems)
