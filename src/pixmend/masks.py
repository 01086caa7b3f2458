"""Masks: which pixels are known.

Outside, in every interface, white (>= 128) means hole; inside, ``Mask.known`` is True where a pixel
is known.

A SPEC names a mask:

    center[:0.5]      a centred rectangle, its sides this share of the image's
    half[:left]       one half is missing: left, right, top or bottom
    random[:0.8]      this share of the pixels, at random
    grid              squares in a regular lattice, 25 % of the image
    lowres[:4]        only every 4th pixel in both directions is known
    strokes[:0.25]    brush strokes over about this share of the image
    FILE              a mask image of the input's size, white = hole
    FOLDER            of mask images, matched to the inputs by stem
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, MaskError
from pixmend.rng import array_generator_for
from pixmend.storage import StorePath

Known = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True, eq=False)
class Mask:
    """The known pixels of an image: bool [H, W], True = known, False = hole."""

    known: Known

    @classmethod
    def from_pixels(cls, pixels: NDArray[Any]) -> "Mask":
        """Read a mask image: uint8 or uint16 [H, W] or [H, W, C], white (>= half the range) = hole.

        Alpha is ignored. In a bool array True is a hole. MaskError for other arrays.
        """
        if pixels.ndim not in (2, 3) or not pixels.size:
            raise MaskError(
                f"mask: an array of shape {list(pixels.shape)} is no mask; "
                "give [H, W], white = hole"
            )
        if pixels.dtype == np.bool_:
            hole = pixels if pixels.ndim == 2 else pixels.any(axis=2)
            return cls(np.asarray(~hole))
        if not np.issubdtype(pixels.dtype, np.unsignedinteger):
            raise MaskError(
                f"mask: values of type {pixels.dtype}; "
                "give uint8 (white = hole) or bool (True = hole)"
            )
        bands = pixels if pixels.ndim == 3 else pixels[..., None]
        colours = bands[..., : 1 if bands.shape[2] < 3 else 3]
        middle = (np.iinfo(pixels.dtype).max + 1) / 2
        return cls(np.asarray(colours.astype(np.float64).mean(axis=2) < middle))

    @property
    def hole(self) -> Known:
        """Missing pixels, bool [H, W]."""
        return ~self.known

    @property
    def missing(self) -> float:
        """Share of missing pixels, 0 to 1."""
        return float(np.mean(~self.known))

    def to_pixels(self) -> NDArray[np.uint8]:
        """Return the mask image, uint8 [H, W, 1], white = hole."""
        return np.where(self.known, 0, 255).astype(np.uint8)[..., None]

    def check(self, height: int, width: int, name: str) -> None:
        """Raise a MaskError if image ``name`` has another size, or no pixel is known."""
        if self.known.shape != (height, width):
            mask_height, mask_width = self.known.shape
            raise MaskError(
                f"{name}: the mask is {mask_width} x {mask_height} and the image "
                f"{width} x {height}; give a mask of the image's size (after EXIF rotation)"
            )
        if not self.known.any():
            raise MaskError(
                f"{name}: the mask leaves no known pixel; paint known pixels black (< 128)"
            )


def center(height: int, width: int, *, share: float = 0.5) -> Mask:
    """Return a centred rectangular hole, its sides ``share`` of the image's (Yeh 2017: 0.5)."""
    known = np.ones((height, width), bool)
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    known[top : top + rows, left : left + columns] = False
    return Mask(known)


