"""A completion as JSON and as an image file."""

import base64
from typing import Any

import numpy as np

from pixmend.completion import Candidate, Completion
from pixmend.images import Picture, Pixels, encode_png, image_bytes, lossless_suffix, png_bytes
from pixmend.serve.forms import CompletionRequest

_TYPES = {
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
}


def best_png(completion: Completion) -> bytes:
    """Return the best answer as a PNG: of a PNG, the bytes that `pixmend complete` writes."""
    return png_bytes(completion.candidates[0].picture)


def answer_json(
    completion: Completion, asked: CompletionRequest, stopped: str | None
) -> dict[str, Any]:
    """Return all of a completion as JSON values; images are PNGs in base64."""
    facts = completion.record()
    full = asked.full
    return {
        **{key: facts[key] for key in _FACTS},
        "model": asked.offer.id,
        "width": completion.original.width,
        "height": completion.original.height,
        "mean_uncertainty": facts["uncertainty"],
        "unlike": any(words.startswith("unlike ") for words in completion.warnings),
        "stopped": stopped,
        "candidates": [_candidate(each, asked) for each in completion.candidates],
        "uncertainty": data_png(completion.uncertainty_pixels()),
        "snapshots": [
            {"step": step, "image": data_png(pixels)}
            for step, pixels in completion.snapshots.items()
        ],
        "history": completion.history.tolist() if full else None,
        "uncertainty_values": base64_of(completion.uncertainty.astype("<f4").tobytes())
        if full
        else None,
    }


_FACTS = (
    "file",
    "method",
    "steps",
    "seed",
    "answer",
    "missing",
    "confidence",
    "windows",
    "seconds",
    "warnings",
)


def _candidate(candidate: Candidate, asked: CompletionRequest) -> dict[str, Any]:
    suffix = lossless_suffix(asked.suffix, candidate.picture.mode).lower()
    facts = {
        "image": base64_of(png_bytes(candidate.picture)),
        "answer": candidate.answer,
        "loss": _number(candidate.loss),
        "contextual": _number(candidate.contextual),
        "perceptual": _number(candidate.perceptual),
        "z": np.asarray(candidate.z).tolist() if asked.full else None,
        "file": None,
    }
    if suffix != ".png":  # what the page hands out, and what the command line would write
        facts["file"] = _file(candidate.picture, suffix)
    return facts


def _file(picture: Picture, suffix: str) -> dict[str, str]:
    return {
        "suffix": suffix,
        "type": _TYPES[suffix],
        "data": base64_of(image_bytes(picture, suffix)),
    }


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None  # JSON has no NaN


def data_png(pixels: Pixels) -> str:
    """Return pixels as a PNG in base64."""
    return base64_of(encode_png(pixels, quick=True))


def base64_of(content: bytes) -> str:
    """Return bytes as ASCII."""
    return base64.b64encode(content).decode()
