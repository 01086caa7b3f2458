"""A run's log: a JSON object a line, each step once."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from pixmend.storage import append_line, parse_json, write_text


class Log:
    """Lines wait in memory until `write`, which may fail and be called again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: list[str] | None = None  # the lines that are to replace the file's
        self._waiting: list[str] = []

    def add(self, facts: Mapping[str, object]) -> None:
        """Add a line."""
        self._waiting.append(json.dumps(facts, allow_nan=False))

    def cut(self, step: int) -> float:
        """Drop what it says of later steps, which will be done again, and a last line that a crash cut short.

        Returns
        -------
        float
            Seconds of training up to the last line that stays.
        """
        seconds = 0.0
        lines: list[str] = []
        for line in [*self._written(), *self._waiting]:
            try:
                facts = parse_json(line)
                if facts["step"] <= step:
                    seconds = float(facts["seconds"])
                    lines.append(line)
            except (ValueError, KeyError, TypeError):
                continue
        self._kept, self._waiting = lines, []
        return seconds

    def write(self) -> None:
        """Bring the file up to date.

        Raises
        ------
        OutputError
            It cannot be written; the lines stay waiting.
        """
        if self._kept is not None:
            write_text(self._path, "".join(f"{line}\n" for line in [*self._kept, *self._waiting]))
        elif self._waiting:
            append_line(self._path, "\n".join(self._waiting))
        self._kept, self._waiting = None, []

    def _written(self) -> Iterable[str]:
        if self._kept is not None:
            return self._kept
        return self._path.read_text(errors="replace").splitlines() if self._path.exists() else []
