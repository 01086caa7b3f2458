"""Pixels as numbers: ranges, channels and sizes."""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor

from pixmend.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

Channels = Literal["L", "RGB", "RGBA"]
CHANNELS: tuple[Channels, ...] = ("L", "RGB", "RGBA")
Fit = Literal["crop", "pad", "stretch"]
Colour = tuple[int, int, int]
Pixels = NDArray[Any]  # uint8 or uint16 [H, W, C]

_COUNTS: dict[Channels, int] = {"L": 1, "RGB": 3, "RGBA": 4}


def channel_count(channels: Channels) -> int:
    """Return C of ``L`` (1), ``RGB`` (3) or ``RGBA`` (4)."""
    return _COUNTS[channels]


def to_tensor(pixels: Pixels) -> "Tensor":
    """Map uint8 or uint16 [..., H, W, C] to float32 [..., C, H, W] in [-1, 1].

    The inverse of `to_pixels`: every level comes back as itself.
    """
    import torch

    half = np.iinfo(pixels.dtype).max / 2
    values = torch.from_numpy(np.ascontiguousarray(pixels.astype(np.float32)))
    return (values / half - 1).movedim(-1, -3).contiguous()


def to_pixels(values: "Tensor", dtype: type[np.generic] | np.dtype[Any] = np.uint8) -> Pixels:
    """Map float [..., C, H, W] in [-1, 1] to uint8 or uint16 [..., H, W, C], rounding to the nearest level."""
    top = np.iinfo(np.dtype(dtype)).max
    levels = ((values.detach().float() + 1) * (top / 2)).round().clamp(0, top)
    return np.ascontiguousarray(levels.movedim(-3, -1).cpu().numpy().astype(dtype))


def to_eight_bits(pixels: Pixels) -> Pixels:
    """Return uint8 or uint16 pixels as uint8, to be looked at."""
    return pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)


def parse_colour(text: str) -> Colour:
    """Return (R, G, B) of a colour name or ``#rrggbb``.

    Raises
    ------
    SettingsError
        No such colour.
    """
    try:
        red, green, blue, *_ = ImageColor.getrgb(text)
        if not all(0 <= level <= 255 for level in (red, green, blue)):
            raise ValueError("out of range")  # rgb(300, 0, 0) is read as it stands
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"background: {text!r} is no colour; try white or #f0e0d0") from error
    return red, green, blue


def to_channels(pixels: Pixels, channels: Channels, background: Colour = (255, 255, 255)) -> Pixels:
    """Convert [H, W, 1, 3 or 4] of uint8 or uint16 to uint8 or uint16 with the channels named.

    Alpha is composited on ``background`` unless ``channels`` keeps it: then the colour of wholly transparent pixels, which is
    whatever the drawing program left there, becomes ``background``. Colour becomes grey by ITU-R 601 luma, as in PIL.
    """
    wanted = channel_count(channels)
    if pixels.shape[-1] == wanted:
        return _settle_hidden(pixels, background) if wanted == 4 else pixels
    top = np.iinfo(pixels.dtype).max
    colour, alpha = pixels[..., :3], pixels[..., 3:]
    if wanted != 4 and alpha.size:
        share = alpha.astype(np.float64) / top
        behind = np.asarray(background, np.float64) * (top / 255)
        colour = np.rint(colour * share + behind * (1 - share)).astype(pixels.dtype)
    if wanted == 1:
        if colour.shape[-1] == 1:
            return np.asarray(colour)
        luma = colour.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
        return np.asarray(np.rint(luma)[..., None].astype(pixels.dtype))
    if colour.shape[-1] == 1:
        colour = np.repeat(colour, 3, axis=-1)
    if wanted == 3:
        return np.asarray(colour)
    opaque = np.full((*colour.shape[:-1], 1), top, pixels.dtype)
    return np.concatenate([colour, opaque], axis=-1)


def fit_square(pixels: Pixels, size: int, fit: Fit, background: Colour = (255, 255, 255)) -> Pixels:
    """Bring uint8 [H, W, C] to [size, size, C].

    ``crop`` keeps the centre square, ``pad`` adds ``background`` (transparent in RGBA) around the whole image, ``stretch`` ignores
    the proportions. Resampling is Lanczos, on colours premultiplied by alpha so that hidden colours do not bleed.
    """
    height, width, count = pixels.shape
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    elif fit == "pad" and height != width:
        pixels = _pad_to_square(pixels, background)
    if pixels.shape[:2] == (size, size):
        return np.ascontiguousarray(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if count == 1 else pixels))
    if count == 4:
        small = image.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS).convert("RGBA")
        return _settle_hidden(np.asarray(small), background)
    small = image.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small).reshape(size, size, count)


def _settle_hidden(pixels: Pixels, background: Colour) -> Pixels:
    """Give wholly transparent pixels one colour: nobody sees the old one, and a network should not learn it."""
    top = np.iinfo(pixels.dtype).max
    behind = (np.asarray(background, np.float64) * (top / 255)).astype(pixels.dtype)
    hidden = pixels[..., 3:] == 0
    return np.concatenate([np.where(hidden, behind, pixels[..., :3]), pixels[..., 3:]], axis=-1)


def _pad_to_square(pixels: Pixels, background: Colour) -> Pixels:
    height, width, count = pixels.shape
    side = max(height, width)
    fill = to_channels(np.array([[background]], np.uint8), "L" if count == 1 else "RGB")[0, 0]
    square = np.zeros((side, side, count), np.uint8)
    if count != 4:
        square[:] = fill
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square
