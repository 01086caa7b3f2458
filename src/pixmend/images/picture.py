"""An image as a value: its pixels, and all that must survive a round trip."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixmend.errors import ImageError, SettingsError, counted
from pixmend.images.pixels import Channels, Pixels, to_channels, to_eight_bits
from pixmend.storage import StorePath

# Channels of `Picture.pixels` by stored mode. Palettes cannot hold new colours, so they open as RGB
# or RGBA.
_CHANNELS: dict[str, Channels] = {
    "1": "L",
    "L": "L",
    "I;16": "L",
    "LA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "CMYK": "RGB",
    "F": "L",
    "LF": "L",
    "RGBF": "RGB",
    "RGBAF": "RGBA",
}
Limits = tuple[float, float]  # the stored values of black and white
_ARRAY_MODES = {
    (np.uint8, 1): "L",
    (np.uint8, 3): "RGB",
    (np.uint8, 4): "RGBA",
    (np.uint16, 1): "I;16",
    (np.float32, 1): "F",
}
_RANGE = "give the range: complete --range MIN:MAX, or range=(MIN, MAX) in Python"


@dataclass(frozen=True)
class Picture:
    """An upright image, as stored."""

    # Samples, [H, W] or [H, W, bands]: bool, uint8, uint16, or any numbers with `limits`.
    native: NDArray[Any]
    # PIL's name: 1, L, LA, RGB, RGBA, CMYK, I;16 or F (float32). Of numbers that PIL lacks, LF,
    # RGBF and RGBAF.
    mode: str
    path: Path | StorePath | None = None  # the source file, if any, for messages
    # Metadata: `icc_profile`, `exif`, `xmp` and `png` (text and colour chunks), bytes; and `dpi`.
    info: dict[str, Any] = field(default_factory=dict)
    reduced: bool = False  # whether 16-bit colour was read with 8 bits a sample
    warnings: Sequence[str] = ()  # what is not kept of its file
    # Pixels without a value, [H, W]: NaN, or masked in a NumPy array. Their samples are black.
    missing: NDArray[np.bool_] | None = None
    limits: Limits | None = None  # None: the ends of the type

    @property
    def height(self) -> int:
        return int(self.native.shape[0])

    @property
    def width(self) -> int:
        return int(self.native.shape[1])

    @property
    def name(self) -> str:
        return str(self.path) if self.path else "image"

    @property
    def pixels(self) -> Pixels:
        """The image as uint8 (uint16 for 16-bit grey and ``limits``) [H, W, C], C of 1, 3 or 4."""
        samples = self.native
        if self.limits is not None:
            low, high = self.limits
            shares = (samples.astype(np.float64).clip(low, high) - low) / (high - low)
            samples = np.asarray(np.rint(shares * 65535), np.uint16)
        elif self.mode == "1":
            samples = samples.astype(np.uint8) * np.uint8(255)
        elif self.mode in ("LA", "CMYK"):
            samples = np.asarray(self.to_pil().convert(self.channels))
        return samples.reshape(self.height, self.width, -1)

    @property
    def channels(self) -> Channels:
        """Meaning of the channels of `pixels`."""
        return _CHANNELS[self.mode]

    def check_known(self, known: NDArray[np.bool_] | Literal[True] = True) -> "Picture":
        """Return the picture; ImageError if a known pixel [H, W] has no value."""
        count = 0 if self.missing is None else int(np.count_nonzero(self.missing & known))
        if count:
            raise ImageError(
                f"{self.name}: no value (NaN or masked) in {counted(count, 'known pixel')}; "
                "put them in the mask (mask = nan does)"
            )
        return self

    def replace_where(self, hole: NDArray[np.bool_], pixels: Pixels) -> "Picture":
        """Return the picture with ``pixels`` in the hole [H, W]; other samples are unchanged.

        ``pixels`` [H, W, C] have the depth of `pixels`, with C of 1, 3 or 4.
        """
        where = hole if self.native.ndim == 2 else hole[..., None]
        native = np.where(where, self._to_native(pixels), self.native)
        return replace(self, native=native.astype(self.native.dtype, copy=False), missing=None)

    def part(self, rows: slice, columns: slice) -> "Picture":
        return replace(self, native=self.native[rows, columns], missing=None)

    def with_parts(
        self,
        parts: Sequence["Picture"],
        places: Sequence[tuple[slice, slice, NDArray[np.bool_]]],
    ) -> "Picture":
        """Return the picture with the stored samples of each part, at (rows, columns), where the bool [h, w] is True."""
        native = self.native.copy()
        for part, (rows, columns, where) in zip(parts, places, strict=True):
            native[rows, columns][where] = part.native[where]
        return replace(self, native=native, missing=None)

    def to_pil(self) -> Image.Image:
        """Return a PIL image with the metadata in ``info``; float colours become 8 bits."""
        if self.mode in ("F", "LF"):
            image = Image.fromarray(self.native.astype(np.float32))
        elif self.mode.endswith("F"):
            image = Image.fromarray(to_eight_bits(self.pixels))
        elif self.mode == "1":
            # A bool array becomes a mode-1 image only by way of L.
            image = Image.fromarray(self.native.astype(np.uint8) * np.uint8(255)).convert("1")
        elif self.mode in ("CMYK", "LA"):
            data = np.ascontiguousarray(self.native).tobytes()
            image = Image.frombytes(self.mode, (self.width, self.height), data)
        else:
            image = Image.fromarray(np.ascontiguousarray(self.native))
        image.info.update(**self.info)
        return image

    def _to_native(self, pixels: Pixels) -> NDArray[Any]:
        samples = to_channels(pixels, self.channels)
        if self.mode == "1":
            return samples[..., 0] >= 128
        if self.mode in ("LA", "CMYK"):
            return np.asarray(Image.fromarray(samples).convert(self.mode))
        if self.limits is not None:
            low, high = self.limits
            values = low + samples / 65535 * (high - low)
            whole = np.issubdtype(self.native.dtype, np.integer)
            samples = (np.rint(values) if whole else values).astype(self.native.dtype)
        return samples.reshape(self.native.shape)


def check_limits(limits: Any) -> Limits:  # noqa: ANN401 - what a user gave
    """Return the values of black and white; SettingsError unless they are finite and ascend."""
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError, OverflowError):
        low = high = 0.0
    if not 0 < high - low < math.inf:  # false for NaN
        given = ":".join(map(str, limits)) if isinstance(limits, list | tuple) else limits
        raise SettingsError(
            f"range {given}: needs the values of black and white, the lower first, "
            "such as --range -1000:3000 or range=(-1000, 3000)"
        )
    return low, high


def picture_from_array(
    array: NDArray[Any], path: Path | StorePath | None = None, limits: Limits | None = None
) -> Picture:
    """Return an array as a picture.

    It is uint8 or floats, [H, W] or [H, W, 1 or 3 or 4], or uint16, [H, W] or [H, W, 1]. Floats are
    in [0, 1]. With ``limits``, floats and integers of any kind have these values of black and
    white. Their type is kept, and their completions have 16 bits. NaN and masked values are missing
    pixels. ImageError for other arrays.
    """
    name = str(path or "image")
    bands = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    floats = np.issubdtype(array.dtype, np.floating)
    scaled = floats or (limits is not None and np.issubdtype(array.dtype, np.integer))
    mode = _ARRAY_MODES.get((np.uint8 if scaled else array.dtype.type, bands))
    if mode is None or not array.size:
        raise ImageError(
            f"{name}: an array of {array.dtype} {list(array.shape)} is no image; "
            "give uint8 or floats in [0, 1] [H, W], [H, W, 3] or [H, W, 4], or uint16 [H, W]; "
            f"or for other numbers {_RANGE}"
        )
    native = np.array(np.ma.getdata(array)).reshape(array.shape[:2] if bands == 1 else array.shape)
    missing, notes = np.ma.getmaskarray(array).reshape(native.shape), list[str]()
    if scaled:
        missing = missing | np.isnan(native)
        mode = _ARRAY_MODES.get((native.dtype.type, bands), f"{mode}F")
        notes = _check_values(native[~missing], limits, name)
        limits = limits or (0.0, 1.0)
        native[missing] = limits[0]
    pixels = np.asarray(missing.reshape(*native.shape[:2], -1).any(axis=2))
    gaps = pixels if pixels.any() else None
    return Picture(native, mode, path, warnings=notes, missing=gaps, limits=limits)


def _check_values(numbers: NDArray[Any], limits: Limits | None, name: str) -> list[str]:
    """Return a warning for numbers beyond the limits; ImageError if there are none, or too wide."""
    low, high = limits or (-1e-6, 1 + 1e-6)  # tolerates rounding of resampled values
    whole = np.issubdtype(numbers.dtype, np.integer)
    ends: Any = np.iinfo(numbers.dtype) if whole else np.finfo(numbers.dtype)
    if low < ends.min or high > ends.max:
        raise ImageError(
            f"{name}: {numbers.dtype} has no values from {low:g} to {high:g}; give their own range"
        )
    count = int(np.count_nonzero((numbers < low) | (numbers > high)))
    if count and limits is None:
        raise ImageError(
            f"{name}: floats must be in [0, 1], and these reach from {numbers.min():g} to "
            f"{numbers.max():g}; scale them, give uint8, or {_RANGE}"
        )
    note = f"beyond the range, seen by the model as its ends: {counted(count, 'value')}"
    return [note] if count else []
