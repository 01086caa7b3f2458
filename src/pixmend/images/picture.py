"""An image as a value: its pixels, and all that must survive a round trip."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixmend.errors import ImageError
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
_ARRAY_MODES = {
    (np.uint8, 1): "L",
    (np.uint8, 3): "RGB",
    (np.uint8, 4): "RGBA",
    (np.uint16, 1): "I;16",
}


@dataclass(frozen=True)
class Picture:
    """An upright image, as stored.

    Attributes
    ----------
    native
        Stored samples, [H, W] or [H, W, bands]: bool, uint8, uint16, or floats in [0, 1].
    mode
        PIL's name of the stored mode: 1, L, LA, RGB, RGBA, CMYK, I;16 or F (float32). Floats that
        PIL lacks are LF, RGBF and RGBAF.
    path
        The source file, if any, for messages.
    info
        Metadata: ``icc_profile``, ``exif``, ``xmp`` and ``png`` (text and colour chunks of a PNG),
        bytes; and ``dpi``.
    warnings
        What is not kept of its file.
    reduced
        True if 16-bit colour was read with 8 bits a sample.
    missing
        Pixels without a value, [H, W]: NaN, or masked in a NumPy array. Their samples are 0.
        None if there are none.
    """

    native: NDArray[Any]
    mode: str
    path: Path | StorePath | None = None
    info: dict[str, Any] = field(default_factory=dict)
    reduced: bool = False
    warnings: Sequence[str] = ()
    missing: NDArray[np.bool_] | None = None

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.native.shape[0])

    @property
    def width(self) -> int:
        """Columns of pixels."""
        return int(self.native.shape[1])

    @property
    def name(self) -> str:
        """Name in messages."""
        return str(self.path) if self.path else "image"

    @property
    def pixels(self) -> Pixels:
        """The image as uint8 (uint16 for 16-bit grey and floats) [H, W, C], C of 1, 3 or 4."""
        samples = self.native
        if self._is_float:
            levels = np.rint(samples.astype(np.float64).clip(0, 1) * 65535)
            samples = np.asarray(levels, np.uint16)
        elif self.mode == "1":
            samples = samples.astype(np.uint8) * np.uint8(255)
        elif self.mode in ("LA", "CMYK"):
            samples = np.asarray(self.to_pil().convert(self.channels))
        return samples.reshape(self.height, self.width, -1)

    @property
    def channels(self) -> Channels:
        """Meaning of the channels of `pixels`."""
        return _CHANNELS[self.mode]

    @property
    def _is_float(self) -> bool:
        return np.issubdtype(self.native.dtype, np.floating)

    def check_known(self, known: NDArray[np.bool_] | Literal[True] = True) -> "Picture":
        """Return the picture; ImageError if a known pixel [H, W] has no value."""
        count = 0 if self.missing is None else np.count_nonzero(self.missing & known)
        if count:
            raise ImageError(
                f"{self.name}: {count} known pixels are NaN or masked; "
                "put them in the mask (mask = nan does)"
            )
        return self

    def replace_where(self, hole: NDArray[np.bool_], pixels: Pixels) -> "Picture":
        """Return the picture with ``pixels`` in the hole [H, W]; other samples are unchanged.

        ``pixels`` [H, W, C] have the depth of `pixels`, with C of 1, 3 or 4.
        """
        where = hole if self.native.ndim == 2 else hole[..., None]
        native = np.where(where, self._to_native(pixels), self.native)
        return replace(self, native=native, missing=None)

    def part(self, rows: slice, columns: slice) -> "Picture":
        """Return a rectangle of the picture."""
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
        if self._is_float and self.native.ndim == 2:
            image = Image.fromarray(self.native.astype(np.float32))
        elif self._is_float:
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
        if self._is_float:
            samples = (samples / 65535).astype(self.native.dtype)
        return samples.reshape(self.native.shape)


def picture_from_array(array: NDArray[Any], path: Path | StorePath | None = None) -> Picture:
    """Return an array as a picture.

    It is uint8 or floats, [H, W] or [H, W, 1 or 3 or 4], or uint16, [H, W] or [H, W, 1]. Floats are
    in [0, 1] and come back as floats; their completions have 16 bits. NaN and masked values are
    missing pixels. ImageError for other arrays.
    """
    name = str(path or "image")
    bands = 1 if array.ndim == 2 else array.shape[2] if array.ndim == 3 else 0
    floats = np.issubdtype(array.dtype, np.floating)
    mode = _ARRAY_MODES.get((np.uint8 if floats else array.dtype.type, bands))
    if mode is None or not array.size:
        raise ImageError(
            f"{name}: an array of {array.dtype} {list(array.shape)} is no image; "
            "give uint8 or floats in [0, 1] [H, W], [H, W, 3] or [H, W, 4], or uint16 [H, W]"
        )
    native = np.array(np.ma.getdata(array)).reshape(array.shape[:2] if bands == 1 else array.shape)
    missing = np.ma.getmaskarray(array).reshape(native.shape)
    if floats:
        missing = missing | np.isnan(native)
        native[missing] = 0
        _check_range(native, name)
        mode = "F" if mode == "L" and native.dtype == "float32" else f"{mode}F"
    pixels = np.asarray(missing.reshape(*native.shape[:2], -1).any(axis=2))
    return Picture(native, mode, path, missing=pixels if pixels.any() else None)


def _check_range(floats: NDArray[Any], name: str) -> None:
    low, high = float(floats.min()), float(floats.max())
    if low < -1e-6 or high > 1 + 1e-6:  # tolerates rounding of resampled values
        raise ImageError(
            f"{name}: floats must be in [0, 1], and these reach from {low:g} to {high:g}; "
            "scale them, or give uint8"
        )
