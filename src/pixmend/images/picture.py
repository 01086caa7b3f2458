"""An image as a value: its pixels, and all that must survive a round trip."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pixmend.errors import ImageError
from pixmend.images.pixels import Channels, Pixels, to_channels, to_eight_bits
from pixmend.storage import StorePath

# How a stored mode is worked on. Palettes cannot hold new colours, so they are opened as RGB or RGBA (see `picture_of`).
_WORKED_AS: dict[str, Channels] = {
    "1": "L",
    "L": "L",
    "I;16": "L",
    "LA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "CMYK": "RGB",
}
_MOST_DPI = 1e6  # more fits into no other kind of file, and is no print


@dataclass(frozen=True)
class Picture:
    """An upright image, as stored.

    Attributes
    ----------
    native
        The stored samples, [H, W] or [H, W, bands]; bool, uint8, uint16, or of an array handed over floats in [0, 1].
    mode
        PIL's name of the stored mode: 1, L, LA, RGB, RGBA, CMYK or I;16.
    path
        The file it came from, if any; only for messages.
    info
        What PIL writes back unchanged: ``icc_profile``, ``exif``, ``dpi``.
    reduced
        The file held 16-bit colour, of which only 8 bits a sample were read.
    """

    native: NDArray[Any]
    mode: str
    path: Path | StorePath | None = None
    info: dict[str, Any] = field(default_factory=dict)
    reduced: bool = False

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
        """What to call it in a message."""
        return str(self.path) if self.path else "image"

    @property
    def pixels(self) -> Pixels:
        """Return the image as uint8 (uint16 for 16-bit grey and floats) [H, W, C] with C of 1, 3 or 4."""
        if np.issubdtype(self.native.dtype, np.floating):
            levels = np.rint(self.native.astype(np.float64).clip(0, 1) * 65535)
            return np.asarray(levels, np.uint16).reshape(self.height, self.width, -1)
        if self.mode == "1":
            return self.native[..., None].astype(np.uint8) * np.uint8(255)
        if self.mode in ("LA", "CMYK"):
            worked = self.to_pil().convert(_WORKED_AS[self.mode])
            return np.asarray(worked).reshape(self.height, self.width, -1)
        return self.native.reshape(self.height, self.width, -1)

    @property
    def channels(self) -> Channels:
        """Return what C of `pixels` stands for."""
        return _WORKED_AS[self.mode]

    def replace_where(self, hole: NDArray[np.bool_], pixels: Pixels) -> "Picture":
        """Return the picture with ``pixels`` where ``hole`` is True; every other stored sample stays as it is.

        Parameters
        ----------
        hole
            [H, W].
        pixels
            [H, W, C] of the same depth as `pixels`, C of 1, 3 or 4.
        """
        filled = self._as_native(pixels)
        where = hole if self.native.ndim == 2 else hole[..., None]
        return replace(self, native=np.where(where, filled, self.native))

    def part(self, rows: slice, columns: slice) -> "Picture":
        """Return a rectangle of the picture as a picture."""
        return replace(self, native=self.native[rows, columns])

    def with_part(
        self, part: "Picture", rows: slice, columns: slice, where: NDArray[np.bool_]
    ) -> "Picture":
        """Return the picture with the stored samples of ``part`` (see `part`) where ``where`` [h, w] is True."""
        native = self.native.copy()
        native[rows, columns][where] = part.native[where]
        return replace(self, native=native)

    def to_pil(self) -> Image.Image:
        """Return the picture as a PIL image with its metadata in ``info``; floats are shown in 8 bits."""
        if np.issubdtype(self.native.dtype, np.floating):
            shown = to_eight_bits(self.pixels)
            image = Image.fromarray(shown if self.native.ndim == 3 else shown[..., 0])
        elif self.mode == "1":
            # A bool array becomes a mode-1 image only by way of L.
            image = Image.fromarray(self.native.astype(np.uint8) * np.uint8(255)).convert("1")
        elif self.mode in ("CMYK", "LA"):
            data = np.ascontiguousarray(self.native).tobytes()
            image = Image.frombytes(self.mode, (self.width, self.height), data)
        else:
            image = Image.fromarray(np.ascontiguousarray(self.native))
        image.info.update(self.info)
        return image

    def _as_native(self, pixels: Pixels) -> NDArray[Any]:
        worked = to_channels(pixels, _WORKED_AS[self.mode])
        if self.mode == "1":
            return worked[..., 0] >= 128
        if self.mode in ("LA", "CMYK"):
            return np.asarray(Image.fromarray(worked).convert(self.mode))
        if np.issubdtype(self.native.dtype, np.floating):
            return (worked / 65535).astype(self.native.dtype).reshape(self.native.shape)
        return worked.reshape(self.native.shape)


def picture_of(image: Image.Image, path: Path | StorePath | None = None) -> Picture:
    """Take a loaded PIL image apart.

    Raises
    ------
    ImageError
        A mode whose values cannot be kept, such as 32-bit float.
    """
    info = {key: image.info[key] for key in ("icc_profile", "dpi") if image.info.get(key)}
    if "dpi" in info and not _is_resolution(info["dpi"]):
        del info["dpi"]
    reduced = bool(image.info.get("cut_to_8_bits"))
    exif = image.getexif()
    if exif:
        info["exif"] = exif.tobytes()
    image = _to_kept_mode(image, path)
    native = np.array(image)
    if image.mode == "I;16":
        native = native.astype(np.uint16)
    return Picture(native, image.mode, path, info, reduced)


def _is_resolution(dpi: tuple[Any, ...]) -> bool:
    try:
        return all(0 < float(value) < _MOST_DPI for value in dpi)  # no NaN, either
    except ZeroDivisionError:  # of a fraction, in older versions of PIL
        return False


def picture_from_array(array: NDArray[Any], path: Path | StorePath | None = None) -> Picture:
    """Take uint8 or floats [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], or uint16 [H, W] or [H, W, 1], as a picture.

    Floats are in [0, 1] and come back as floats; what is completed of them is computed in 16 bits.

    Raises
    ------
    ImageError
        Another shape or type, or floats outside [0, 1].
    """
    shaped = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    modes = {
        (np.uint8, 0): "L",
        (np.uint8, 3): "RGB",
        (np.uint8, 4): "RGBA",
        (np.uint16, 0): "I;16",
    }
    bands = shaped.shape[2] if shaped.ndim == 3 else 0
    floats = np.issubdtype(array.dtype, np.floating)
    kind = np.uint8 if floats else array.dtype.type
    mode = modes.get((kind, bands)) if shaped.ndim in (2, 3) else None
    if mode is None or not array.size:
        raise ImageError(
            f"image: an array of {array.dtype} {list(array.shape)} is no image; give uint8 or floats in [0, 1] "
            "[H, W], [H, W, 3] or [H, W, 4], or uint16 [H, W]"
        )
    if floats:
        _check_range(array)
    return Picture(np.array(shaped), mode, path)


def _check_range(array: NDArray[Any]) -> None:
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise ImageError(
            f"image: {bad} of its {array.size} values are NaN or infinite; give floats in [0, 1], and say "
            "what is missing in the mask alone"
        )
    least, most = float(array.min()), float(array.max())
    if least < -1e-6 or most > 1 + 1e-6:  # resampling overshoots by roundings
        raise ImageError(
            f"image: floats are read in [0, 1], and these reach from {least:g} to {most:g}; scale them, or give uint8"
        )


def _to_kept_mode(image: Image.Image, path: Path | StorePath | None) -> Image.Image:
    if image.mode in _WORKED_AS:
        # A tRNS chunk makes one colour of an L or RGB image transparent: that is alpha by another name.
        if "transparency" in image.info and image.mode in ("L", "RGB", "1"):
            return image.convert("RGBA" if image.mode == "RGB" else "LA")
        return image
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("La", "RGBa"):
        return image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode in ("YCbCr", "LAB", "HSV", "RGBX"):
        return image.convert("RGB")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.size and values.min() >= 0 and values.max() <= 65535:
            return Image.fromarray(values.astype(np.uint16))
    raise ImageError(
        f"{path or 'image'}: pixels of mode {image.mode} cannot be kept exactly; convert it to 8-bit or 16-bit grey, or to RGB"
    )
