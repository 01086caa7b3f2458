"""The images and masks of a call from Python, of any type, and answers of the same types."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pixmend.completion.output_files import Completions
from pixmend.completion.result import Completion
from pixmend.completion.task import Task, open_mask
from pixmend.errors import MaskError
from pixmend.images import open_image


def complete_images(
    complete: Callable[[list[Task]], Iterator[Completion]],
    image: Any,  # noqa: ANN401 - as documented
    mask: Any,  # noqa: ANN401
    seed: int,
) -> Any:  # noqa: ANN401
    """Complete one image, or several: see `pixmend.api.Model.complete`."""
    several = isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4
    images = list(image) if several else [image]
    own = several and (isinstance(mask, list | tuple) or getattr(mask, "ndim", 0) > 2)
    masks = list(mask) if own else [mask] * len(images)
    if len(masks) != len(images):
        raise MaskError(f"mask: {len(masks)} for {len(images)} images; give one, or one each")
    tasks: list[Task] = []
    for each, its_mask in zip(images, masks, strict=True):
        picture = open_image(_to_array(each))
        known = open_mask(_to_array(its_mask), picture, seed=seed)
        number = f" {len(tasks) + 1}" if several and not picture.path else ""
        tasks.append(Task(picture, known, picture.name + number))
    results = Completions(
        replace(result, like=each if hasattr(each, "ndim") else None)
        for each, result in zip(images, complete(tasks), strict=True)
    )
    return results if several else results[0]


def _to_array(value: Any) -> Any:  # noqa: ANN401
    """Return a tensor [H, W] or [C, H, W] as an array, and anything else as it is."""
    if not hasattr(value, "is_floating_point"):  # files too have a method "detach"
        return value
    small = value.is_floating_point() and value.element_size() < 4  # NumPy has no bfloat16
    array = (value.float() if small else value).detach().cpu().numpy()
    return np.moveaxis(array, 0, -1) if array.ndim == 3 else array
