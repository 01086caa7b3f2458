"""Fuzz targets of server forms: bodies in pieces, and tasks from their fields."""

import asyncio
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from starlette.datastructures import UploadFile
from starlette.requests import Request

from pixmend.images import encode_png
from pixmend.serve import Catalogue, Limits
from pixmend.serve.requests import parse_form, read_form
from pixmend.serve.security import Problem
from tools.fuzz.models import write_tiny_model

__all__ = ["check_form", "form_seeds"]

_KIND = b"multipart/form-data; boundary=b\n"
_LIMITS = Limits(pixels=4096, steps=100)


def check_form(content: bytes) -> None:
    """A body gives 400, 404, 415 or 422 with a message, or a task within limits; no file leaks.

    The first byte sets the size of the pieces, the first line the declared content type.
    """
    piece = 1 + (content[0] if content else 0)
    kind, _, body = content[1:].partition(b"\n")
    try:
        asked = _loop().run_until_complete(_asked(kind, body, piece))
    except Problem as problem:
        assert problem.status in (400, 404, 415, 422)
        assert problem.detail
        problem.to_json()
        return
    assert asked.task.picture.height * asked.task.picture.width <= _LIMITS.pixels
    assert asked.options.method.steps <= _LIMITS.steps
    assert 1 <= asked.options.candidates <= _LIMITS.candidates
    assert "/" not in asked.task.name


async def _asked(kind: bytes, body: bytes, piece: int) -> Any:  # noqa: ANN401 - the server's own type
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)] or [b""]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    headers = [(b"content-type", kind)]
    form = await read_form(Request({"type": "http", "method": "POST", "headers": headers}, receive))
    files = [value.file for _, value in form.multi_items() if isinstance(value, UploadFile)]
    try:
        return parse_form(form, _catalogue(), _LIMITS)
    finally:
        await form.close()
        assert all(file.closed for file in files)


def form_seeds() -> Iterator[bytes]:
    """Yield a complete form, one with a mask image, one with every field, and a truncated one."""
    image = encode_png(np.zeros((6, 5, 1), np.uint8))
    mask = encode_png(np.eye(6, 5, dtype=np.uint8)[..., None] * np.uint8(255))
    whole = _form(image=image, mask_spec=b"center:0.5", steps=b"3")
    yield b"\xff" + _KIND + whole
    yield b"\x06" + _KIND + _form(image=image, mask=mask, seed=b"7", full=b"true")
    fields = {
        "mask_spec": b"grid",
        "method": b"yeh2017",
        "candidates": b"4",
        "seconds": b"2",
        "answer": b"sharp",
    }
    yield (
        b"\x40"
        + _KIND
        + _form(image=image, blend=b"poisson", view=b"window", model=b"tiny", **fields)
    )
    yield b"\x10" + _KIND + whole[:-9]
    yield b'\x10multipart/form-data; charset=utf-16; boundary="b"\n' + whole


def _form(**fields: bytes) -> bytes:
    parts = []
    for name, value in fields.items():
        file = b'; filename="a.png"' if name in ("image", "mask") else b""
        head = b'Content-Disposition: form-data; name="' + name.encode() + b'"' + file
        parts.append(b"--b\r\n" + head + b"\r\n\r\n" + value + b"\r\n")
    return b"".join(parts) + b"--b--\r\n"


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _catalogue() -> Catalogue:
    return Catalogue.load([str(write_tiny_model())], device="cpu")
