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
    alpha             the fully transparent pixels of the image
    color:#ff00ff[:8] its pixels of one colour, each channel within a tolerance (default 0)
    nan               its pixels that are NaN, or masked in a NumPy masked array
    auto              nan, else alpha: the first that the image has
    FILE              a mask image of the input's size, white = hole
    FOLDER            of mask images, matched to the inputs by stem
"""

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, MaskError, SettingsError
from pixmend.images import Picture, parse_colour, to_channels, to_eight_bits
from pixmend.rng import array_generator_for
from pixmend.storage import StorePath

Known = NDArray[np.bool_]  # [H, W]


@dataclass(frozen=True, eq=False)
class Mask:
    """The known pixels of an image: bool [H, W], True = known, False = hole."""

    known: Known

    @classmethod
    def from_pixels(cls, pixels: NDArray[Any]) -> "Mask":
        """Read an array [H, W] or [H, W, C], white (>= half the range) = hole; alpha is ignored.

        It is uint8 or uint16, of other integers from 0 to 255, or floats from 0 to 1. In bool arrays
        and integers of only 0 and 1, True and 1 are holes. MaskError for others.
        """
        if pixels.ndim not in (2, 3) or not pixels.size:
            raise MaskError(
                f"mask: an array of shape {list(pixels.shape)} is no mask; "
                "give [H, W], white = hole"
            )
        if pixels.dtype == np.bool_:
            hole = pixels if pixels.ndim == 2 else pixels.any(axis=2)
            return cls(np.asarray(~hole))
        if pixels.dtype.kind == "f" and ((pixels >= 0) & (pixels <= 1)).all():
            pixels = np.rint(pixels.astype(float) * 65535).astype(np.uint16)
        if not np.issubdtype(pixels.dtype, np.integer):
            raise MaskError(
                f"mask: values of type {pixels.dtype}; give uint8 (white = hole), bool "
                "(True = hole) or floats from 0 to 1"
            )
        colours, alpha = _split_alpha(pixels)
        low, high = int(colours.min()), int(colours.max())
        if low >= 0 and high == 1:
            return cls.from_pixels(colours.astype(bool))
        if pixels.dtype not in (np.uint8, np.uint16):
            if low < 0 or high > 255:
                raise MaskError(
                    f"mask: {pixels.dtype} values from {low} to {high}; "
                    "give 0 to 255 (white = hole), or 0 and 1 (1 = hole)"
                )
            colours = colours.astype(np.uint8)
        return cls(~_white(colours, alpha, "mask"))

    @classmethod
    def from_picture(cls, picture: Picture) -> "Mask":
        """Read a mask image, white (>= half the range) = hole.

        MaskError if the hole is empty and yet something is drawn, in darker colours or in alpha.
        """
        name = f"mask {picture.path}" if picture.path else "mask"
        return cls(~_white(*_split_alpha(picture.pixels), name))

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
    halves = {
        "left": known[:, : width // 2],
        "right": known[:, width - width // 2 :],
        "top": known[: height // 2],
        "bottom": known[height - height // 2 :],
    }
    if side not in halves:
        raise MaskError(f"mask: half:{side} needs left, right, top or bottom")
    halves[side][:] = False
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
    scale = min(height, width)
    missing = 0
    while missing / known.size < share:
        row, column = generator.uniform(0, height), generator.uniform(0, width)
        angle = generator.uniform(0, 2 * np.pi)
        radius = max(0.6, generator.uniform(0.02, 0.05) * scale)
        for _ in range(int(generator.integers(4, 10))):
            angle += generator.normal(0, 0.5)
            length = generator.uniform(0.06, 0.16) * scale
            end_row, end_column = row + length * np.sin(angle), column + length * np.cos(angle)
            # Only pixels near the segment: the whole image would cost area times segments.
            top, bottom = _reach(row, end_row, radius)
            left, right = _reach(column, end_column, radius)
            box = known[top:bottom, left:right]
            rows, columns = np.ogrid[top : top + box.shape[0], left : left + box.shape[1]]
            # Distance of each pixel to the segment from (row, column) to its end.
            along = (rows - row) * (end_row - row) + (columns - column) * (end_column - column)
            position = np.clip(along / length**2, 0, 1)
            row_distance = rows - row - position * (end_row - row)
            column_distance = columns - column - position * (end_column - column)
            before = int(np.count_nonzero(box))
            box &= row_distance**2 + column_distance**2 > radius**2
            missing += before - int(np.count_nonzero(box))
            row, column = end_row, end_column
            if missing / known.size >= share:
                break
    return Mask(known)


def is_spec(mask: str) -> bool:
    """Whether a text starts like a SPEC that is no file or folder."""
    return mask.partition(":")[0] in SPECS


def check_spec(spec: str) -> None:
    """Raise a MaskError for a text that is no SPEC other than a file or folder."""
    shape, _, option = spec.partition(":")
    if shape in SHAPES or shape not in SPECS:
        make_mask(spec, 64, 64)
    else:
        _check_option(shape, option)


def make_mask(
    spec: str, height: int, width: int, *, seed: int = 0, picture: Picture | None = None
) -> Mask:
    """Return the mask of a SPEC other than a file or folder, for an image of this size.

    ``picture`` is the image, which alpha, color, nan and auto read. MaskError for an invalid SPEC,
    and if the image has no such pixel.
    """
    shape, _, option = spec.partition(":")
    # Unprintable characters are in no SPEC, and would break the line of the message.
    if not spec.isprintable() or shape not in SPECS:
        near = difflib.get_close_matches(shape, SPECS, n=1)
        raise MaskError(
            f"mask: {_redact(spec)!r} is neither a shape ({', '.join(SPECS)}) "
            f"nor an existing file or folder{f'; did you mean {near[0]}?' if near else ''}"
        )
    if shape in SHAPES:
        if shape == "grid":
            _check_option(shape, option)
        return SHAPES[shape](height, width, option, seed)
    if picture is None:
        raise MaskError(f"mask: {spec} is read from an image; give one of {', '.join(SHAPES)}")
    hole = _marked(picture, shape, option)
    if hole is None or not hole.any():
        if shape == "auto":
            raise MaskError(
                f"{picture.name}: which pixels are missing? None is NaN or transparent; give as mask "
                f"{', '.join(SHAPES)}, color:#ff00ff, or a mask image or folder (white = hole)"
            )
        raise MaskError(
            f"{picture.name}: no pixel is missing by mask {spec}; "
            f"give {'a tolerance, ' if shape == 'color' else ''}a mask image or a shape"
        )
    return Mask(~hole)


def _reach(start: float, end: float, radius: float) -> tuple[int, int]:
    """Return the first and past-the-last pixel that a brush of ``radius`` may touch."""
    margin = radius + 1
    return max(0, int(min(start, end) - margin)), max(0, int(max(start, end) + margin) + 1)


def _split_alpha(pixels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return the grey or colour bands [H, W, 1 or 3] of pixels, and alpha [H, W] if there is one."""
    bands = pixels if pixels.ndim == 3 else pixels[..., None]
    count = 1 if bands.shape[2] < 3 else 3
    return bands[..., :count], bands[..., count] if bands.shape[2] in (2, 4) else None


