"""What completion gives back, as plain values."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.completion.average import Answer
from pixmend.completion.film import FrameRecorder
from pixmend.completion.windows import Window
from pixmend.images import (
    Picture,
    Pixels,
    contact_sheet,
    png_bytes,
    to_channels,
    to_eight_bits,
)
from pixmend.masks import Mask

_HOLE = np.array([226, 68, 140], np.uint8)  # a colour that no page, sky or skin has


@dataclass(frozen=True, eq=False)
class Candidate:
    """One answer.

    Attributes
    ----------
    picture
        The whole image; every known sample is the original's.
    answer
        ``sharp``, a draw of G, or ``average``, the mean of all answers.
    loss, contextual, perceptual
        The objective, and its two parts before weighting.
    z
        The latent found, float32 [latent_dim]; beside an average, that of the best draw. Where the image was completed in several
        windows, [windows, latent_dim].
    """

    picture: Picture
    answer: Answer
    loss: float
    contextual: float
    perceptual: float
    z: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Completion:
    """All that is known of one completed image.

    Attributes
    ----------
    name, original, mask
        What was given.
    candidates
        Distinct answers, the best first.
    uncertainty
        Standard deviation of each pixel over all answers that fit, in grey levels (0 to 255), float32 [H, W]; 0 where it is known.
    confidence
        Share of the missing pixels that will be off by less than 26 grey levels, as calibrated on held-out images; None where the
        model or the method has nothing to tell it by.
    snapshots
        Step -> G(z) after that many steps, uint8 [size, size, C]; of several windows side by side.
    history
        The least objective so far after each step, [steps + 1].
    method, steps, seed, seconds
        How it was found, and the share of the batch's wall time.
    windows
        Where the model looked, the largest hole first.
    film
        Images generated during the search of each window, if `CompletionOptions.film` asks for them; see `animation_frames`.
    warnings
        What the user should know of this answer, in words.
    array_shape
        The shape of the array handed over, so that answers are arrays of that shape; None when a PIL image or a path was.
    """

    name: str
    original: Picture
    mask: Mask
    candidates: tuple[Candidate, ...]
    uncertainty: NDArray[np.float32]
    confidence: float | None = None
    snapshots: dict[int, Pixels] = field(default_factory=dict)
    history: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    method: str = "default"
    steps: int = 0
    seed: int = 0
    seconds: float = 0.0
    windows: tuple[Window, ...] = ()
    film: tuple[FrameRecorder, ...] = ()
    warnings: tuple[str, ...] = ()
    array_shape: tuple[int, ...] | None = None

    @property
    def best(self) -> Any:  # noqa: ANN401 - the type it was given
        """The best answer as the type the image was given: a NumPy array or, of a PIL image or a path, a PIL image."""
        return self._as_given(self.candidates[0].picture)

    @property
    def images(self) -> list[Any]:
        """All answers, best first, as the type the image was given."""
        return [self._as_given(candidate.picture) for candidate in self.candidates]

    @property
    def masked(self) -> Pixels:
        """The original with the hole in a colour of its own, uint8 [H, W, 3 or 4]."""
        pixels = to_eight_bits(self.original.pixels)
        pixels = to_channels(pixels, "RGB") if pixels.shape[-1] == 1 else pixels
        paint = np.append(_HOLE, 255)[: pixels.shape[-1]].astype(np.uint8)
        return np.where(self.mask.hole[..., None], paint, pixels)

    def uncertainty_pixels(self) -> Pixels:
        """Return the uncertainty as a picture, uint8 [H, W, 1]: black is known or sure, white a standard deviation of 127 and more."""
        return (self.uncertainty * 2).clip(0, 255).round().astype(np.uint8)[..., None]

    def row(self) -> list[Pixels]:
        """Return original, masked, the snapshots, and the candidates, as `captions` names them."""
        answers = [to_eight_bits(candidate.picture.pixels) for candidate in self.candidates]
        return [
            to_eight_bits(self.original.pixels),
            self.masked,
            *self.snapshots.values(),
            *answers,
        ]

    def captions(self) -> list[str]:
        """Return the captions of `row`."""
        more = [f"candidate {number}" for number in range(2, len(self.candidates) + 1)]
        after = [f"after {step:,}" for step in self.snapshots]
        return ["original", "masked", *after, "completed", *more]

    def sheet(self, *, cell: int = 160) -> Any:  # noqa: ANN401 - the type it was given
        """Return a contact sheet "original | masked | after 500 | after 1,000 | completed" as the type the image was given."""
        pixels = self.sheet_pixels(cell=cell)
        return pixels if self.array_shape is not None else Picture(pixels, "RGB").to_pil()

    def sheet_pixels(self, *, cell: int = 160) -> Pixels:
        """Return the contact sheet as uint8 [H, W, 3]."""
        return contact_sheet([self.row()], self.captions(), cell=cell)

    def record(self) -> dict[str, Any]:
        """Return the facts of this completion as JSON values."""
        best = self.candidates[0]
        return {
            "file": self.name,
            "method": self.method,
            "steps": self.steps,
            "seed": self.seed,
            "answer": best.answer,
            "missing": round(self.mask.missing, 6),
            "uncertainty": self._mean_uncertainty(),
            "confidence": None if self.confidence is None else round(self.confidence, 3),
            "windows": len(self.windows),
            "loss": best.loss,
            "contextual": best.contextual,
            "perceptual": best.perceptual,
            "candidates": [candidate.loss for candidate in self.candidates],
            "seconds": round(self.seconds, 4),
            "warnings": list(self.warnings),
        }

    def _mean_uncertainty(self) -> float:
        hole = self.mask.hole
        return round(float(self.uncertainty[hole].mean()), 3) if hole.any() else 0.0

    def _repr_png_(self) -> bytes:
        """Show itself in a notebook."""
        return png_bytes(Picture(self.sheet_pixels(), "RGB"))

    def _as_given(self, picture: Picture) -> Any:  # noqa: ANN401
        if self.array_shape is not None:
            return picture.native.reshape(self.array_shape)
        return picture.to_pil()
