"""What estimators and completion return: `Samples` of the model, and the `Completion` of an image."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pixmend.completion.task import Answer
from pixmend.errors import OutputError
from pixmend.images import (
    EXTENSIONS,
    Picture,
    Pixels,
    contact_sheet,
    lossless_suffix,
    png_bytes,
    save_image,
    to_channels,
    to_eight_bits,
)
from pixmend.masks import Mask

if TYPE_CHECKING:
    from torch import Tensor

    from pixmend.completion.view import Frame, Window

_HOLE = np.array([226, 68, 140], np.uint8)  # a colour rare in pages, skies and skin


@dataclass(frozen=True, eq=False)
class Samples:
    """K answers to each of B images, as an estimator gives them."""

    images: "Tensor"  # [B, K, C, S, S] in [-1, 1]
    latents: "Tensor"  # their z, [B, K, latent_dim]
    losses: "Tensor"  # total, contextual and perceptual, [B, K, 3]
    order: "Tensor"  # the answers of each image, best first, int64 [B, K]
    mean: "Tensor"  # the image of least squared error, [B, C, S, S]
    variance: "Tensor"  # of its pixels, [B, 1, S, S]
    history: "Tensor"  # least total after each step, [steps + 1, B]
    steps: list[int]  # updates until the last answer of each image converged
    snapshots: "dict[int, Tensor]"  # step -> the best image of each by then, [B, C, S, S]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One answer."""

    picture: Picture  # the whole image; every known sample is the original's
    answer: Answer  # sharp, a draw of G, or average, the image of least squared error
    loss: float  # the objective, and its two parts before weighting
    contextual: float
    perceptual: float
    # Its latent, [latent_dim], or [windows, latent_dim]; for an average, that of the best draw.
    z: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class SearchFrames:
    """What G generated during the search of one window."""

    frame: "Frame"  # where it lies in the window
    images: dict[int, Pixels]  # step -> G of the best z by then, uint8 [size, size, C]


