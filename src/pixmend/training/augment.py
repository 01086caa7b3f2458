"""Random transforms of what D sees, as functions of the image and of uniform numbers drawn for it.

DiffAugment (Zhao 2020, equations 4 and 5): real and drawn images pass the same kind of transform before D judges them, in D's
step and in G's, and gradients flow through it to G. D then sees a small set in many guises, and G is not taught the guises.
Mirroring is plain augmentation: it says that a flipped image belongs to the domain too.
"""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

Transform = Callable[[Tensor], Tensor]
TransformName = Literal["colour", "translation", "cutout"]

# Uniform numbers that each transform takes for an image; all are always drawn, so that switching one on moves no other's.
_COLUMNS = {"colour": slice(0, 4), "translation": slice(4, 7), "cutout": slice(7, 10)}
DRAWS = 10

_FARTHEST = 1 / 8  # translation, as a share of the side (Zhao 2020, section 4.1)
_CUT = 1 / 2  # side of the cutout, as a share of the image's


def parse_transforms(text: str) -> tuple[TransformName, ...]:
    """Read ``"colour,translation"``; the order of application is fixed, whatever the order of the words.

    Raises
    ------
    ValueError
        A word that is no transform's name, or one given twice.
    """
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    names = get_args(TransformName)
    for word in words:
        if word not in names:
            raise ValueError(f"{word!r} is no transform; there are {', '.join(names)}")
        if words.count(word) > 1:
            raise ValueError(f"{word} is given twice")
    return tuple(name for name in names if name in words)


def diffaugment(
    images: Tensor, draws: Tensor, transforms: tuple[TransformName, ...], *, probability: float
) -> Tensor:
    """Return images [B, C, H, W] transformed, each by its own row of ``draws`` [B, 10] in [0, 1).

    Each transform is applied to an image with the given probability, on its own; an image that none is applied to comes
    back bit for bit. Of RGBA, colour leaves alpha alone, and what translation and cutout bare is transparent.
    """
    for name in transforms:
        gate, *numbers = draws[:, _COLUMNS[name]].unbind(1)
        chosen = (gate < probability)[:, None, None, None]
        if name == "colour":
            changed = _colour(images, *numbers)
        elif name == "translation":
            changed = _translate(images, *numbers)
        else:
            changed = _cut_out(images, *numbers)
        images = torch.where(chosen, changed, images)
    return images


def transform_for(
    transforms: tuple[TransformName, ...],
    probability: float,
    count: int,
    generator: torch.Generator,
    *,
    rows: Tensor | slice = slice(None),
) -> Transform:
    """Return `diffaugment` as a function of images alone, the ``rows`` of ``count``; row i of the generator's draws is image i's."""
    if not transforms:
        return unchanged
    draws = torch.rand(count, DRAWS, generator=generator)[rows]

    def transform(images: Tensor) -> Tensor:
        return diffaugment(images, draws.to(images.device), transforms, probability=probability)

    return transform


def unchanged(images: Tensor) -> Tensor:
    """Return the images."""
    return images


def horizontal_flip(images: Tensor, draws: Tensor) -> Tensor:
    """Return images [B, C, H, W], each flipped left to right if its one of ``draws`` [B] in [0, 1) is below one half."""
    flipped = (draws < 0.5).to(images.device)
    return torch.where(flipped[:, None, None, None], images.flip(3), images)


def random_shift(images: Tensor, draws: Tensor, most: int) -> Tensor:
    """Return images [B, C, S, S], each moved by up to ``most`` pixels either way along both axes, its edges repeated.

    Parameters
    ----------
    draws
        [B, 2] in [0, 1): down and to the right, in parts of 2 ``most`` + 1 equal ones.
    """
    by = (draws * (2 * most + 1)).long().to(images.device) - most  # [B, 2]
    places = torch.arange(images.shape[-1], device=images.device)
    rows, columns = (places - by[:, axis, None] for axis in (0, 1))  # [B, S]
    rows, columns = (each.clamp(0, len(places) - 1) for each in (rows, columns))
    number = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _colour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Add up to 0.5 either way, then scale distances from each pixel's grey by 0 to 2 and from the mean by 0.5 to 1.5."""
    brightness, saturation, contrast = (
        number.to(images.dtype)[:, None, None, None]
        for number in (brightness, saturation, contrast)
    )
    colours, alpha = _apart(images)
    colours = colours + (brightness - 0.5)
    if colours.shape[1] > 1:  # grey has no saturation
        grey = colours.mean(1, keepdim=True)
        colours = grey + (colours - grey) * (2 * saturation)
    mean = colours.mean((1, 2, 3), keepdim=True)
    colours = mean + (colours - mean) * (contrast + 0.5)
    return torch.cat([colours, alpha], 1)


def _translate(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Move by whole pixels, up to an eighth of the side each way."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) - _shift(down, height)  # [B, H], where from
    columns = torch.arange(width, device=images.device) - _shift(right, width)
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & (
        (columns >= 0) & (columns < width)
    )[:, None, None, :]
    # Sources outside are clamped and then covered, so each pixel's gradient goes to one place only: no order of sums.
    source = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    index = source.flatten(1)[:, None, :].expand(-1, images.shape[1], -1)
    moved = images.flatten(2).gather(2, index).view_as(images)
    return torch.where(inside, moved, _nothing(images))


def _cut_out(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Empty a rectangle of half the sides, whose centre lies anywhere in the image."""
    height, width = images.shape[2:]
    rows = _within(down, height, images.device)[:, None, :, None]
    columns = _within(right, width, images.device)[:, None, None, :]
    return torch.where(rows & columns, _nothing(images), images)


def _shift(draw: Tensor, side: int) -> Tensor:
    """Return whole shifts [B, 1] in -farthest ... farthest, all equally likely."""
    farthest = int(side * _FARTHEST + 0.5)
    return (draw * (2 * farthest + 1)).floor().long()[:, None] - farthest


def _within(draw: Tensor, side: int, device: torch.device) -> Tensor:
    """Return which positions [B, side] lie in the cut."""
    cut = int(side * _CUT + 0.5)
    first = (draw * (side + 1)).floor().long()[:, None] - cut // 2
    positions = torch.arange(side, device=device)
    return (positions >= first) & (positions < first + cut)


def _apart(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return colours [B, 1 or 3, H, W] and alpha [B, 0 or 1, H, W]."""
    count = images.shape[1] - (images.shape[1] == 4)
    return images[:, :count], images[:, count:]


def _nothing(images: Tensor) -> Tensor:
    """Return the pixel [1, C, 1, 1] of no image: middle grey (the paper's 0), transparent where there is alpha."""
    colours, alpha = (
        part.new_full((1, part.shape[1], 1, 1), value)
        for part, value in zip(_apart(images), (0.0, -1.0), strict=True)
    )
    return torch.cat([colours, alpha], 1)
