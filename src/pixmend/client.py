"""A client of `pixmend serve`, without dependencies of its own.

    from pixmend.client import Client

    result = Client("http://127.0.0.1:8000").complete("damaged.png", mask="center", candidates=4)
    result.best, result.uncertainty

Answers are the `Completion` that `pixmend.load(...).complete(...)` gives for the same settings.
"""

import base64
import http.client
import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from pixmend.completion import (
    Candidate,
    Completion,
    CompletionOptions,
    Preview,
    Task,
    open_mask,
)
from pixmend.errors import ImageError, ServerError
from pixmend.images import Picture, decode_image, encode_png, open_image

__all__ = ["Client", "RemoteModel"]

Values = Mapping[str, Any]
_SETTINGS = ("method", "steps", "seconds", "candidates", "seed", "answer", "blend", "view")


@dataclass(frozen=True)
class Client:
    """A server, and how to speak to it.

    Attributes
    ----------
    url
        Such as ``http://127.0.0.1:8000``.
    token
        What a server that does not listen on loopback asks for.
    timeout
        Seconds to wait for an answer.
    patience
        Seconds to try again for, while the server says that it is busy.
    """

    url: str
    token: str | None = None
    timeout: float = 300.0
    patience: float = 60.0

    def models(self) -> list[dict[str, Any]]:
        """Return what the server tells of its models."""
        found: list[dict[str, Any]] = json.loads(self._call("GET", "/v1/models"))["models"]
        return found

    def complete(
        self,
        image: Any,  # noqa: ANN401 - as for `pixmend.api.Model.complete`
        mask: Any = "center",  # noqa: ANN401
        *,
        model: str = "",
        **settings: Any,  # noqa: ANN401
    ) -> Completion:
        """Complete one image; image, mask and settings are those of `pixmend.api.Model.complete`.

        Raises
        ------
        ServerError
            It cannot be reached, or refuses; the message is its own.
        ImageError, MaskError
            See `pixmend.api.Model.complete`.
        """
        picture = open_image(image)
        hole = open_mask(mask, picture, seed=int(settings.get("seed", 0)))
        result = self.complete_job(
            Task(picture, hole, picture.name), model=model, settings=settings
        )
        return replace(result, array_shape=image.shape) if isinstance(image, np.ndarray) else result

    def complete_job(self, job: Task, *, model: str, settings: Values) -> Completion:
        """Complete a job; see `complete`."""
        job.check()
        fields = {"model": model, "full": "true", **settings}
        body, kind = _form(job, fields)
        return _completion(job, json.loads(self._call("POST", "/v1/completions", body, kind)))

    def watch(
        self,
        image: Any,  # noqa: ANN401 - as for `pixmend.api.Model.complete`
        mask: Any = "center",  # noqa: ANN401
        *,
        model: str = "",
        **settings: Any,  # noqa: ANN401
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Complete one image and yield the server's events as they come: accepted, step, snapshot, and done or error.

        Leaving the loop ends the search.
        """
        picture = open_image(image)
        job = Task(picture, open_mask(mask, picture), picture.name)
        job.check()
        body, kind = _form(job, {"model": model, **settings})
        connection = self._connect()
        try:
            answer = self._send(connection, "POST", "/v1/completions/stream", body, kind)
            if answer.status != 200:
                raise ServerError(_refusal(self.url, answer.status, answer.read()))
            name = ""
            for line in answer:
                field, _, value = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)
        finally:
            connection.close()

    def cancel(self, search: str) -> None:
        """End a watched search, by the id of its event ``accepted``, with its best so far."""
        self._call("POST", f"/v1/completions/{quote(search, safe='')}/cancel")

    def model(self, name: str = "") -> "RemoteModel":
        """Return a model of the server as `pixmend.load` returns one of this machine."""
        return RemoteModel(self, name)

    def _call(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
        until = time.monotonic() + self.patience
        while True:
            connection = self._connect()
            try:
                answer = self._send(connection, method, path, body, kind)
                content = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(f"{self.url}: {error}; is the server still there?") from error
            finally:
                connection.close()
            if answer.status < 300:
                return content
            wait = float(answer.getheader("Retry-After") or 0)
            if answer.status != 503 or time.monotonic() + wait > until:
                raise ServerError(_refusal(self.url, answer.status, content))
            time.sleep(wait)

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServerError(f"{self.url}: is no address; give one such as http://127.0.0.1:8000")
        made = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        return made(parts.hostname, parts.port, timeout=self.timeout)

    def _send(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        kind: str,
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "*/*" if method == "GET" else "application/json, text/event-stream"}
        if kind:
            headers["Content-Type"] = kind
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request(method, urlsplit(self.url).path.rstrip("/") + path, body, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(
                f"{self.url}: cannot be reached ({error}); is `pixmend serve` running there?"
            ) from error


@dataclass(frozen=True)
class RemoteModel:
    """A model of a server, with the face that `pixmend complete` needs of a `pixmend.api.Model`."""

    client: Client
    name: str = ""

    def for_model(self, options: CompletionOptions) -> CompletionOptions:
        """Return the options: the server fits them to its model."""
        return options

    def complete_tasks(
        self,
        jobs: Iterable[Task],
        options: CompletionOptions,
        *,
        on_preview: Callable[[Preview], None] = lambda preview: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Completion]:
        """Complete images one by one; see `pixmend.api.Model.complete_tasks`. The server sends no previews."""
        del on_preview
        settings = {
            name: getattr(options, name)
            for name in _SETTINGS
            if name not in ("method", "steps", "blend")
        }
        for job in jobs:
            if should_stop():
                return
            yield self.client.complete_job(
                job, model=self.name, settings=settings | self.method_of(options)
            )

    @staticmethod
    def method_of(options: CompletionOptions) -> dict[str, Any]:
        """Return method, steps and blend as the form has them, where they are not the method's own."""
        from pixmend.completion import METHODS

        usual, chosen = METHODS[options.method.name], options.method
        steps = None if chosen.steps == usual.steps else chosen.steps
        blend = None if chosen.blend == usual.blend else chosen.blend
        return {"method": chosen.name, "steps": steps, "blend": blend}


def _form(job: Task, fields: Values) -> tuple[bytes, str]:
    """Return a multipart body and its content type."""
    pixels = job.picture.pixels
    if pixels.dtype != np.uint8 and pixels.shape[-1] != 1:
        raise ImageError(f"{job.name}: colours as floats cannot be sent exactly; give uint8")
    boundary = secrets.token_hex(16)
    parts = [("image", encode_png(pixels)), ("mask", encode_png(job.mask.to_pixels()))]
    body = b""
    for name, value in fields.items():
        if value not in (None, ""):
            body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, content in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n'
        body += head.encode() + b"Content-Type: image/png\r\n\r\n" + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _completion(job: Task, told: Values) -> Completion:
    """Return a server's answer as the value it was made of; what is known of the image is the caller's own."""
    shape = job.mask.known.shape
    spread = np.frombuffer(base64.b64decode(told["uncertainty_values"]), "<f4").reshape(shape)
    return Completion(
        name=job.name,
        original=job.picture,
        mask=job.mask,
        candidates=tuple(_candidate(job, each) for each in told["candidates"]),
        uncertainty=spread.astype(np.float32),
        confidence=told["confidence"],
        snapshots={each["step"]: _picture(each["image"]).pixels for each in told["snapshots"]},
        history=np.array(told["history"], np.float32),
        method=told["method"],
        steps=told["steps"],
        seed=told["seed"],
        seconds=told["seconds"],
        warnings=tuple(told["warnings"]),
    )


def _candidate(job: Task, told: Values) -> Candidate:
    picture = job.picture.replace_where(job.mask.hole, _picture(told["image"]).pixels)
    loss, contextual, perceptual = (
        _loss(told[name]) for name in ("loss", "contextual", "perceptual")
    )
    z = np.array(told["z"], np.float32)
    return Candidate(picture, told["answer"], loss, contextual, perceptual, z)


def _loss(told: float | None) -> float:
    return float("nan") if told is None else told


def _picture(told: str) -> Picture:
    return decode_image(base64.b64decode(told))


def _refusal(url: str, status: int, content: bytes) -> str:
    try:
        return f"{url}: {json.loads(content)['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"{url}: answers {status}; is it a pixmend server?"
