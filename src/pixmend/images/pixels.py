"""Pixels as numbers: ranges, channels and sizes."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from pixmend.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

Channels = Literal["L", "RGB", "RGBA"]
Fit = Literal["crop", "pad", "stretch"]
Colour = tuple[int, int, int]
Pixels = NDArray[Any]  # uint8 or uint16 [H, W, C]

_WHITE: Colour = (255, 255, 255)


def channel_count(channels: Channels) -> int:
    """Return C: 1 for L, 3 for RGB, 4 for RGBA."""
    return len(channels)


def to_tensor(pixels: Pixels) -> "Tensor":
    """Map uint8 or uint16 [..., H, W, C] to float32 [..., C, H, W] in [-1, 1].

    `to_pixels` inverts it exactly.
    """
    import torch

    half = np.iinfo(pixels.dtype).max / 2
    values = torch.from_numpy(np.ascontiguousarray(pixels.astype(np.float32)))
    return (values / half - 1).movedim(-1, -3).contiguous()


def to_pixels(values: "Tensor", dtype: type[np.generic] | np.dtype[Any] = np.uint8) -> Pixels:
    """Map float [..., C, H, W] in [-1, 1] to the nearest levels, uint8 or uint16 [..., H, W, C]."""
    top = np.iinfo(np.dtype(dtype)).max
    levels = ((values.detach().float() + 1) * (top / 2)).round().clamp(0, top)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy().astype(dtype))


def to_eight_bits(pixels: Pixels) -> Pixels:
    """Return uint8 or uint16 pixels as uint8, for display."""
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def parse_colour(text: str) -> Colour:
    """Return (R, G, B) of a colour name or ``#rrggbb``; SettingsError for any other text."""
    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
        if not all(0 <= level <= 255 for level in (red, green, blue)):
            raise ValueError("out of range")  # PIL accepts rgb(300, 0, 0)
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"background: {text!r} is no colour; try white or #f0e0d0") from error
    return red, green, blue


def to_channels(pixels: Pixels, channels: Channels, background: Colour = _WHITE) -> Pixels:
    """Convert uint8 or uint16 [H, W, 1 or 3 or 4] to the given channels.

    Alpha is composited on ``background`` unless ``channels`` has alpha: then the hidden colour of
    fully transparent pixels, an artefact of the drawing program, becomes ``background``. Colour
    becomes grey by ITU-R 601 luma, as in PIL.
    """
    count = channel_count(channels)
    if pixels.shape[-1] == count:
        return _replace_hidden(pixels, background) if count == 4 else pixels
    top = np.iinfo(pixels.dtype).max
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if count != 4 and alpha.size:
        share = alpha.astype(np.float64) / top
        behind = np.asarray(background, np.float64) * (top / 255)
        colour = np.rint(colour * share + behind * (1 - share)).astype(pixels.dtype)
    if count == 1:
        if colour.shape[-1] == 1:
            return np.asarray(colour)
        luma = colour.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        return np.asarray(np.rint(luma)[..., None].astype(pixels.dtype))
    if colour.shape[-1] == 1:
        colour = np.repeat(colour, 3, axis=-1)
    if count == 3:
        return np.asarray(colour)
    opaque = np.full((*colour.shape[:-1], 1), top, pixels.dtype)
    return np.concatenate([colour, opaque], axis=-1)


def fit_square(pixels: Pixels, size: int, fit: Fit, background: Colour = _WHITE) -> Pixels:
    """Resize uint8 [H, W, C] to [size, size, C].

    ``crop`` keeps the centre square, ``pad`` surrounds the image with ``background`` (transparent
    in RGBA), ``stretch`` ignores the proportions. Resampling is Lanczos, on colours premultiplied
    by alpha so that hidden ones do not bleed.
    """
    height, width, count = pixels.shape
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    elif fit == "pad" and height != width:
        side = max(height, width)
        square = np.zeros((side, side, count), np.uint8)
        if count != 4:
            grey: Channels = "L" if count == 1 else "RGB"
            square[:] = to_channels(np.array([[background]], np.uint8), grey)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = pixels
        pixels = square
    if pixels.shape[:2] == (size, size):
        return np.ascontiguousarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if count == 1 else pixels))
    if count == 4:
        small = image.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
        return _replace_hidden(np.asarray(small), background)
    small = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(size, size, count)


def _replace_hidden(pixels: Pixels, background: Colour) -> Pixels:
    """Give fully transparent pixels one colour: a network should not learn the hidden one."""
    top = np.iinfo(pixels.dtype).max
    behind = (np.asarray(background, np.float64) * (top / 255)).astype(pixels.dtype)
    hidden = pixels[..., 3:] == 0
    return np.concatenate([np.where(hidden, behind, pixels[..., :3]), pixels[..., 3:]], axis=-1)