def _white(colours: NDArray[Any], alpha: NDArray[Any] | None, name: str) -> Known:
    """Return where the mean of uint8 or uint16 bands [H, W, C] is at least half the range."""
    middle = (np.iinfo(colours.dtype).max + 1) // 2
    levels = colours.sum(axis=2, dtype=np.uint32)
    white = np.asarray(levels >= middle * colours.shape[2])
    if white.any() and not white.all():
        return white
    if alpha is not None and alpha.min() < alpha.max():
        raise MaskError(
            f"{name}: its alpha holds a shape and was ignored, and its colours mark "
            f"{'every' if white.any() else 'no'} pixel as missing; paint holes white and known "
            "pixels black, all opaque (mask = alpha reads the alpha of the image itself)"
        )
    if not white.any() and levels.any():
        value = colours.reshape(-1, colours.shape[2])[int(levels.argmax())].tolist()
        raise MaskError(
            f"{name}: nothing is missing: its brightest value is "
            f"{value[0] if len(set(value)) == 1 else tuple(value)}; white is >= {middle}; "
            "paint holes white (0 and 1 are for NumPy arrays and .npy files)"
        )
    return white


def _check_option(shape: str, option: str) -> tuple[tuple[int, int, int], int] | None:
    """Return the colour and tolerance of ``color``; the other SPECs of an image have no option."""
    if shape != "color":
        if option:
            raise MaskError(f"mask: {shape} takes no option; {option!r} was given")
        return None
    text, _, digits = option.partition(":")
    try:
        colour, tolerance = parse_colour(text), int(digits[:4] or 0)
    except (SettingsError, ValueError):
        tolerance = -1
    if not 0 <= tolerance <= 255:
        raise MaskError(
            f"mask: {f'color:{option}'!r} needs a colour and a tolerance from 0 to 255, "
            "such as color:#ff00ff:8"
        )
    return colour, tolerance


def _marked(picture: Picture, shape: str, option: str) -> Known | None:
    """Return the pixels that an image marks as missing; None if it marks none that way."""
    if chosen := _check_option(shape, option):
        levels = to_channels(to_eight_bits(picture.pixels)[..., :3], "RGB")
        hole = np.ones(levels.shape[:2], bool)
        for band, level in enumerate(chosen[0]):
            hole &= np.abs(levels[..., band].astype(np.int16) - level) <= chosen[1]
        return hole
    if shape != "alpha" and picture.missing is not None:
        return picture.missing
    if shape != "nan" and picture.channels == "RGBA":
        return np.asarray(picture.pixels[..., 3] == 0)
    return None


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


def _factor(option: str) -> int:
    # Not int() at once, which refuses thousands of digits with a message of its own.
    if option and not (re.fullmatch("[0-9]{1,2}", option) and 2 <= int(option) <= 64):
        raise MaskError(
            f"mask: lowres:{option} needs a whole number from 2 to 64, such as lowres:4"
        )
    return int(option or 4)


SHAPES: dict[str, Callable[[int, int, str, int], Mask]] = {
    "center": lambda h, w, option, seed: center(h, w, share=_share(option, 0.5, "center")),
    "half": lambda h, w, option, seed: half(h, w, side=option or "left"),
    "random": lambda h, w, option, seed: random(
        h, w, share=_share(option, 0.8, "random"), seed=seed
    ),
    "grid": lambda h, w, option, seed: grid(h, w),
    "lowres": lambda h, w, option, seed: lowres(h, w, factor=_factor(option)),
    "strokes": lambda h, w, option, seed: strokes(
        h, w, share=_share(option, 0.25, "strokes"), seed=seed
    ),
}
SPECS = (*SHAPES, "alpha", "color", "nan", "auto")
