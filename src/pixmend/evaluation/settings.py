"""The settings of an evaluation, and the masks that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass

from pixmend.errors import SettingsError
from pixmend.masks import Mask, make_mask
from pixmend.rng import seed_for

MASKS = ("center", "half", "random:0.8", "grid", "strokes")


@dataclass(frozen=True)
class EvaluationSpec:
    """What to evaluate and how.

    Attributes
    ----------
    masks
        SPECs of `pixmend.masks.make_mask`.
    methods
        See `find_methods`; None for the default methods of the model and all available baselines.
    count
        Number of images, drawn at random; all images if there are fewer.
    candidates
        Candidates per image; the best one is reported separately.
    seconds
        Search time per image, replacing each method's steps. Results are then not reproducible.
    seed
        Random seed of images, masks and methods.
    batch
        Images per batch. A killed process loses at most one batch.

    Raises
    ------
    MaskError
        Unknown mask; the message lists the shapes.
    SettingsError
        No mask, or an empty batch.
    """

    masks: tuple[str, ...] = MASKS
    methods: Sequence[str] | None = None
    count: int = 512
    candidates: int = 1
    seconds: float | None = None
    seed: int = 0
    batch: int = 16

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