def half(height: int, width: int, *, side: str = "left") -> Mask:
    """Return a hole over the ``left``, ``right``, ``top`` or ``bottom`` half."""
    known = np.ones((height, width), bool)
    part = {
        "left": known[:, : width // 2],
        "right": known[:, width - width // 2 :],
        "top": known[: height // 2],
        "bottom": known[height - height // 2 :],
    }[side]
    part[:] = False
    return Mask(known)


def random(height: int, width: int, *, share: float = 0.8, seed: int = 0) -> Mask:
    """Return exactly ``share`` of the pixels as holes, sampled without replacement."""
    missing = round(height * width * share)
    order = array_generator_for(seed, "mask", "random", height, width).permutation(height * width)
    known = np.ones(height * width, bool)
    known[order[:missing]] = False
    return Mask(known.reshape(height, width))


def grid(height: int, width: int) -> Mask:
    """Return one of each 2 x 2 squares as a hole; eight squares span the shorter side."""
    cell = max(1, min(height, width) // 8)
    rows, columns = np.ogrid[:height, :width]
    return Mask(~((rows // cell % 2 == 1) & (columns // cell % 2 == 1)))


def lowres(height: int, width: int, *, factor: int = 4) -> Mask:
    """Keep every ``factor``-th pixel of every ``factor``-th row: super-resolution (Yeh 2017)."""
    known = np.zeros((height, width), bool)
    known[factor // 2 :: factor, factor // 2 :: factor] = True
    return Mask(known)


def strokes(height: int, width: int, *, share: float = 0.25, seed: int = 0) -> Mask:
    """Return brush strokes as holes, short segments that turn slowly, over about ``share``."""
    generator = array_generator_for(seed, "mask", "strokes", height, width)
    known = np.ones((height, width), bool)
    rows, columns = np.mgrid[:height, :width]
    scale = min(height, width)
    while np.mean(~known) < share:
        row, column = generator.uniform(0, height), generator.uniform(0, width)
        angle = generator.uniform(0, 2 * np.pi)
        radius = max(0.6, generator.uniform(0.02, 0.05) * scale)
        for _ in range(int(generator.integers(4, 10))):
            angle += generator.normal(0, 0.5)
            length = generator.uniform(0.06, 0.16) * scale
            end_row, end_column = row + length * np.sin(angle), column + length * np.cos(angle)
            # Distance of every pixel to the segment from (row, column) to its end.
            along = (rows - row) * (end_row - row) + (columns - column) * (end_column - column)
            position = np.clip(along / length**2, 0, 1)
            row_distance = rows - row - position * (end_row - row)
            column_distance = columns - column - position * (end_column - column)
            known &= row_distance**2 + column_distance**2 > radius**2
            row, column = end_row, end_column
            if np.mean(~known) >= share:
                break
    return Mask(known)


def make_mask(spec: str, height: int, width: int, *, seed: int = 0) -> Mask:
    """Return the mask of a SPEC other than a file or folder; MaskError for an invalid one."""
    shape, _, option = spec.partition(":")
    # Unprintable characters are in no SPEC, and would break the line of the message.
    make = SHAPES.get(shape) if spec.isprintable() else None
    if make is None:
        raise MaskError(
            f"mask: {_redact(spec)!r} is neither a shape ({', '.join(SHAPES)}) "
            "nor an existing file or folder"
        )
    return make(height, width, option, seed)


def _redact(spec: str) -> str:
    """Return a SPEC without the secrets of a URL."""
    if "://" not in spec:
        return spec
    try:
        return str(StorePath.of(spec))
    except InputError:  # not even a URL
        return f"{spec.partition(':')[0]}:..."


def _share(option: str, default: float, shape: str) -> float:
    try:
        share = float(option) if option else default
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise MaskError(
            f"mask: {shape}:{option} needs a share between 0 and 1, such as {shape}:{default}"
        )
    return share


def _side(option: str) -> str:
    side = option or "left"
    if side not in ("left", "right", "top", "bottom"):
        raise MaskError(f"mask: half:{option} needs left, right, top or bottom")
    return side


def _factor(option: str) -> int:
    # Digits are counted first: int() refuses thousands of them with a message of its own.
    whole = option.isascii() and option.isdigit() and len(option) <= 2
    if option and not (whole and 2 <= int(option) <= 64):
        raise MaskError(
            f"mask: lowres:{option} needs a whole number from 2 to 64, such as lowres:4"
        )
    return int(option or 4)


def _grid(height: int, width: int, option: str, _: int) -> Mask:
    if option:
        raise MaskError(f"mask: grid takes no option; {option!r} was given")
    return grid(height, width)


SHAPES: dict[str, Callable[[int, int, str, int], Mask]] = {
    "center": lambda h, w, option, seed: center(h, w, share=_share(option, 0.5, "center")),
    "half": lambda h, w, option, seed: half(h, w, side=_side(option)),
    "random": lambda h, w, option, seed: random(
        h, w, share=_share(option, 0.8, "random"), seed=seed
    ),
    "grid": _grid,
    "lowres": lambda h, w, option, seed: lowres(h, w, factor=_factor(option)),
    "strokes": lambda h, w, option, seed: strokes(
        h, w, share=_share(option, 0.25, "strokes"), seed=seed
    ),
}
