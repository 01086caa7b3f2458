"""A server process: its socket, and how it leaves."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI

from pixmend.errors import SettingsError


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 is any that is free.

    Raises
    ------
    SettingsError
        The address is not ours, or taken.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        made = socket.socket(family, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(256)
        except BaseException:
            made.close()
            raise
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"host {host}, port {port}: cannot listen there ({error}); choose another --port"
        ) from error
    return made


class Server(uvicorn.Server):
    """uvicorn's, with a way out of our own: the first signal drains, a second ends at once."""

    def __init__(self, app: FastAPI) -> None:
        service = app.state.service
        self._worker, self._drain = service.worker, service.limits.drain
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                lifespan="on",
                http="h11",
                ws="none",
                timeout_keep_alive=15,
                timeout_graceful_shutdown=int(self._drain) + 5,
            )
        )

    def serve_on(self, listening: socket.socket) -> None:
        """Serve until a signal comes or `leave` is called."""
        with contextlib.closing(listening):
            asyncio.run(self.serve([listening]))

    def leave(self) -> None:
        """Take no more requests, answer those inside, end."""
        self._worker.drain(self._drain)
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.leave)
        except (RuntimeError, ValueError):  # not the main thread
            pass
        yield
