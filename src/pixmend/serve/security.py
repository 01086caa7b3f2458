"""Who may call the server, how much one request may take, and how refusals are worded."""

import hmac
import logging
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Self
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixmend.errors import ImageError, SettingsError
from pixmend.images import FORMATS
from pixmend.serve.prometheus import Metrics

_log = logging.getLogger("pixmend.serve")
_PUBLIC_PATHS = ("/", "/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico")
PIECE = 2**18  # bytes of a response handed over at a time
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(eq=False)
class Problem(Exception):  # noqa: N818 - the term of RFC 9457
    """A refusal as RFC 9457 problem details; ``detail`` says what is wrong and what to do."""

    status: int
    kind: str
    detail: str
    retry_after: int | None = None  # seconds
    errors: list[dict[str, str]] | None = None  # of a form: field and message

    def __str__(self) -> str:
        return self.detail

    @classmethod
    def busy(cls, retry_after: int) -> Self:
        """Return the refusal of a full server; ``retry_after`` is in seconds."""
        message = "The server is busy; try again in a moment."
        return cls(503, "queue-full", message, retry_after=retry_after)

    @classmethod
    def late(cls) -> Self:
        """Return the refusal of a request that would be answered past its deadline."""
        message = "The server was too busy to answer within the time allowed; try again later."
        return cls(503, "deadline", message, retry_after=5)

    def to_json(self, root: str = "") -> dict[str, Any]:
        """Return the members of RFC 9457 section 3.1, and the invalid fields of a form."""
        body: dict[str, Any] = {
            "type": f"{root}/docs#{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return body if self.errors is None else {**body, "errors": self.errors}

    def response(self, scope: Scope, headers: Mapping[str, str] | None = None) -> JSONResponse:
        headers = dict(headers or {})
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = 'Bearer realm="pixmend"'
        content = self.to_json(scope.get("root_path", ""))
        return JSONResponse(content, self.status, headers, "application/problem+json")


@dataclass(frozen=True)
class Limits:
    """Bounds on requests; each is an option of `pixmend serve`."""

    body_mib: float = 16  # counted as the body arrives
    pixels: int = 4_000_000  # of an image or mask, read from its header before decoding
    candidates: int = 16  # of one request, as are steps and seconds
    steps: int = 5000
    seconds: float = 60
    work: int = (
        16_000_000  # pixels that a request has the model generate: windows x answers x size^2
    )
    memory_mib: float = 1024  # of the images and answers of all requests inside
    queue: int = 64  # requests inside the server that compute; one more is refused
    streams: int = 8  # streamed searches among them
    deadline: float = 120  # seconds until a request is answered or refused
    batch: int = 16  # requests completed together
    batch_wait_ms: float = 5  # how long the first of them waits for others
    drain: float = 30  # seconds from SIGTERM to the end of the process
    formats: tuple[str, ...] = FORMATS  # image formats that are opened

    def __post_init__(self) -> None:
        """Raise SettingsError for a value out of range or an unknown format."""
        minima = {"batch_wait_ms": 0.0, "drain": 0.0, "body_mib": 1 / 1024, "memory_mib": 1 / 1024}
        for field in fields(self):
            value, minimum = getattr(self, field.name), minima.get(field.name, 1.0)
            if not isinstance(value, tuple) and not minimum <= value < 1e12:
                raise SettingsError(
                    f"{field.name} = {value}: needs a number of at least {minimum:g}"
                )
        if self.candidates > 64:
            raise SettingsError(f"candidates = {self.candidates}: no more than 64")
        unknown = set(self.formats) - set(FORMATS)
        if unknown or not self.formats:
            names = ", ".join(sorted(unknown)) or "none"
            raise SettingsError(f"formats = {names}: needs some of {', '.join(FORMATS)}")

    @property
    def body(self) -> int:
        """Maximum request body in bytes."""
        return int(self.body_mib * 2**20)

    @property
    def side(self) -> int:
        """Maximum side of an image in pixels: a model sees squares, as large as a side squared."""
        return int(2 * self.pixels**0.5)

    def check_size(self, width: int, height: int) -> None:
        """Raise ImageError for an image or mask with too many pixels or too long a side."""
        if min(width, height) < 1 or width * height > self.pixels or max(width, height) > self.side:
            raise ImageError(
                f"{width} x {height} is not allowed here: an image has 1 to {self.pixels:,} "
                f"pixels, and sides of at most {self.side:,}"
            )


@dataclass(frozen=True)
class AccessPolicy:
    """Which requests are let in."""

    # Allowed names in the Host header, without port; this prevents DNS rebinding.
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "::1"})
    literal_hosts: bool = False  # allow any IP address as well: DNS cannot rebind one
    token: str | None = None  # bearer token that requests must carry
    origins: frozenset[str] = frozenset()  # whose pages may call the API; "*" is not supported

    def __post_init__(self) -> None:
        """Raise SettingsError for an origin that no browser sends."""
        for origin in self.origins:
            if not re.fullmatch(r"https?://[^/\s?#@]+", origin):
                raise SettingsError(
                    f"cors-origin {origin}: is no origin; give one such as https://example.org"
                )

    def check(self, scope: Scope, path: str) -> None:
        """Raise `Problem`: 421 for an unknown host, 403 for a foreign page, 401 for no token."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._allows_host(host):
            message = "This server does not go by that name; start it with --allow-host NAME."
            raise Problem(421, "host", message)
        foreign = origin is not None and urlsplit(origin).netloc != host
        # An <img> of another page sends no Origin. Links lead to the page, which computes nothing.
        site = headers.get("sec-fetch-site", "none")
        foreign |= site not in ("none", "same-origin") and not _is_public(path)
        if foreign and origin not in self.origins:
            message = (
                "Pages of other sites may not call this server; name yours with --cors-origin."
            )
            raise Problem(403, "origin", message)
        if self.token and not _is_public(path) and scope["method"] != "OPTIONS":
            scheme, _, token = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(token.strip().encode(), self.token.encode())
            if scheme.lower() != "bearer" or not same:
                message = (
                    "This server requires a token: open the address it printed, "
                    "or send Authorization: Bearer TOKEN."
                )
                raise Problem(401, "token", message)

    def _allows_host(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.hosts or (self.literal_hosts and bool(ip_address(name)))
        except ValueError:
            return False


class Guard:
    """Middleware: checks access, bounds bodies and requests, adds headers, logs and measures.

    Pure ASGI, so that nothing is buffered. ``scope["reserve"]`` reserves bytes of memory, or raises
    `Problem` 503; ``scope["on_end"]`` is an `ExitStack` that is closed once the response is sent.
    """

    def __init__(
        self, app: ASGIApp, policy: AccessPolicy, limits: Limits, metrics: Metrics, root_path: str
    ) -> None:
        self._root = root_path
        self._app, self._policy, self._limits, self._metrics = app, policy, limits, metrics
        self._inside = self._reserved = 0
        metrics.inside.set_function(lambda: self._inside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.monotonic()
        # A proxy may strip the prefix or leave it.
        path = scope["path"]
        path = path.removeprefix(self._root) if path.startswith(f"{self._root}/") else path
        # The server sends no body to HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "method": method, "path": self._root + path, "root_path": self._root}
        response = _GuardedSend(send, cached=_is_public(path))
        with ExitStack() as on_end:
            on_end.callback(lambda: self._log(scope, response.status or "gone", start))
            scope |= {"on_end": on_end, "reserve": partial(self._take, on_end, 0)}
            try:
                self._policy.check(scope, path)
                if _computes(method, path):
                    self._take(on_end, 1, 0)
                await self._app(scope, _bounded(scope, receive, self._limits.body), response)
            except Problem as problem:
                if not response.status:
                    await problem.response(scope)(scope, receive, response)

    def _take(self, on_end: ExitStack, requests: int, size: int) -> None:
        memory = self._limits.memory_mib * 2**20
        if self._inside + requests > self._limits.queue or self._reserved + size > memory:
            raise Problem.busy(retry_after=2)
        self._add(requests, size)
        on_end.callback(self._add, -requests, -size)

    def _add(self, requests: int, size: int) -> None:
        self._inside += requests
        self._reserved += size

    def _log(self, scope: Scope, status: int | str, start: float) -> None:
        seconds = time.monotonic() - start
        # Never the path itself: clients can invent any number of paths.
        route = getattr(scope.get("route"), "path", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        _log.info("%s %s %s %.0f ms", scope["method"], route, status, 1000 * seconds)


class _GuardedSend:
    """Adds the security headers to a response and remembers its status; 0 before it starts."""

    def __init__(self, send: Send, *, cached: bool) -> None:
        self._send = send
        headers = {**_HEADERS, "cache-control": "no-cache" if cached else "no-store"}
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name for name, _ in message["headers"]}
            added = [pair for pair in self._headers if pair[0] not in present]
            message = {**message, "headers": [*message["headers"], *added]}
        # In pieces, each sent once the client has read the last: what waits stays accounted for.
        body = message.get("body", b"")
        for begin in range(0, len(body), PIECE):
            piece = body[begin : begin + PIECE]
            await self._send({**message, "body": piece, "more_body": True})
        await self._send({**message, "body": b""} if body else message)


def _is_public(path: str) -> bool:
    """Whether a path needs no token: the page itself, documentation and health checks."""
    return path in _PUBLIC_PATHS or path.startswith("/page/")


def _computes(method: str, path: str) -> bool:
    """Whether a request takes more than a lookup, so that it needs a place in the queue."""
    if method == "POST":
        return path.startswith("/v1/completions") and not path.endswith("/cancel")
    return path.startswith("/v1/masks/")


def _bounded(scope: Scope, receive: Receive, maximum: int) -> Receive:
    """Return a receiver that refuses a body by its declared length, or once it exceeds it."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    limit = f"{maximum / 2**20:g} MiB"
    message = f"That is larger than this server takes ({limit}); scale the image down first."
    problem = Problem(413, "body", message)
    if not declared.isdigit() or int(declared[:20]) > maximum:
        raise problem
    size = 0

    async def bounded_receive() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > maximum:
            raise problem
        return message

    return bounded_receive
