"""What the model sees of an image: windows around its holes, and in each a square at the model's size, with the way back."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixmend.completion.detail import enlarge, resize
from pixmend.completion.task import Task, View
from pixmend.images import Fit
from pixmend.masks import Mask


@dataclass(frozen=True, eq=False)
class Window:
    """A rectangle of the image, in pixels, and the missing pixels it fills."""

    rows: slice
    columns: slice
    own: NDArray[np.bool_]  # [h, w]: its missing pixels that no other window fills


@dataclass(frozen=True)
class WindowTask:
    """A window of a task's image, ``piece``, as a task of its own."""

    task: Task
    window: Window
    piece: Task


def window_tasks(task: Task, view: View, size: int) -> list[WindowTask]:
    """Return the windows that a model of ``size`` x ``size`` pixels completes of a task; none if nothing is missing."""
    hole = task.mask.hole
    if not hole.any():
        return []
    if view == "whole":
        height, width = hole.shape
        return [WindowTask(task, Window(slice(0, height), slice(0, width), hole), task)]
    return [
        WindowTask(task, window, _cut_out(task, window)) for window in windows_around(hole, size)
    ]


def _cut_out(task: Task, window: Window) -> Task:
    at = window.rows, window.columns
    return replace(task, picture=task.picture.part(*at), mask=Mask(task.mask.known[at]))


def windows_around(hole: NDArray[np.bool_], size: int) -> list[Window]:
    """Return windows that fill each missing pixel of ``hole`` [H, W] once, for a model of ``size`` x ``size`` pixels.

    A window is twice as wide as its hole, as in the centre mask of Yeh 2017, but no smaller than the model. It is moved, then cut, to
    lie inside the image. Holes (pixels that touch by side or corner) share a window that is no larger than the largest of them needs.
    """
    from scipy.ndimage import find_objects, label

    labels, count = label(hole, structure=np.ones((3, 3)))
    # [N, 4]: first row, first column, last row + 1, last column + 1
    boxes = np.array([[rows.start, columns.start, rows.stop, columns.stop] for rows, columns in find_objects(labels)])  # fmt: skip
    largest = max(hole.shape)
    groups = _group_holes(boxes, size, largest)
    group_of = np.zeros(count + 1, np.intp)  # of each label; 0 for what is known
    for number, group in enumerate(groups, start=1):
        group_of[group + 1] = number
    numbers = group_of[labels]
    windows = []
    for number, group in enumerate(groups, start=1):
        start, stop = boxes[group, :2].min(0), boxes[group, 2:].max(0)
        side = int(_sides((stop - start).max(), size, largest))
        rows, columns = (
            _place_window(int(first), int(last), side, length)
            for first, last, length in zip(start, stop, hole.shape, strict=True)
        )
        windows.append(Window(rows, columns, numbers[rows, columns] == number))
    return windows


def _sides(extents: Any, size: int, largest: int) -> NDArray[np.intp]:  # noqa: ANN401 - a number or an array
    """Return the sides of windows for holes of these sizes."""
    return np.asarray(np.minimum(np.maximum(size, 2 * extents), largest))


def _group_holes(boxes: NDArray[np.intp], size: int, largest: int) -> list[NDArray[np.intp]]:
    """Return the holes (row numbers of ``boxes``) of each window, the largest hole first."""
    from scipy.spatial import KDTree

    extents = (boxes[:, 2:] - boxes[:, :2]).max(1)
    middles = (boxes[:, 2:] + boxes[:, :2]) / 2
    tree = KDTree(middles)
    waiting, groups = np.ones(len(boxes), bool), []
    for seed in np.argsort(-extents, kind="stable"):
        if not waiting[seed]:
            continue
        side = _sides(extents[seed], size, largest)
        # No box further off fits into a window of this side with the seed.
        others = np.sort(tree.query_ball_point(middles[seed], side, p=np.inf))
        others = others[waiting[others]]
        apart = np.maximum(boxes[others, :2] - boxes[seed, 2:], boxes[seed, :2] - boxes[others, 2:])
        distance = np.where(others == seed, -largest, apart.max(1))
        near = others[np.argsort(distance, kind="stable")]
        # The nearest, while their common box needs no larger window.
        start = np.minimum.accumulate(boxes[near, :2])
        stop = np.maximum.accumulate(boxes[near, 2:])
        group = near[_sides((stop - start).max(1), size, largest) <= side]
        waiting[group] = False
        groups.append(group)
    return groups


