"""A look at a search while it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixmend.completion.frame import Frame
from pixmend.completion.parts import Part
from pixmend.images import Channels, Pixels, to_channels, to_eight_bits, to_pixels, to_tensor


@dataclass(frozen=True, eq=False)
class Preview:
    """A search after `step` updates, which can be drawn; drawing costs a pass of G, so it is done for who asks.

    Attributes
    ----------
    step
        Updates so far.
    parts, frames
        What is searched: a row each.
    losses
        The least objective so far of each part.
    drawn
        Draws the best so far, [B, C, S, S] in [-1, 1].
    background
        Behind transparent pixels.
    """

    step: int
    parts: Sequence[Part]
    frames: Sequence[Frame]
    losses: Sequence[float]
    drawn: Callable[[], Tensor]
    background: tuple[int, int, int]

    def pictures(self) -> list[Pixels]:
        """Return each part's window with its hole filled by the best so far, not blended: uint8 [h, w, C]."""
        return [
            _filled(part, frame, drawn.cpu(), part.job.picture.channels, self.background)
            for part, frame, drawn in zip(self.parts, self.frames, self.drawn(), strict=True)
        ]


def _filled(
    part: Part, frame: Frame, drawn: Tensor, channels: Channels, background: tuple[int, int, int]
) -> Pixels:
    shown = to_eight_bits(part.piece.picture.pixels).copy()
    native = to_tensor(to_channels(to_pixels(drawn), channels, background))
    put = to_pixels(frame.put_back(native, torch.zeros(len(native), *shown.shape[:2])))
    shown[part.window.own] = put[part.window.own]
    return shown
