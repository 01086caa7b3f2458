"""What each request passes before anything looks at it, and what each answer is sent out with."""

import hmac
import logging
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixmend.serve.limits import Limits
from pixmend.serve.metrics import Metrics
from pixmend.serve.problems import Problem, problem_response

_log = logging.getLogger("pixmend.serve")
_OPEN = ("/healthz", "/readyz", "/docs", "/openapi.json", "/favicon.ico")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


@dataclass(frozen=True)
class AccessPolicy:
    """Who may come in.

    Attributes
    ----------
    hosts
        Names that the Host header may have, without port: a page of a stranger cannot pass for this server by DNS.
    literal_hosts
        Also any IP address, which no DNS can give away.
    token
        What the Authorization header must bear, if anything.
    origins
        Whose pages may call the API; "*" is none of them.
    """

    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "::1"})
    literal_hosts: bool = False
    token: str | None = None
    origins: frozenset[str] = frozenset()

    def check(self, scope: Scope) -> None:
        """Refuse a request by its head.

        Raises
        ------
        Problem
            421 another host, 403 a page of another site, 401 no token.
        """
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        if not self._knows(host):
            raise Problem(
                421,
                "host",
                "This server does not go by that name; start it with --allow-host NAME.",
            )
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign and origin not in self.origins:
            raise Problem(
                403,
                "origin",
                "Pages of other sites may not call this server; name yours with --cors-origin.",
            )
        if self.token and not _is_open(scope["path"]) and scope["method"] != "OPTIONS":
            given = headers.get("authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self.token.encode()):
                raise Problem(
                    401,
                    "token",
                    "This server wants a token: open the address it printed, or send Authorization: Bearer TOKEN.",
                )

    def _knows(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.hosts:
            return True
        try:
            return self.literal_hosts and bool(ip_address(name))
        except ValueError:
            return False


class Guard:
    """Checks heads, counts bodies and who is inside, adds headers, notes and measures answers; pure ASGI, so that nothing is buffered."""

    def __init__(self, app: ASGIApp, door: AccessPolicy, limits: Limits, metrics: Metrics) -> None:
        self._app, self._door, self._limits, self._metrics = app, door, limits, metrics
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        noted = _Noted(send, secret=not _is_open(scope["path"]))
        begun = time.monotonic()
        completing = scope["method"] == "POST" and scope["path"].startswith("/v1/completions")
        completing = completing and not scope["path"].endswith("/cancel")
        self._inside += completing
        self._metrics.inside.set(self._inside)
        try:
            self._door.check(scope)
            if completing and self._inside > self._limits.queue:
                raise Problem(
                    503, "queue-full", "The server is busy; try again in a moment.", retry_after=2
                )
            await self._app(scope, _counted(scope, receive, self._limits.body), noted)
        except Problem as problem:
            if not noted.status:
                await problem_response(problem)(scope, receive, noted)
        finally:
            self._inside -= completing
            self._metrics.inside.set(self._inside)
            self._note(scope, noted.status, time.monotonic() - begun)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(
            scope.get("route"), "path", "other"
        )  # never the path itself: anybody can make up paths
        self._metrics.requests.labels(route, status or "gone").inc()
        self._metrics.seconds.labels(route).observe(seconds)
        _log.info("%s %s %s %.0f ms", scope["method"], route, status or "gone", 1000 * seconds)


class _Noted:
    """Sends, adds the headers, and remembers the status."""

    def __init__(self, send: Send, *, secret: bool) -> None:
        self._send, self._secret = send, secret
        self.status = 0

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            held = {name for name, _ in message["headers"]}
            extra = {**_HEADERS, "cache-control": "no-store" if self._secret else "no-cache"}
            added = [(name.encode(), value.encode()) for name, value in extra.items()]
            message = {
                **message,
                "headers": [*message["headers"], *(pair for pair in added if pair[0] not in held)],
            }
        await self._send(message)


def _is_open(path: str) -> bool:
    """Whether a path holds nothing that a token protects: the page itself, and whether the server lives."""
    return path in _OPEN or path == "/" or path.startswith("/page/")


def _counted(scope: Scope, receive: Receive, most: int) -> Receive:
    """Return a receiver that refuses a body by what it says of its length, or as soon as it has come in longer."""
    said = dict(scope["headers"]).get(b"content-length", b"0")
    problem = Problem(
        413,
        "body",
        f"That is larger than this server takes ({most / 2**20:g} MiB); scale the image down first.",
    )
    if not said.isdigit() or int(said[:20]) > most:
        raise problem
    count = 0

    async def receiver() -> Message:
        nonlocal count
        message = await receive()
        count += len(message.get("body", b""))
        if count > most:
            raise problem
        return message

    return receiver
