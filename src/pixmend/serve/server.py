"""The server process: its socket and its shutdown."""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from pixmend.errors import SettingsError
from pixmend.serve.connections import Connection, LogLimit, max_connections


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, for port 0 at any free one; SettingsError where there is none."""
    if not 0 <= port <= 65535:
        raise SettingsError(f"port {port}: needs a number from 0 to 65535")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        message = "is no address or name of this machine; choose another --host"
        raise SettingsError(f"host {host}: {message}") from error
    try:
        dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=256, dualstack_ipv6=dual)
    except OSError as error:
        option = "--host" if error.errno == errno.EADDRNOTAVAIL else "--port"
        raise SettingsError(
            f"host {host}, port {port}: cannot listen there ({error}); choose another {option}"
        ) from error


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
        """Leave on SIGTERM and SIGINT."""
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
