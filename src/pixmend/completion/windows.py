"""Which parts of an image are completed, each as an image of its own: all of it, or squares around its holes."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

View = Literal["whole", "window"]
VIEWS: tuple[View, ...] = ("whole", "window")


@dataclass(frozen=True, eq=False)
class Window:
    """A rectangle of the image, and the missing pixels that are filled from it.

    Attributes
    ----------
    rows, columns
        Where it lies, in pixels of the image.
    own
        bool [h, w]: of the pixels that are missing in it, those that no other window fills.
    """

    rows: slice
    columns: slice
    own: NDArray[np.bool_]


def whole_window(hole: NDArray[np.bool_]) -> Window:
    """Return the window that is the whole image, of which ``hole`` [H, W] is missing."""
    height, width = hole.shape
    return Window(slice(0, height), slice(0, width), hole)


def windows_around(hole: NDArray[np.bool_], size: int) -> list[Window]:
    """Return windows that fill each missing pixel of ``hole`` [H, W] once, for a model of ``size`` x ``size`` pixels.

    The side of a window is twice that of its hole, as a quarter of the area is missing in the centre mask of Yeh 2017, but no less than the
    model's: nothing is enlarged that need not be. It is moved, and then cut, to lie inside the image. Holes (pixels that touch by side or
    corner) share a window where that makes it no larger than the largest of them needs.
    """
    from scipy.ndimage import find_objects, label

    labels, count = label(hole, structure=np.ones((3, 3)))
    # [N, 4]: first row, first column, last row + 1, last column + 1
    boxes = np.array([[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in find_objects(labels)])  # fmt: skip
    largest = max(hole.shape)
    groups = _shared(boxes, size, largest)
    group_of = np.zeros(count + 1, np.intp)  # of each label; 0 for what is known
    for number, group in enumerate(groups, start=1):
        group_of[group + 1] = number
    numbers = group_of[labels]
    windows = []
    for number, group in enumerate(groups, start=1):
        start, stop = boxes[group, :2].min(0), boxes[group, 2:].max(0)
        side = int(_sides((stop - start).max(), size, largest))
        rows, columns = (
            _placed(int(first), int(last), side, length)
            for first, last, length in zip(start, stop, hole.shape, strict=True)
        )
        windows.append(Window(rows, columns, numbers[rows, columns] == number))
    return windows


def _sides(extents: Any, size: int, largest: int) -> NDArray[np.intp]:  # noqa: ANN401 - a number or an array
    """Return the sides of windows for holes of these sizes; none is larger than the image."""
    return np.asarray(np.minimum(np.maximum(size, 2 * extents), largest))


def _shared(boxes: NDArray[np.intp], size: int, largest: int) -> list[NDArray[np.intp]]:
    """Return the holes (rows of ``boxes``) of each window, the largest hole's first."""
    from scipy.spatial import KDTree

    extents = (boxes[:, 2:] - boxes[:, :2]).max(1)
    middles = (boxes[:, 2:] + boxes[:, :2]) / 2
    tree = KDTree(middles)
    waiting, groups = np.ones(len(boxes), bool), []
    for seed in np.argsort(-extents, kind="stable"):
        if not waiting[seed]:
            continue
        side = _sides(extents[seed], size, largest)
        # No box further off fits into a window of this side together with the seed.
        others = np.sort(tree.query_ball_point(middles[seed], side, p=np.inf))
        others = others[waiting[others]]
        apart = np.maximum(boxes[others, :2] - boxes[seed, 2:], boxes[seed, :2] - boxes[others, 2:])
        distance = np.where(others == seed, -largest, apart.max(1))
        near = others[np.argsort(distance, kind="stable")]
        # The nearest, as long as the box around them and the seed needs no larger window.
        start = np.minimum.accumulate(boxes[near, :2])
        stop = np.maximum.accumulate(boxes[near, 2:])
        group = near[_sides((stop - start).max(1), size, largest) <= side]
        waiting[group] = False
        groups.append(group)
    return groups


def _placed(first: int, last: int, side: int, length: int) -> slice:
    """Return a span of ``side`` around first ... last - 1, moved and then cut to lie in 0 ... length - 1."""
    start = min(max((first + last - side) // 2, 0), max(length - side, 0))
    return slice(start, min(start + side, length))
