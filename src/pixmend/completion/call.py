"""The images and masks of a call from Python, of any type, and answers of the same types."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pixmend.completion.output_files import Completions
from pixmend.completion.result import Completion
from pixmend.completion.task import Task, open_mask
from pixmend.errors import MaskError, counted
from pixmend.images import open_image


def complete_images(
    complete: Callable[[list[Task]], Iterator[Completion]],
    image: Any,  # noqa: ANN401 - as documented
    mask: Any,  # noqa: ANN401
    seed: int,
    values: tuple[float, float] | None = None,
) -> Any:  # noqa: ANN401
    """Complete one image, or several: see `pixmend.api.Model.complete`."""
    several = isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4
    images = list(image) if several else [image]
    masks = _masks_for(images, mask) if several else [mask]
    tasks: list[Task] = []
    for each, its_mask in zip(images, masks, strict=True):
        picture = open_image(_to_array(each), values)
        known = open_mask(_to_array(its_mask), picture, seed=seed)
        number = f" {len(tasks) + 1}" if several and not picture.path else ""
        tasks.append(Task(picture, known, picture.name + number))
    results = Completions(
        replace(result, like=each if hasattr(each, "ndim") else None)
        for each, result in zip(images, complete(tasks), strict=True)
    )
    return results if several else results[0]


def _masks_for(images: list[Any], mask: Any) -> list[Any]:  # noqa: ANN401
    """Return a mask for each image, from one for all or several."""
    several = isinstance(mask, list | tuple) or getattr(mask, "ndim", 0) > 2
    masks = list(mask) if several else [mask] * len(images)
    if len(masks) != len(images):
        count = counted(len(images), "image")
        raise MaskError(f"mask: {len(masks)} for {count}; give one, or one each")
    return masks


def _to_array(value: Any) -> Any:  # noqa: ANN401
    """Return a tensor [H, W] or [C, H, W], or what NumPy reads, as an array; others as they are."""
    if not hasattr(value, "is_floating_point"):  # files too have a method "detach"
        return np.asanyarray(value) if hasattr(value, "__array__") else value
    small = value.is_floating_point() and value.element_size() < 4  # NumPy has no bfloat16
    array = (value.float() if small else value).detach().cpu().numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array
