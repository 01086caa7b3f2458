"""How far a run is: by its steps, or by the time it was given."""

import time
from dataclasses import dataclass, field

import torch

from pixmend.distributed import Group
from pixmend.training.settings import TrainSettings

_PARTS = 1_000_000  # a share of time as a whole number, for schedules that count


@dataclass
class Clock:
    """Tells all processes of a run the same; a run without ``minutes`` does not depend on time.

    Attributes
    ----------
    before
        Seconds of training in the sittings before this one.
    last
        Seconds that the end of a run will take, as its last checkpoint did: kept free, so that the run ends in time.
    told
        The share that was told last.
    """

    settings: TrainSettings
    group: Group
    before: float = 0.0
    last: float = 0.0
    started: float = field(init=False)
    told: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        """Start it."""
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of training so far, by this process's clock."""
        return self.before + time.monotonic() - self.started

    def done(self, step: int) -> float:
        """Return the share of the run that is done after ``step`` steps, 1 and more at its end; the first process's word counts."""
        share = step / self.settings.steps
        if self.settings.minutes is None:
            return share
        timed = (self.seconds + self.last) / (60 * self.settings.minutes)
        # A checkpoint that takes less than the one before gives time back, but learning rates do not rise again.
        told = torch.tensor([max(share, timed, self.told)], dtype=torch.float64)
        self.group.broadcast([told])
        self.told = float(told)
        return self.told

    def place(self, step: int, done: float) -> tuple[int, int]:
        """Return where the schedule of learning rates is: at which step of how many."""
        if self.settings.minutes is None:
            return step, self.settings.steps
        return min(round(done * _PARTS), _PARTS - 1), _PARTS
