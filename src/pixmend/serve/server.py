"""The server process: its socket and its shutdown."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from pixmend.serve.connections import Connection, LogLimit, max_connections


class Server(uvicorn.Server):
    """A uvicorn server whose first signal drains it, and whose second ends it at once."""

    def __init__(self, app: FastAPI) -> None:
        service = app.state.service
        self._worker, self._drain = service.worker, service.limits.drain
        self._signalled = False
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                http=Connection,
                ws="none",
                backlog=max(1, max_connections() // 8),  # accepted at once, before any is closed
                timeout_keep_alive=15,
                timeout_graceful_shutdown=math.ceil(self._drain),
            )
        )

    def serve_on(self, listening: socket.socket) -> None:
        """Serve until a signal arrives or `leave` is called."""
        with contextlib.closing(listening):
            asyncio.run(self.serve([listening]))
        if self._signalled:
            os._exit(0)  # the end of the interpreter waits for threads, and takes seconds

    def leave(self) -> None:
        """Refuse new requests, answer those inside, and end."""
        self._worker.drain(self._drain)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        # Only the main thread can handle signals.
        with contextlib.suppress(RuntimeError, ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self._on_signal)
        yield

    def _on_signal(self) -> None:
        if self._signalled:
            os._exit(1)
        self._signalled = True
        self.leave()
        # Threads cannot be stopped: whatever they do, the process ends in time.
        timer = threading.Timer(self._drain, os._exit, [1])
        timer.daemon = True
        timer.start()


def start_log() -> None:
    """Write the log to stderr, with a bound on its lines."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogLimit())
