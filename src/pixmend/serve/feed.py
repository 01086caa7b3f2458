"""What a watched search tells its client, from the device's thread to the event loop."""

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import numpy as np

from pixmend.completion import Preview
from pixmend.images import Pixels, to_eight_bits
from pixmend.serve.answers import data_png

_PULSE = 0.1  # seconds between pictures
_QUIET = 10.0  # seconds after which a client is told that nothing is wrong


def event(name: str, data: dict[str, Any]) -> bytes:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class Feed:
    """Events of one search. Of pictures that a slow client has not taken, the newest is kept; of the others, all."""

    def __init__(self, snapshots: tuple[int, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._lock = threading.Lock()
        self._kept: deque[bytes] = deque()
        self._newest: bytes | None = None
        self._snapshots = snapshots
        self._next = 0.0
        self._canvas: Pixels | None = None

    def __call__(self, glimpse: Preview) -> None:
        """Note a step; called by the device's thread."""
        begun = time.monotonic()
        kept = glimpse.step in self._snapshots
        if not kept and begun < self._next:
            return
        told = {
            "step": glimpse.step,
            "loss": _finite(sum(glimpse.losses)),
            "image": self._drawn(glimpse),
        }
        with self._lock:
            if kept:
                self._kept.append(event("snapshot", told))
            else:
                self._newest = event("step", told)
        self._wake()
        # Watching may take a fifth of the time, however large the image.
        self._next = begun + max(_PULSE, 5 * (time.monotonic() - begun))

    async def until(self, done: "asyncio.Future[Any]") -> AsyncIterator[bytes]:
        """Yield events until ``done``, and what is left then."""
        done.add_done_callback(lambda _: self._ready.set())
        while True:
            try:
                await asyncio.wait_for(self._ready.wait(), _QUIET)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            self._ready.clear()
            for part in self._take():
                yield part
            if done.done():
                for part in self._take():
                    yield part
                return

    def _take(self) -> list[bytes]:
        with self._lock:
            newest = [] if self._newest is None else [self._newest]
            parts = [*self._kept, *newest]
            self._kept.clear()
            self._newest = None
            return parts

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop has ended, and its clients with it
            return

    def _drawn(self, glimpse: Preview) -> str:
        """Return the whole image with what is drawn of its windows so far."""
        if self._canvas is None:
            self._canvas = to_eight_bits(glimpse.parts[0].task.picture.pixels).copy()
        for part, picture in zip(glimpse.parts, glimpse.pictures(), strict=True):
            window = part.window
            self._canvas[window.rows, window.columns][window.own] = picture[window.own]
        return data_png(self._canvas)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
