"""Errors as RFC 9457 has them: application/problem+json, with a sentence that says what to do."""

from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """A refusal: a status, what is wrong and what to do."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        retry_after: int | None = None,
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.retry_after = retry_after
        self.errors = errors

    def to_json(self) -> dict[str, Any]:
        """Return the members of section 3.1, and of a form the fields at fault."""
        body: dict[str, Any] = {
            "type": f"/docs#{self.kind}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return body if self.errors is None else {**body, "errors": self.errors}


def problem_response(problem: Problem) -> JSONResponse:
    """Return the answer that tells of a problem."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="pixmend"'
    return JSONResponse(
        problem.to_json(), problem.status, headers, media_type="application/problem+json"
    )
