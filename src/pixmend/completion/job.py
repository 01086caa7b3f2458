"""What is to be completed, and how."""

import math
from dataclasses import dataclass
from typing import get_args

from pixmend.completion.average import Answer
from pixmend.completion.methods import Method
from pixmend.completion.windows import VIEWS, View
from pixmend.errors import ImageError, SettingsError
from pixmend.images import Picture
from pixmend.masks import Mask


@dataclass(frozen=True)
class Task:
    """One image to complete: the picture, its mask of the same size, and a name for messages."""

    picture: Picture
    mask: Mask
    name: str = "image"

    def check(self) -> None:
        """Refuse what cannot be completed exactly.

        Raises
        ------
        MaskError
            See `Mask.check`.
        ImageError
            16-bit colour, whose known pixels could not be kept.
        """
        self.mask.check(self.picture.height, self.picture.width, self.name)
        if self.picture.reduced:
            raise ImageError(
                f"{self.name}: 16-bit colour cannot be kept exactly; convert it to 8 bits a channel first"
            )


@dataclass(frozen=True)
class CompletionOptions:
    """How to complete.

    Attributes
    ----------
    method
        See `find_method`.
    candidates
        Distinct answers an image, best first.
    snapshots
        Steps after which the state of the search is kept; those past the search's last step are left out.
    seed
        Of all draws.
    batch
        Images (or windows of images) searched at a time: bounds memory, changes no result.
    seconds
        Time for each batch, from its start until its searches end; they go on until it is used up, whatever the method's number of
        steps, which is then the length of its schedule. The clock decides, so equal calls may give unequal answers. None: the
        method's number of steps.
    answer
        ``sharp``, a draw of G; or ``average``, the mean of all answers, which errs least and blurs. It comes first then, before the
        candidates; an encoder makes it without a search.
    view
        What the model looks at: the whole image, framed as its training images were, or a window around each hole (`windows_around`).
        ``whole`` is the default because models are trained on whole images: a window is right where parts of the domain's images look
        like its images, as with textures, and where the image is far larger than the model.
    film
        Steps after which what was drawn is kept for `animation_frames`.
    """

    method: Method
    candidates: int = 1
    snapshots: tuple[int, ...] = (500, 1000)
    seed: int = 0
    batch: int = 16
    seconds: float | None = None
    answer: Answer = "sharp"
    view: View = "whole"
    film: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises
        ------
        SettingsError
            A value out of range.
        """
        if not 1 <= self.candidates <= 64:
            raise SettingsError(
                f"candidates = {self.candidates}: needs a whole number from 1 to 64"
            )
        if self.answer not in get_args(Answer):
            raise SettingsError(f"answer = {self.answer!r}: needs sharp or average")
        if self.batch < 1:
            raise SettingsError(f"batch = {self.batch}: needs a whole number of at least 1")
        if any(step < 0 for step in self.snapshots):
            raise SettingsError(f"snapshots = {self.snapshots}: steps are counted from 0")
        if self.seconds is not None and not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise SettingsError(f"seconds = {self.seconds}: needs a number above 0")
        if self.view not in VIEWS:
            raise SettingsError(f"view = {self.view!r}: there are {' and '.join(VIEWS)}")
