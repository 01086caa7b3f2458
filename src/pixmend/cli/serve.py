"""pixmend serve."""

import errno
import ipaddress
import re
import secrets
import socket
from typing import Annotated

from typer import Argument, Option

from pixmend.cli.options import Device, check_model
from pixmend.cli.terminal import stdout
from pixmend.errors import SettingsError, install_hint

_MIN_TOKEN = 16  # characters, where others can reach the server

Models = Annotated[
    list[str],
    Argument(metavar="MODEL...", help="Model files, run directories, URLs or bundled models."),
]
Host = Annotated[str, Option(help="Listen address; any but loopback requires a token.")]
Port = Annotated[int, Option(help="Port; 0 takes a free one.")]
Token = Annotated[
    str,
    Option(envvar="PIXMEND_TOKEN", help="Bearer token; random if required and not given."),
]
AllowHost = Annotated[list[str] | None, Option(help="More names of this server; may be repeated.")]
CorsOrigin = Annotated[
    list[str] | None, Option(help="Origins whose pages may call the API; may be repeated.")
]
RootPath = Annotated[str, Option(help="Path under which a proxy serves this server: /pixmend.")]
MaxWork = Annotated[int, Option(help="Maximum windows x answers x model size^2 of a request.")]
MaxMemory = Annotated[float, Option("--max-memory-mib", help="Maximum memory of all answers, MiB.")]
MaxQueue = Annotated[int, Option(help="Maximum requests in the server; more get status 503.")]
Deadline = Annotated[float, Option(help="Maximum response time, seconds; searches end at 4/5.")]
BatchWait = Annotated[float, Option("--batch-wait-ms", help="Maximum wait to fill a batch, ms.")]


def serve(
    models: Models,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    token: Token = "",
    allow_host: AllowHost = None,
    cors_origin: CorsOrigin = None,
    root_path: RootPath = "",
    max_body: Annotated[float, Option("--max-body-mib", help="Maximum request body, MiB.")] = 16,
    max_pixels: Annotated[int, Option(help="Maximum pixels per image.")] = 4_000_000,
    max_candidates: Annotated[int, Option(help="Maximum candidates per request, up to 64.")] = 16,
    max_steps: Annotated[int, Option(help="Maximum search steps.")] = 5000,
    max_seconds: Annotated[float, Option(help="Maximum search time, seconds.")] = 60,
    max_work: MaxWork = 16_000_000,
    max_memory: MaxMemory = 1024,
    max_queue: MaxQueue = 64,
    max_streams: Annotated[int, Option(help="Maximum concurrent streamed searches.")] = 8,
    deadline: Deadline = 120,
    batch: Annotated[int, Option(help="Maximum requests per batch.")] = 16,
    batch_wait: BatchWait = 5,
    drain: Annotated[float, Option(help="Shutdown grace period after SIGTERM, seconds.")] = 30,
    formats: Annotated[str, Option(help="Accepted image formats.")] = "png,jpeg,webp,bmp,gif,tiff",
    device: Device = "auto",
) -> None:
    """Serve a web page for painting holes and completing them, and an HTTP API (extra: serve)."""
    path, access_token = _root_path_for(root_path), _token_for(host, token)
    for model in models:
        check_model(model)
    with listen(host, port) as listener:  # errors come before torch is imported
        try:
            from pixmend import serve as room
        except ModuleNotFoundError as error:
            raise SettingsError(f"serve needs {error.name}; {install_hint('serve')}") from error
        limits = room.Limits(
            max_body, max_pixels, max_candidates, max_steps, max_seconds, max_work, max_memory,
            max_queue, max_streams, deadline, batch, batch_wait, drain,
            tuple(name.strip().upper() for name in formats.split(",") if name.strip()),
        )  # fmt: skip
        policy = room.AccessPolicy(
            frozenset({"127.0.0.1", "localhost", "::1", host, *(allow_host or [])}),
            literal_hosts=host in ("0.0.0.0", "::"),  # noqa: S104 - compared, not bound
            token=access_token,
            origins=frozenset(cors_origin or []),
        )
        catalogue = room.Catalogue.load(models, device=device)
        room.start_log()
        app = room.create_app(catalogue, limits, policy, root_path=path)
        _print_url(host, listener.getsockname()[1], policy.token)
        room.Server(app).serve_on(listener)


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


def _print_url(host: str, port: int, token: str | None) -> None:
    name = f"[{host}]" if ":" in host else host
    # The fragment stays in the browser: it appears in no log.
    stdout.print(f"http://{name}:{port}/{f'#token={token}' if token else ''}")
    if token:
        stdout.print(f"for programs: Authorization: Bearer {token}")


def _token_for(host: str, token: str) -> str | None:
    if not is_loopback(host) and 0 < len(token) < _MIN_TOKEN:
        raise SettingsError(
            f"token: {len(token)} characters can be guessed; give {_MIN_TOKEN} or more, or none "
            "for a random one"
        )
    return token or (None if is_loopback(host) else secrets.token_urlsafe(24))


def _root_path_for(root_path: str) -> str:
    path = root_path.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise SettingsError(f"root-path {root_path}: needs a path such as /pixmend")
    return path
