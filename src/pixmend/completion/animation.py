"""Pictures of a search: previews while it runs, and animation frames afterwards."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pixmend.completion.result import Completion
from pixmend.completion.task import Task
from pixmend.completion.view import Frame, WindowTask
from pixmend.images import Pixels, to_channels, to_eight_bits, to_pixels, to_tensor


@dataclass(frozen=True, eq=False)
class Preview:
    """A batch after `step` updates; its pictures cost a pass of G, and are made on demand."""

    step: int
    parts: Sequence[WindowTask]  # the windows of the batch
    frames: Sequence[Frame]  # where the model's square lies in each
    losses: Sequence[float]  # least objective of each part so far
    generate: Callable[[], Tensor]  # returns the best images so far, [B, C, S, S] in [-1, 1]
    background: tuple[int, int, int]  # behind transparent pixels

    @property
    def tasks(self) -> list[Task]:
        return [part.task for part in self.parts]

    def pictures(self) -> list[Pixels]:
        """Return each part's window, its hole filled by the best image so far without blending: uint8 [h, w, C]."""
        return [
            self._filled(part, frame, image.cpu())
            for part, frame, image in zip(self.parts, self.frames, self.generate(), strict=True)
        ]

    def _filled(self, part: WindowTask, frame: Frame, image: Tensor) -> Pixels:
        native = to_channels(to_pixels(image), part.task.picture.channels, self.background)
        shown = to_eight_bits(part.piece.picture.pixels).copy()
        _fill(shown, part.window.own, frame, native)
        return shown


def animation_steps(steps: int, count: int = 48) -> tuple[int, ...]:
    """Return up to ``count`` steps from 0 to ``steps``, denser at the start, where a search moves most."""
    spread = np.geomspace(1, steps + 1, count).round().astype(int) - 1
    return tuple(np.unique(spread).tolist())


def animation_frames(completion: Completion) -> Iterator[Pixels]:
    """Yield uint8 [H, W, C]: the masked image, the hole filled by G after each recorded step, and the best answer."""
    yield completion.masked
    shown = to_eight_bits(completion.original.pixels)
    for step in sorted({step for each in completion.frames for step in each.images}):
        for window, search in zip(completion.windows, completion.frames, strict=True):
            if step in search.images:  # else the search of this window has ended
                shown = shown.copy()
                part = shown[window.rows, window.columns]
                _fill(part, window.own, search.frame, search.images[step])
        yield shown
    yield to_eight_bits(completion.candidates[0].picture.pixels)


def _fill(shown: Pixels, own: np.ndarray, frame: Frame, image: Pixels) -> None:
    """Overwrite the ``own`` [h, w] pixels of ``shown`` [h, w, C] with the model's image, enlarged."""
    blank = torch.zeros(shown.shape[-1], *own.shape)
    shown[own] = to_pixels(frame.put_back(to_tensor(image), blank))[own]
