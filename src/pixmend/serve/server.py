"""The server process: its socket and its shutdown."""

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
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, for port 0 at any free one; a taken address is SettingsError."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        dual = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=256, dualstack_ipv6=dual)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"host {host}, port {port}: cannot listen there ({error}); choose another --port"
        ) from error


class Server(uvicorn.Server):
    """A uvicorn server whose first signal drains it, and whose second ends it at once."""

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
        """Serve until a signal arrives or `leave` is called."""
        with contextlib.closing(listening):
            asyncio.run(self.serve([listening]))

    def leave(self) -> None:
        """Refuse new requests, answer those inside, and end."""
        self._worker.drain(self._drain)
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave on SIGTERM and SIGINT."""
        loop = asyncio.get_running_loop()
        # Only the main thread can handle signals.
        with contextlib.suppress(RuntimeError, ValueError):
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, self.leave)
        yield
