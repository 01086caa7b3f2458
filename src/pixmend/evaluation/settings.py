"""The settings of an evaluation, and the masks that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pixmend.errors import SettingsError
from pixmend.masks import Mask, make_mask
from pixmend.rng import seed_for


@dataclass(frozen=True)
class EvaluationSpec:
    """What to evaluate and how; raises MaskError or SettingsError for an unusable value."""

    # SPECs of `pixmend.masks.make_mask`
    masks: tuple[str, ...] = ("center", "half", "random:0.8", "grid", "strokes")
    methods: Sequence[str] | None = None  # see `find_methods`; None for all defaults
    count: int = 512  # images, drawn at random; all if there are fewer
    candidates: int = 1  # per image; the best one is reported separately
    seconds: float | None = None  # search time per image in place of steps: not reproducible
    seed: int = 0  # of images, masks and methods
    batch: int = 16  # images; a killed process loses at most one batch

    def __post_init__(self) -> None:
        if not self.masks:
            raise SettingsError("--masks: none given; try --masks center,half")
        if self.batch < 1:
            raise SettingsError(f"--batch {self.batch}: needs a whole number of at least 1")
        for mask in self.masks:
            make_mask(mask, 64, 64)


def draw_masks(mask: str, numbers: Sequence[int], size: int, seed: int) -> list[Mask]:
    """Return one mask per image number; a number has the same mask for all methods."""
    return [
        make_mask(mask, size, size, seed=seed_for(seed, "evaluate", "mask", number))
        for number in numbers
    ]
