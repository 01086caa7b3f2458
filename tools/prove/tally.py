"""The result of a section: rows of counts, with every broken promise."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Row", "Scale", "counted", "markdown"]


@dataclass(frozen=True)
class Scale:
    """Numbers of trials.

    Attributes
    ----------
    kills
        SIGKILLs at random moments, per verb.
    lines
        SIGKILLs before a line of `atomic_write`, per verb.
    rooms
        Sizes of a full disk, per verb.
    rounds
        Runs with changing files, per verb.
    mutants
        Damaged images, per format.
    machines
        Sequences per Hypothesis state machine.
    soak_minutes
        Duration of the soak test.
    clients
        Clients of the soak test, of every kind in turn.
    seed
        Random seed.
    """

    kills: int
    lines: int
    rooms: int
    rounds: int
    mutants: int
    machines: int
    soak_minutes: float
    clients: int = 8
    seed: int = 7


@dataclass
class Row:
    """One row of the table.

    Attributes
    ----------
    what
        The trial, and its verb or file.
    tried
        Number of trials.
    counts
        Outcome -> count.
    wrong
        Broken promises, each in a line that tells how to reproduce it.
    left_out
        Why it could not be tried here, or empty.
    figures
        Measurements by name.
    """

    what: str
    tried: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    left_out: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def note(self, outcome: str) -> None:
        """Count one trial and its outcome."""
        self.tried += 1
        self.counts[outcome] += 1

    def expect(self, holds: bool, otherwise: str) -> None:
        """Record ``otherwise`` as a broken promise unless ``holds``."""
        if not holds:
            print(f"WRONG  {self.what}: {otherwise}", file=sys.stderr, flush=True)
            self.wrong.append(otherwise)

    def most(self, name: str, value: float) -> None:
        """Record the largest value of a measurement."""
        self.figures[name] = max(value, self.figures.get(name, value))

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "counts": dict(self.counts)}


@contextmanager
def counted(what: str) -> Iterator[Row]:
    """Yield a row to fill, and time it."""
    row, begun = Row(what), time.monotonic()
    try:
        yield row
    finally:
        row.seconds = round(time.monotonic() - begun, 1)


def markdown(sections: dict[str, list[Row]]) -> str:
    """Return all rows as one table."""
    lines = [
        "| section | what | tried | outcomes | broken | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for section, rows in sections.items():
        for row in rows:
            told = row.left_out and f"left out: {row.left_out}"
            outcomes = [f"{name} {count:,}" for name, count in sorted(row.counts.items())]
            figures = [f"{name} {value:,.6g}" for name, value in row.figures.items()]
            cell = told or ", ".join(outcomes + figures)
            lines.append(
                f"| {section} | {row.what} | {row.tried:,} | {cell} | {len(row.wrong)} | {row.seconds:.0f} |"
            )
    return "\n".join(lines)
