"""Random transforms of D's images, as functions of the images and of uniform draws.

DiffAugment (Zhao 2020, equations 4 and 5) transforms real and fake images before D judges them, in
the steps of D and G, with gradients to G. D sees a small set in many forms that G does not learn.
Flips and shifts are plain augmentation of the training images.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Transform = Callable[[Tensor], Tensor]
TransformName = Literal["colour", "translation", "cutout"]

# Uniform draws per image; all are always drawn, so that no transform changes those of another.
_COLUMNS = {"colour": slice(0, 4), "translation": slice(4, 7), "cutout": slice(7, 10)}
DRAWS = 10
AUGMENTATION_DRAWS = 9

_MAX_TRANSLATION = 1 / 8  # share of the side (Zhao 2020, section 4.1)
_CUTOUT_SIDE = 1 / 2  # share of the side


def parse_transforms(text: str) -> tuple[TransformName, ...]:
    """Parse ``"colour,translation"``; returns them in the fixed order of application."""
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    names = get_args(TransformName)
    for word in words:
        if word not in names:
            raise ValueError(f"{word!r} is no transform; transforms: {', '.join(names)}")
        if words.count(word) > 1:
            raise ValueError(f"{word} is given twice")
    return tuple(name for name in names if name in words)


def diffaugment(
    images: Tensor, draws: Tensor, transforms: tuple[TransformName, ...], *, probability: float
) -> Tensor:
    """Transform images [B, C, H, W], each by its row of ``draws`` [B, 10] in [0, 1).

    Images to which no transform applies stay bit-equal. Of RGBA, colour leaves alpha as it is, and
    translation and cutout bare transparency.
    """
    functions: dict[TransformName, Callable[..., Tensor]] = {
        "colour": _colour,
        "translation": _translate,
        "cutout": _cut_out,
    }
    for name in transforms:
        gate, *numbers = draws[:, _COLUMNS[name]].unbind(1)
        applied = (gate < probability)[:, None, None, None]
        images = torch.where(applied, functions[name](images, *numbers), images)
    return images


def make_diffaugment(
    transforms: tuple[TransformName, ...],
    probability: float,
    count: int,
    generator: torch.Generator,
    *,
    rows: Tensor | slice = slice(None),
) -> Transform:
    """Return `diffaugment` of the images ``rows`` of a batch of ``count``; draws are per image."""
    if not transforms:
        return unchanged
    draws = torch.rand(count, DRAWS, generator=generator)[rows]

    def transform(images: Tensor) -> Tensor:
        return diffaugment(images, draws.to(images.device), transforms, probability=probability)

    return transform


def unchanged(images: Tensor) -> Tensor:
    """Return the images: the transform without DiffAugment."""
    return images


def horizontal_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Flip those of the images [B, C, H, W] whose draw, [B] in [0, 1), is below one half."""
    flipped = (draws < 0.5).to(images.device)
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def augment(images: Tensor, draws: Tensor, probability: float) -> Tensor:
    """Augment each image [B, C, S, S] with ``probability``: flips, transposition, order of colours, contrast and brightness.

    By ``draws`` [B, 9] in [0, 1). The result is of whole grey levels, as any image is; alpha keeps its values.
    """
    draws = draws.to(images.device)
    flipped, upended, transposed = (draws[:, 1:4, None, None, None] < 0.5).unbind(1)
    result = torch.where(flipped, images.flip(3), images)
    result = torch.where(upended, result.flip(2), result)
    result = torch.where(transposed, result.transpose(2, 3), result)
    colours, alpha = _split_alpha(result)
    order = draws[:, 4 : 4 + colours.shape[1]].argsort(1)[:, :, None, None]
    contrast, brightness = draws[:, 7:, None, None, None].unbind(1)
    colours = colours.gather(1, order.expand_as(colours)) * (0.6 + 0.6 * contrast)
    colours = (colours + 0.4 * (brightness - 0.5)).clamp(-1, 1)
    colours = ((colours + 1) * 127.5).round() / 127.5 - 1
    varied = draws[:, :1, None, None] < probability
    return torch.where(varied, torch.cat([colours, alpha], 1), images)


def _colour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness +-0.5, then saturation times 0 to 2, then contrast times 0.5 to 1.5."""
    brightness, saturation, contrast = (
        number.to(images.dtype)[:, None, None, None]
        for number in (brightness, saturation, contrast)
    )
    colours, alpha = _split_alpha(images)
    colours = colours + (brightness - 0.5)
    if colours.shape[1] > 1:  # grey has no saturation
        grey = colours.mean(1, keepdim=True)
        colours = grey + (colours - grey) * (2 * saturation)
    mean = colours.mean((1, 2, 3), keepdim=True)
    colours = mean + (colours - mean) * (contrast + 0.5)
    return torch.cat([colours, alpha], 1)


def _translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Shift by whole pixels, up to an eighth of the side each way."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) - _shift(down, height)  # [B, H], sources
    columns = torch.arange(width, device=images.device) - _shift(right, width)
    inside_rows = (rows >= 0) & (rows < height)
    inside_columns = (columns >= 0) & (columns < width)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    # Clamped sources are covered below, so each pixel has one gradient and sums have no order.
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    index = source.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    shifted = images.flatten(2).gather(2, index).view_as(images)
    return torch.where(inside, shifted, _blank(images))


def _cut_out(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Blank a rectangle of half the sides, with its centre anywhere in the image."""
    height, width = images.shape[2:]
    rows = _inside_cutout(down, height, images.device)[:, None, :, None]
    columns = _inside_cutout(right, width, images.device)[:, None, None, :]
    return torch.where(rows & columns, _blank(images), images)


def _shift(draw: Tensor, side: int) -> Tensor:
    """Return integer shifts [B, 1], uniform in -limit ... limit."""
    limit = int(side * _MAX_TRANSLATION + 0.5)
    return (draw * (2 * limit + 1)).floor().long()[:, None] - limit


def _inside_cutout(draw: Tensor, side: int, device: torch.device) -> Tensor:
    """Return which positions [B, side] are cut out."""
    length = int(side * _CUTOUT_SIDE + 0.5)
    first = (draw * (side + 1)).floor().long()[:, None] - length // 2
    positions = torch.arange(side, device=device)
    return (positions >= first) & (positions < first + length)


def _split_alpha(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return colours [B, 1 or 3, H, W] and alpha [B, 0 or 1, H, W]."""
    count = images.shape[1] - (images.shape[1] == 4)
    return images[:, :count], images[:, count:]


def _blank(images: Tensor) -> Tensor:
    """Return the blank pixel [1, C, 1, 1]: mid-grey (the paper's 0), transparent in RGBA."""
    colours, alpha = (
        part.new_full((1, part.shape[1], 1, 1), value)
        for part, value in zip(_split_alpha(images), (0.0, -1.0), strict=True)
    )
    return torch.cat([colours, alpha], 1)
