"""What the OpenAPI document says of the routes: forms, answers and examples."""

from typing import Any

from pydantic import BaseModel

from pixmend.serve.forms import form_schema


class ImageFile(BaseModel):
    """An answer in the format that came in, where that holds it without loss and is not PNG."""

    suffix: str
    type: str
    data: str


class CandidateAnswer(BaseModel):
    """One answer; the loss tells how well it fits, less is better."""

    image: str
    answer: str
    loss: float | None
    contextual: float | None
    perceptual: float | None
    z: list[float] | None
    file: ImageFile | None


class Snapshot(BaseModel):
    """What the model had drawn after so many steps."""

    step: int
    image: str


class CompletionAnswer(BaseModel):
    """A completion; images are PNG files in base64."""

    file: str
    model: str
    method: str
    steps: int
    seed: int
    answer: str
    missing: float
    confidence: float | None
    windows: int
    seconds: float
    width: int
    height: int
    mean_uncertainty: float
    warnings: list[str]
    unlike: bool
    stopped: str | None
    candidates: list[CandidateAnswer]
    uncertainty: str
    snapshots: list[Snapshot]
    history: list[float] | None
    uncertainty_values: str | None


class ProblemAnswer(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None


_REFUSALS = {
    400: "The form is broken.",
    401: "A token is wanted.",
    404: "There is no such thing.",
    408: "The request took too long to arrive.",
    413: "The body is too large.",
    415: "The body is no form.",
    422: "A field cannot be used.",
    503: "Busy; Retry-After says when to come again.",
}
_EXAMPLE = {
    "file": "damaged.png",
    "model": "characters",
    "method": "default",
    "steps": 0,
    "seed": 0,
    "candidates": [{"image": "iVBORw0KGgo...", "answer": "sharp", "loss": 12.3}],
    "warnings": [],
    "unlike": False,
}
_EVENTS = (
    'event: accepted\ndata: {"id":"R0...","steps":1500,"method":"yeh"}\n\n'
    'event: step\ndata: {"step":40,"loss":31.2,"image":"iVBORw0KGgo..."}\n\n'
    'event: snapshot\ndata: {"step":500,"loss":18.4,"image":"iVBORw0KGgo..."}\n\n'
    'event: done\ndata: {"file":"damaged.png","candidates":[...]}\n\n'
)


def completion() -> dict[str, Any]:
    """Return what is said of POST /v1/completions."""
    png = {"schema": {"type": "string", "format": "binary"}}
    return {
        "responses": {
            200: {
                "model": CompletionAnswer,
                "description": "The answers, or the best one as a PNG by Accept.",
                "content": {"application/json": {"example": _EXAMPLE}, "image/png": png},
            },
            **_refusals(400, 401, 404, 408, 413, 415, 422, 503),
        },
        "openapi_extra": {"requestBody": form_schema()},
    }


def stream() -> dict[str, Any]:
    """Return what is said of POST /v1/completions/stream."""
    return {
        "response_class": _plain_text(),
        "responses": {
            200: {
                "description": "Server-sent events: accepted, step, snapshot, then done or error.",
                "content": {
                    "text/event-stream": {"schema": {"type": "string"}, "example": _EVENTS}
                },
            },
            **_refusals(400, 401, 404, 408, 413, 415, 422, 503),
        },
        "openapi_extra": {"requestBody": form_schema()},
    }


def plain(*refusals: int) -> dict[str, Any]:
    """Return what is said of a route that answers in JSON."""
    return {"responses": _refusals(401, *refusals)}


def image(*refusals: int) -> dict[str, Any]:
    """Return what is said of a route that answers with a PNG."""
    content = {"image/png": {"schema": {"type": "string", "format": "binary"}}}
    return {
        "response_class": _plain_text(),
        "responses": {
            200: {"description": "A PNG.", "content": content},
            **_refusals(401, *refusals),
        },
    }


def text() -> dict[str, Any]:
    """Return what is said of a route that answers in plain text."""
    return {"response_class": _plain_text(), "responses": _refusals(401)}


def _plain_text() -> Any:  # noqa: ANN401
    from starlette.responses import Response

    return Response


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    schema = {"schema": ProblemAnswer.model_json_schema()}
    return {
        status: {
            "description": _REFUSALS[status],
            "content": {"application/problem+json": schema},
        }
        for status in statuses
    }
