"""JSON that others may have written or damaged."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return what JSON text says.

    Raises
    ------
    ValueError
        It is not JSON, not UTF-8, or nested deeper than Python follows.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