def _place_window(first: int, last: int, side: int, length: int) -> slice:
    """Return a span of ``side`` around first ... last - 1, moved, then cut, to lie in 0 ... length - 1."""
    start = min(max((first + last - side) // 2, 0), max(length - side, 0))
    return slice(start, min(start + side, length))


@dataclass(frozen=True)
class Frame:
    """The rectangle of an image, in pixels, that the model sees; it may reach over the edges."""

    top: int
    left: int
    height: int
    width: int
    outside_known: bool  # the area beyond the edges is background (of padded images), not missing

    def view(
        self, image: Tensor, known: Tensor, size: int, background: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the frame's content at the model's size, and what is known of it.

        A model pixel averages the known image pixels that it covers, and is known by their share: a mask finer than the
        model's pixels must not vanish.
        From [C, H, W] in [-1, 1], bool [H, W] and the colour beyond the edges, [C], to [C, size, size] and the known share,
        float [1, size, size].
        """
        inside = self._cut(known[None].float(), 1.0 if self.outside_known else 0.0)
        content = self._cut(image - background[:, None, None], 0.0) + background[:, None, None]
        share = resize(inside, (size, size))
        mean = resize(content * inside, (size, size)) / share.clamp_min(1e-6)
        return torch.where(share > 1e-6, mean, torch.zeros_like(mean)), share

    def put_back(self, generated: Tensor, image: Tensor, known: Tensor | None = None) -> Tensor:
        """Return ``image`` [C, H, W] with the frame replaced by ``generated`` [C, size, size].

        With ``known``, bool [H, W], it is enlarged with the detail of the known pixels.
        """
        _, height, width = image.shape
        if known is None:
            enlarged = resize(generated, (self.height, self.width))
        else:
            inside = self._cut(known[None].float(), 0.0)[0] > 0
            enlarged = enlarge(generated, self._cut(image, 0.0), inside)
        top, left = max(0, self.top), max(0, self.left)
        bottom, right = min(height, self.top + self.height), min(width, self.left + self.width)
        result = image.clone()
        part = enlarged[:, top - self.top : bottom - self.top, left - self.left : right - self.left]
        result[:, top:bottom, left:right] = part
        return result

    def _cut(self, image: Tensor, fill: float) -> Tensor:
        _, height, width = image.shape
        right, bottom = self.left + self.width - width, self.top + self.height - height
        # Negative padding cuts.
        return F.pad(image, (-self.left, right, -self.top, bottom), value=fill)


def frame_for(known: Tensor, fit: Fit) -> Frame:
    """Return the frame of an image with known pixels bool [H, W], as the model's training images were framed.

    ``stretch``: the whole image. ``pad``: the square around it, background known. ``crop``: the largest square inside, moved to the hole.
    For a longer hole it is a square around the hole, the area beyond the edges missing; and the square around the
    image, where that would halve the share of known pixels.
    """
    height, width = known.shape
    if fit == "stretch":
        return Frame(0, 0, height, width, outside_known=False)
    if fit == "pad":
        side = max(height, width)
        return Frame((height - side) // 2, (width - side) // 2, side, side, outside_known=True)
    rows = torch.nonzero((~known).any(1)).flatten()
    columns = torch.nonzero((~known).any(0)).flatten()
    first_row, last_row = int(rows[0]), int(rows[-1]) + 1
    first_column, last_column = int(columns[0]), int(columns[-1]) + 1
    side = max(min(height, width), last_row - first_row, last_column - first_column)
    top = _place(first_row, last_row, side, height)
    left = _place(first_column, last_column, side, width)
    seen = known[max(0, top) : top + side, max(0, left) : left + side]
    if 2 * seen.float().mean() < known.float().mean():
        side = max(height, width)
        top, left = (height - side) // 2, (width - side) // 2
    return Frame(top, left, side, side, outside_known=False)


def _place(first: int, last: int, side: int, length: int) -> int:
    """Return the start of a span of ``side``: the image's middle, moved as little as the hole needs."""
    start = (length - side) // 2
    if side >= length:
        return start
    start = min(start, first) if first < start else max(start, last - side)
    return min(max(start, 0), length - side)
