"""Scalars and sample grids for TensorBoard: the extra ``tensorboard``."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pixmend.errors import SettingsError
from pixmend.images import Pixels
from pixmend.training.monitor import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Tracker:
    """Writes what the log and the monitor say under the step that they say it of."""

    def __init__(self, writer: "SummaryWriter") -> None:
        self._writer = writer

    def log(self, line: Mapping[str, float | None]) -> None:
        """Write a line of the log."""
        step = line["step"] or 0
        for key in ("loss_d", "loss_g", "images_per_second"):
            value = line[key]
            if value is not None:
                self._scalar(f"training/{key}", value, int(step))

    def checkpoint(self, step: int, grid: Pixels, scores: Scores | None) -> None:
        """Write a sample grid, uint8 [H, W, 3], and the scores where there are some; and flush."""
        self._writer.add_image("samples", grid, step, dataformats="HWC")
        if scores is not None:
            values = asdict(scores)
            values |= {f"hole psnr {mask}": psnr for mask, psnr in scores.psnr.items()}
            for key, value in values.items():
                if isinstance(value, float):
                    self._scalar(f"monitor/{key.replace(':', ' ')}", value, step)
        self._writer.flush()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)


def open_tracker(folder: Path) -> Tracker:
    """Return a tracker that writes into ``folder``.

    Raises
    ------
    SettingsError
        TensorBoard is not installed; names the extra.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise SettingsError(
            "tensorboard = true: TensorBoard is not installed; run pip install 'pixmend[tensorboard]' or leave it out"
        ) from error
    return Tracker(SummaryWriter(str(folder)))
