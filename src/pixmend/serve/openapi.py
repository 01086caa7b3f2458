"""What the OpenAPI document says of responses, besides what FastAPI reads off the routes."""

from typing import Any

from pydantic import BaseModel

from pixmend.serve.answers import CompletionAnswer, PngResponse


class ProblemAnswer(BaseModel):
    """Problem details, RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = None


_PROBLEMS = {
    400: "The form is malformed.",
    401: "A token is required.",
    404: "Not found.",
    408: "The request took too long to arrive.",
    413: "The body is too large.",
    415: "The body is not a form.",
    422: "A field is invalid.",
    503: "Busy; Retry-After says when to try again.",
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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the problems that a route answers with."""
    content = {"application/problem+json": {"schema": ProblemAnswer.model_json_schema()}}
    return {each: {"description": _PROBLEMS[each], "content": content} for each in statuses}


def png(*statuses: int) -> dict[str, Any]:
    """Describe a route that answers with a PNG, or with these problems."""
    return {"response_class": PngResponse, "responses": problems(*statuses)}


_FORM_PROBLEMS = problems(400, 404, 408, 413, 415, 422, 503)
COMPLETION: dict[int | str, dict[str, Any]] = {
    200: {
        "model": CompletionAnswer,
        "description": "All candidates, or the best one as a PNG by Accept.",
        "content": {
            "application/json": {"example": _EXAMPLE},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    **_FORM_PROBLEMS,
}
STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: accepted, step, snapshot, then done or error.",
        "content": {"text/event-stream": {"example": _EVENTS}},
    },
    **_FORM_PROBLEMS,
}