@dataclass(frozen=True, eq=False)
class Completion:
    """One completed image.

    Attributes
    ----------
    name, original, mask
        The task.
    candidates
        Distinct answers, best first.
    uncertainty
        Standard deviation of each pixel, in grey levels (0 to 255), float32 [H, W]; 0 where known.
    confidence
        Expected share of missing pixels that are off by less than 26 grey levels, as calibrated on held-out images; None if the
        model or the method has no calibration.
    snapshots
        Step -> G(z) after that many steps, uint8 [size, size, C]; windows side by side.
    history
        Least objective after each step, [steps + 1].
    method, steps, seed, seconds
        How it was made, and its share of the batch's wall time.
    windows
        Where the model looked, the largest hole first.
    frames
        Images generated during the search of each window, if `CompletionOptions.frames` asks for them; see `animation_frames`.
    warnings
        What the user should know of this answer.
    like
        The NumPy array or torch tensor given, whose type and shape the answers get; None for a PIL image or a path.
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
    windows: "tuple[Window, ...]" = ()
    frames: tuple[SearchFrames, ...] = ()
    warnings: tuple[str, ...] = ()
    like: Any = None

    def __repr__(self) -> str:
        """Return a line, without pixels."""
        size = f"{self.original.width} x {self.original.height}"
        found = "" if self.confidence is None else f", confidence {self.confidence:.0%}"
        return f"<Completion of {self.name}, {size}, {self.mask.missing:.1%} missing, {self.method}{found}>"

    def save(self, path: str | Path) -> None:
        """Write the best answer with the image's metadata; OutputError if ``path`` cannot hold it exactly."""
        best, suffix = self.candidates[0].picture, Path(path).suffix
        lossless = lossless_suffix(suffix, best.mode)
        if suffix.lower() not in EXTENSIONS or lossless != suffix:
            raise OutputError(
                f"{path}: cannot keep known pixels exactly; give a name that ends in {lossless}"
            )
        save_image(best, Path(path))

    @property
    def best(self) -> Any:  # noqa: ANN401 - the input's type
        """The best answer: a NumPy array or torch tensor for one, else a PIL image."""
        return self._as_input(self.candidates[0].picture)

    @property
    def images(self) -> list[Any]:
        """All answers, best first, typed as `best`."""
        return [self._as_input(candidate.picture) for candidate in self.candidates]

    @property
    def masked(self) -> Pixels:
        """The original with the hole painted, uint8 [H, W, 3 or 4]."""
        pixels = to_eight_bits(self.original.pixels)
        pixels = to_channels(pixels, "RGB") if pixels.shape[-1] == 1 else pixels
        paint = np.append(_HOLE, 255)[: pixels.shape[-1]].astype(np.uint8)
        return np.where(self.mask.hole[..., None], paint, pixels)

    def uncertainty_pixels(self) -> Pixels:
        """Return the uncertainty as a picture, uint8 [H, W, 1]: white is a standard deviation of 127 or more."""
        return (self.uncertainty * 2).clip(0, 255).round().astype(np.uint8)[..., None]

    def show(self) -> None:
        """Open the contact sheet in the system's viewer."""
        Picture(self.sheet_pixels(), "RGB").to_pil().show()

    def row(self) -> list[Pixels]:
        """Return the pictures that `captions` names."""
        answers = [to_eight_bits(candidate.picture.pixels) for candidate in self.candidates]
        original = to_eight_bits(self.original.pixels)
        return [original, self.masked, *self.snapshots.values(), *answers]

    def captions(self) -> list[str]:
        """Return the captions of `row`."""
        more = [f"candidate {number}" for number in range(2, len(self.candidates) + 1)]
        after = [f"after {step:,}" for step in self.snapshots]
        return ["original", "masked", *after, "completed", *more]

    def sheet(self, *, cell: int = 160) -> Any:  # noqa: ANN401 - the input's type
        """Return a contact sheet "original | masked | after 500 | after 1,000 | completed", typed as `best`."""
        pixels = self.sheet_pixels(cell=cell)
        return pixels if isinstance(self.like, np.ndarray) else Picture(pixels, "RGB").to_pil()

    def sheet_pixels(self, *, cell: int = 160) -> Pixels:
        """Return the contact sheet, uint8 [H, W, 3]."""
        return contact_sheet([self.row()], self.captions(), cell=cell)

    def record(self) -> dict[str, Any]:
        """Return the facts of this completion as JSON values."""
        best, hole = self.candidates[0], self.mask.hole
        mean = round(float(self.uncertainty[hole].mean()), 3) if hole.any() else 0.0
        return {
            "file": self.name,
            "method": self.method,
            "steps": self.steps,
            "seed": int(self.seed),
            "answer": best.answer,
            "missing": round(self.mask.missing, 6),
            "uncertainty": mean,
            "confidence": None if self.confidence is None else round(self.confidence, 3),
            "windows": len(self.windows),
            "loss": _finite(best.loss),
            "contextual": _finite(best.contextual),
            "perceptual": _finite(best.perceptual),
            "candidates": [_finite(candidate.loss) for candidate in self.candidates],
            "seconds": round(self.seconds, 4),
            "warnings": list(self.warnings),
        }

    def _repr_png_(self) -> bytes:
        """Show the contact sheet in a notebook."""
        return png_bytes(Picture(self.sheet_pixels(), "RGB"))

    def _as_input(self, picture: Picture) -> Any:  # noqa: ANN401
        if self.like is None:
            return picture.to_pil()
        if hasattr(self.like, "is_floating_point"):  # a tensor
            import torch

            values = torch.from_numpy(picture.native)
            values = values.movedim(-1, 0) if values.ndim == 3 else values
            return values.reshape(self.like.shape).to(self.like)
        return picture.native.reshape(self.like.shape)


def _finite(value: float) -> float | None:
    """Return a number, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
