"""Server-sent events of a search, from the device thread to the event loop."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse

from pixmend.completion import Preview
from pixmend.images import Pixels, to_eight_bits
from pixmend.serve.answers import data_png, json_bytes

_INTERVAL = 0.1  # seconds between previews
_SNAPSHOTS = 4  # that wait for a slow client; the answer has all of them
_KEEPALIVE = 10.0  # seconds of silence before a comment is sent


def event(name: str, data: dict[str, Any] | bytes) -> bytes:
    """Return a server-sent event; ``data`` in bytes is JSON."""
    content = data if isinstance(data, bytes) else json_bytes(data)
    return b"event: %s\ndata: %s\n\n" % (name.encode(), content)


class SearchEvents:
    """The events of a search: every snapshot, and the newest preview not sent yet."""

    def __init__(self, snapshots: tuple[int, ...]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ready = asyncio.Event()
        self._lock = threading.Lock()
        self._queue: deque[bytes] = deque(maxlen=_SNAPSHOTS)
        self._newest: bytes | None = None
        self._snapshots = snapshots
        self._next = 0.0
        self._canvas: Pixels | None = None

    def __call__(self, preview: Preview) -> None:
        """Add a search step; called from the device thread."""
        start = time.monotonic()
        is_snapshot = preview.step in self._snapshots
        if not is_snapshot and start < self._next:
            return
        loss = sum(preview.losses)
        data = {"step": preview.step, "loss": loss, "image": self._image(preview)}
        with self._lock:
            if is_snapshot:
                self._queue.append(event("snapshot", data))
            else:
                self._newest = event("step", data)
        try:
            self._loop.call_soon_threadsafe(self._ready.set)
        except RuntimeError:  # the loop has ended, and its clients with it
            return
        # Previews take at most a fifth of the time, however large the image.
        self._next = start + max(_INTERVAL, 5 * (time.monotonic() - start))

    async def until(self, done: "asyncio.Future[Any]") -> AsyncIterator[bytes]:
        """Yield events until ``done``, then those that remain."""
        done.add_done_callback(lambda _: self._ready.set())
        while not done.done():
            try:
                await asyncio.wait_for(self._ready.wait(), _KEEPALIVE)
            except TimeoutError:
                yield b": still here\n\n"
                continue
            self._ready.clear()
            for each in self._take():
                yield each
        for each in self._take():
            yield each

    def _take(self) -> list[bytes]:
        with self._lock:
            events = [*self._queue, *([] if self._newest is None else [self._newest])]
            self._queue.clear()
            self._newest = None
            return events

    def _image(self, preview: Preview) -> str:
        """Return the whole image with the windows generated so far."""
        if self._canvas is None:
            self._canvas = to_eight_bits(preview.parts[0].task.picture.pixels).copy()
        for part, picture in zip(preview.parts, preview.pictures(), strict=True):
            window = part.window
            self._canvas[window.rows, window.columns][window.own] = picture[window.own]
        return data_png(self._canvas)


class EventResponse(StreamingResponse):
    """A stream of events."""

    media_type = "text/event-stream"
