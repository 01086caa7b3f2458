"""Where a run stands, as whoever watches it is told after every step."""

from dataclasses import dataclass

from pixmend.training.monitor import Scores


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes
    ----------
    step, steps, images
        Iterations done and to do; training images that D has seen.
    loss_d, loss_g
        Means over the step's batch.
    images_per_second
        Since this sitting began.
    done
        Share of the run, by steps or by time, 0 to 1.
    event
        "resumed", "checkpoint", "rolled back", "stopped" or "done" when that is news; "" else.
    warning
        What the user should know, in words, when that is news; "" else.
    scores
        The monitor's, at a checkpoint; in the first process alone.
    """

    step: int
    steps: int
    images: int
    loss_d: float
    loss_g: float
    images_per_second: float
    done: float
    event: str = ""
    warning: str = ""
    scores: Scores | None = None
