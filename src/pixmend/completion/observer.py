"""What a caller sees of an estimator while it works, and when the caller ends it."""

import math
import time
from collections.abc import Callable, Collection, Sequence

from torch import Tensor

OnStep = Callable[[int, Sequence[float], Callable[[], Tensor]], None]
"""Called with the updates so far, each image's least objective, and what generates the best images so far, [B, C, S, S]."""


class Observer:
    """Follows the estimator of one batch; the best images are kept after the steps ``snapshots``."""

    def __init__(
        self,
        on_step: OnStep,
        should_stop: Callable[[], bool],
        *,
        snapshots: Collection[int] = (),
        seconds: float | None = None,
    ) -> None:
        self.snapshots = snapshots
        self.on_step = on_step
        self._should_stop = should_stop
        self._last = time.perf_counter()
        self._end = math.inf if seconds is None else self._last + seconds

    def should_end(self) -> bool:
        """Return whether to end after this step; a step that would end too late is not begun."""
        now = time.perf_counter()
        late = now + (now - self._last) > self._end
        self._last = now
        return late or self._should_stop()

    def out_of_time(self) -> bool:
        """Return whether to end what precedes or follows a search."""
        return time.perf_counter() > self._end or self._should_stop()
