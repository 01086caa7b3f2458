"""Connections: how many there may be, and how long their clients may take."""

import functools
import logging
import math
import resource
from collections import Counter
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from pixmend.serve.security import PIECE

_HEAD_SECONDS = 20.0  # from a connection, or its last response, to the head of a request
_READ_SECONDS = 10.0  # in which a client must read a piece of a response, or half a piece
_READ_BYTES = PIECE // 2
_LINES_A_MINUTE = 600  # of each logger and level


class Connection(H11Protocol):
    """A connection whose client must send requests, and read responses, in time.

    Where there are too many, the one that has waited longest for a request makes room.
    """

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:  # noqa: ANN401 - narrower in uvicorn
        """Make room for the connection and watch it."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # the next piece waits until the last one is read
        self._waiting_since, self._unread = self.loop.time(), math.inf
        others = cast("set[Connection]", self.connections)
        if len(others) > max_connections():
            waiting = (each for each in others if each.is_waiting)
            oldest = min(waiting, key=lambda each: each._waiting_since)
            others.discard(oldest)
            oldest.transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._waiting_since = self.loop.time()
        super().on_response_complete()

    def resume_writing(self) -> None:
        """Go on with the response: the client has read everything."""
        self._unread = math.inf
        super().resume_writing()

    def _watch(self) -> None:
        unread = self.transport.get_write_buffer_size()
        late = self.is_waiting and self.loop.time() > self._waiting_since + _HEAD_SECONDS
        if late or (unread and unread > self._unread - _READ_BYTES):
            self.transport.abort()
        self._unread = unread or math.inf
        self._timer = self.loop.call_later(_READ_SECONDS, self._watch)


class LogLimit(logging.Filter):
    """Bounds the lines a minute of each logger and level, and says where it leaves some out."""

    def __init__(self) -> None:
        super().__init__()
        self._minute, self._lines = 0, Counter[tuple[str, int]]()

    def filter(self, record: logging.LogRecord) -> bool:
        if self._minute != (minute := int(record.created // 60)):
            self._minute = minute
            self._lines.clear()
        key = record.name, record.levelno
        self._lines[key] += 1
        if self._lines[key] == _LINES_A_MINUTE:
            record.msg, record.args = (
                f"{record.getMessage()} (the rest of this minute: left out)",
                (),
            )
        return self._lines[key] <= _LINES_A_MINUTE


@functools.cache
def max_connections() -> int:
    """Return how many connections are kept: half of the files that the process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(files, 2048) // 2 if files > 0 else 1024
