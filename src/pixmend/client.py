"""A client of `pixmend serve`; needs the extra client.

    from pixmend.client import Client

    result = Client("http://127.0.0.1:8000").complete("damaged.png", mask="center", candidates=4)
    result.best, result.uncertainty

Results are the `Completion` that `pixmend.load(...).complete(...)` returns for the same settings.
"""

import base64
import json
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import numpy as np

from pixmend.completion import (
    METHODS,
    Candidate,
    Completion,
    CompletionOptions,
    Preview,
    Task,
    open_mask,
)
from pixmend.errors import ImageError, ServerError
from pixmend.images import Pixels, decode_image, encode_png, open_image

_T = TypeVar("_T")
_OPTIONS = ("seconds", "candidates", "seed", "answer", "view")  # sent as they are


@dataclass(frozen=True)
class Client:
    """A server and how to reach it."""

    url: str  # such as http://127.0.0.1:8000
    token: str | None = None  # bearer token; servers beyond loopback require one
    timeout: float = 300.0  # seconds to wait for a response
    patience: float = 60.0  # seconds to retry for while the server is busy

    def models(self) -> list[dict[str, Any]]:
        """Return the facts of the server's models."""
        return self._request("GET", "/v1/models", lambda answer: list(answer["models"]))

    def complete(
        self, image: object, mask: object = "auto", *, model: str = "", **settings: object
    ) -> Completion:
        """Complete one image; image, mask and settings are those of `pixmend.api.Model.complete`.

        Raise its ImageError and MaskError, or ServerError where the server cannot be reached or
        refuses; the message is its own.
        """
        task = _task(image, mask, settings)
        result = self.complete_task(task, model=model, settings=settings)
        return replace(result, like=image) if isinstance(image, np.ndarray) else result

    def complete_task(self, task: Task, *, model: str, settings: Mapping[str, Any]) -> Completion:
        form = _form(task, {"model": model, "full": True, **settings, "range": None})
        return self._request("POST", "/v1/completions", partial(_completion, task), **form)

    def watch(
        self, image: object, mask: object = "auto", *, model: str = "", **settings: object
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Complete one image and yield (event, data): accepted, step, snapshot, and done or error.

        Leaving the loop ends the search.
        """
        form = _form(_task(image, mask, settings), {"model": model, **settings, "range": None})
        path = "/v1/completions/stream"
        with self._connect() as http, http.stream("POST", path, **form) as response:
            if not response.is_success:
                response.read()
                raise self._refusal(response)
            event = ""
            for line in response.iter_lines():
                field, _, value = line.partition(": ")
                if field == "event":
                    event = value
                elif field == "data":
                    yield event, self._read(value, dict)

    def cancel(self, search: str) -> None:
        """End a streamed search, named by its event ``accepted``, with its best result so far."""
        self._request("POST", f"/v1/completions/{quote(search, safe='')}/cancel", dict)

    def model(self, name: str = "") -> "RemoteModel":
        """Return a model of the server, as `pixmend.load` returns one of this machine."""
        return RemoteModel(self, name)

    def _request(self, method: str, path: str, parse: Callable[[Any], _T], **form: Any) -> _T:  # noqa: ANN401
        until = time.monotonic() + self.patience
        with self._connect() as http:
            while True:
                response = http.request(method, path, **form)
                if response.is_success:
                    return self._read(response.text, parse)
                wait = _seconds_of(response.headers.get("Retry-After", ""))
                if response.status_code != 503 or time.monotonic() + wait > until:
                    raise self._refusal(response)
                time.sleep(wait)

    @contextmanager
    def _connect(self) -> Iterator[httpx.Client]:
        headers = {"Accept": "application/json, text/event-stream"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        # The system's certificates, but neither its proxies nor its passwords.
        verify = ssl.create_default_context() if self.url.startswith("https:") else False
        options: dict[str, Any] = {"verify": verify, "trust_env": False, "timeout": self.timeout}
        try:
            with httpx.Client(base_url=self.url, headers=headers, **options) as http:
                yield http
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ServerError(
                f"{self.url}: is no address; give one such as http://127.0.0.1:8000"
            ) from error
        except httpx.HTTPError as error:
            raise ServerError(
                f"{self.url}: cannot be reached ({error}); is `pixmend serve` running there?"
            ) from error

    def _read(self, text: str, parse: Callable[[Any], _T]) -> _T:
        try:
            return parse(json.loads(text))
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                f"{self.url}: the answer cannot be read; is it a pixmend server?"
            ) from error

    def _refusal(self, response: httpx.Response) -> ServerError:
        try:
            message = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            message = f"answers {response.status_code}; is it a pixmend server?"
        return ServerError(f"{self.url}: {message}")


@dataclass(frozen=True)
class RemoteModel:
    """A model of a server, with what `pixmend complete` needs of a `pixmend.api.Model`."""

    client: Client
    name: str = ""

    def for_model(self, options: CompletionOptions) -> CompletionOptions:
        """Return the options: the server adapts them to its model."""
        return options

    def complete_tasks(
        self,
        tasks: Iterable[Task],
        options: CompletionOptions,
        *,
        on_preview: Callable[[Preview], None] = lambda preview: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Completion]:
        """Complete images one by one, as `pixmend.api.Model.complete_tasks`, but without previews."""
        del on_preview
        settings = {name: getattr(options, name) for name in _OPTIONS}
        method, default = options.method, METHODS[options.method.name]
        settings["method"] = method.name
        for name in ("steps", "blend"):  # the server knows the method's own
            if getattr(method, name) != getattr(default, name):
                settings[name] = getattr(method, name)
        for task in tasks:
            if should_stop():
                return
            yield self.client.complete_task(task, model=self.name, settings=settings)


def _seconds_of(retry_after: str) -> float:
    """Return the seconds of a header Retry-After; 1 where it is none, a date or out of range."""
    digits = retry_after.strip()
    return float(digits) if digits.isascii() and digits.isdigit() and len(digits) < 7 else 1.0


def _task(image: object, mask: object, settings: Mapping[str, Any]) -> Task:
    picture = open_image(image, settings.get("range"))
    return Task(picture, open_mask(mask, picture, seed=settings.get("seed", 0)), picture.name)


def _form(task: Task, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a multipart form as arguments of `httpx.Client.request`."""
    task.check()
    pixels = task.picture.pixels
    if pixels.dtype != np.uint8 and pixels.shape[-1] != 1:
        raise ImageError(f"{task.name}: float colours cannot be sent exactly; give uint8")
    images = {"image": encode_png(pixels), "mask": encode_png(task.mask.to_pixels())}
    return {
        "data": {name: value for name, value in fields.items() if value not in (None, "")},
        "files": {name: (f"{name}.png", png, "image/png") for name, png in images.items()},
    }


def _completion(task: Task, answer: Mapping[str, Any]) -> Completion:
    """Return the answer as a `Completion`; the image's own facts are the caller's."""
    uncertainty = np.frombuffer(base64.b64decode(answer["uncertainty_values"]), "<f4")
    return Completion(
        name=task.name,
        original=task.picture,
        mask=task.mask,
        candidates=tuple(_candidate(task, each) for each in answer["candidates"]),
        uncertainty=uncertainty.reshape(task.mask.known.shape).astype(np.float32),
        confidence=answer["confidence"],
        snapshots={each["step"]: _pixels(each["image"]) for each in answer["snapshots"]},
        history=np.array(answer["history"], np.float32),
        method=answer["method"],
        steps=answer["steps"],
        seed=answer["seed"],
        seconds=answer["seconds"],
        warnings=(*task.picture.warnings, *answer["warnings"]),
    )


def _candidate(task: Task, answer: Mapping[str, Any]) -> Candidate:
    picture = task.picture.replace_where(task.mask.hole, _pixels(answer["image"]))
    loss, contextual, perceptual = (
        float("nan") if answer[name] is None else answer[name]
        for name in ("loss", "contextual", "perceptual")
    )
    z = np.array(answer["z"], np.float32)
    return Candidate(picture, answer["answer"], loss, contextual, perceptual, z)


def _pixels(png: str) -> Pixels:
    return decode_image(base64.b64decode(png)).pixels
