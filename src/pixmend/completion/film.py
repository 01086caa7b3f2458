"""A film of a search: the hole as it fills, step by step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pixmend.completion.frame import Frame
from pixmend.images import Pixels, to_eight_bits, to_pixels, to_tensor

if TYPE_CHECKING:
    from pixmend.completion.result import Completion


@dataclass(frozen=True, eq=False)
class FrameRecorder:
    """What G drew during the search of one window.

    Attributes
    ----------
    frame
        Where it was seen in the window.
    drawn
        Step -> G(z) of the best z by then, uint8 [size, size, C], in the channels of the image.
    """

    frame: Frame
    drawn: dict[int, Pixels]


def animation_steps(steps: int, count: int = 48) -> tuple[int, ...]:
    """Return up to ``count`` steps from 0 to ``steps``, further and further apart: a search moves most at its start."""
    spread = np.geomspace(1, steps + 1, count).round().astype(int) - 1
    return tuple(np.unique(spread).tolist())


def animation_frames(completion: "Completion") -> Iterator[Pixels]:
    """Yield uint8 [H, W, C]: the hole in a colour of its own, filled by what G had drawn after each step kept, and the best answer."""
    yield completion.masked
    shown = to_eight_bits(completion.original.pixels)
    for step in sorted({step for reel in completion.film for step in reel.drawn}):
        for window, reel in zip(completion.windows, completion.film, strict=True):
            if step not in reel.drawn:
                continue  # the search of this window has ended
            part = torch.zeros(shown.shape[-1], *window.own.shape)
            drawn = reel.frame.put_back(to_tensor(reel.drawn[step]), part)
            shown = shown.copy()
            shown[window.rows, window.columns][window.own] = to_pixels(drawn)[window.own]
        yield shown
    yield to_eight_bits(completion.candidates[0].picture.pixels)
