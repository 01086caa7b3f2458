"""A completion as JSON, as an image file, and as the schema of both."""

import base64
from typing import Any

from pydantic import BaseModel, TypeAdapter
from starlette.responses import JSONResponse, Response

from pixmend.completion import Candidate, Completion
from pixmend.images import Pixels, encode_png, image_bytes, lossless_suffix, png_bytes
from pixmend.serve.requests import CompletionRequest

_JSON = TypeAdapter[Any](Any)


class JsonResponse(JSONResponse):
    """JSON without NaN and infinity, which it lacks."""

    def render(self, content: object) -> bytes:
        return json_bytes(content)


class PngResponse(Response):
    """A PNG."""

    media_type = "image/png"


class ImageFile(BaseModel):
    """A candidate in the uploaded file's format, if that is lossless and not PNG."""

    suffix: str
    type: str
    data: str


class CandidateAnswer(BaseModel):
    """One candidate; a lower loss fits better."""

    image: str
    answer: str
    loss: float | None
    contextual: float | None
    perceptual: float | None
    z: list[Any] | None
    file: ImageFile | None


class Snapshot(BaseModel):
    """The generated image after some steps."""

    step: int
    image: str


class CompletionAnswer(BaseModel):
    """A completion; images are PNG files in base64."""

    file: str
    method: str
    steps: int
    seed: int
    answer: str
    missing: float
    confidence: float | None
    windows: int
    seconds: float
    warnings: list[str]
    model: str
    width: int
    height: int
    mean_uncertainty: float
    unlike: bool
    stopped: str | None
    candidates: list[CandidateAnswer]
    uncertainty: str
    snapshots: list[Snapshot]
    history: list[float] | None
    uncertainty_values: str | None


def best_png(completion: Completion) -> bytes:
    """Return the best candidate as the PNG that `pixmend complete` writes."""
    return png_bytes(completion.candidates[0].picture)


def answer_json(completion: Completion, request: CompletionRequest, stopped: str | None) -> bytes:
    """Return a completion as JSON: a `CompletionAnswer`."""
    facts = completion.record()
    values = base64_of(completion.uncertainty.astype("<f4").tobytes()) if request.full else None
    answer = CompletionAnswer(
        **facts
        | {
            "model": request.model.id,
            "width": completion.original.width,
            "height": completion.original.height,
            "mean_uncertainty": facts["uncertainty"],
            "unlike": any(each.startswith("unlike ") for each in completion.warnings),
            "stopped": stopped,
            "candidates": [_candidate(each, request) for each in completion.candidates],
            "uncertainty": data_png(completion.uncertainty_pixels()),
            "snapshots": [
                {"step": step, "image": data_png(pixels)}
                for step, pixels in completion.snapshots.items()
            ],
            "history": completion.history.tolist() if request.full else None,
            "uncertainty_values": values,
        }
    )
    return json_bytes(answer)


def json_bytes(value: object) -> bytes:
    """Return JSON values or pydantic models as JSON, null for numbers that it lacks."""
    return _JSON.dump_json(value)


def data_png(pixels: Pixels) -> str:
    """Return pixels as a PNG in base64."""
    return base64_of(encode_png(pixels, quick=True))


def base64_of(content: bytes) -> str:
    """Return bytes in base64."""
    return base64.b64encode(content).decode()


def _candidate(candidate: Candidate, request: CompletionRequest) -> dict[str, Any]:
    picture = candidate.picture
    suffix = lossless_suffix(request.suffix, picture.mode).lower()
    file = None
    if suffix != ".png":
        name = "tiff" if suffix == ".tif" else suffix.removeprefix(".")
        data = base64_of(image_bytes(picture, suffix))
        file = {"suffix": suffix, "type": f"image/{name}", "data": data}
    return {
        "image": base64_of(png_bytes(picture)),
        "answer": candidate.answer,
        "loss": candidate.loss,
        "contextual": candidate.contextual,
        "perceptual": candidate.perceptual,
        "z": candidate.z.tolist() if request.full else None,
        "file": file,
    }
