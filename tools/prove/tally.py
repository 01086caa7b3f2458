"""What a section of the proof comes to: rows of counts, with every broken promise in words."""

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
    """How much of everything is tried.

    Attributes
    ----------
    kills
        SIGKILLs at random moments, of each verb.
    lines
        SIGKILLs before a line of `atomic_write`, of each verb.
    rooms
        Sizes at which a disk is full, of each verb.
    rounds
        Times that files are changed under way, of each verb.
    mutants
        Damaged images, of each format.
    machines
        Sequences of steps of each Hypothesis state machine.
    soak_minutes
        For which the server is under mixed load.
    seed
        Of all that is drawn.
    """

    kills: int
    lines: int
    rooms: int
    rounds: int
    mutants: int
    machines: int
    soak_minutes: float
    seed: int = 7


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    what
        What was done to which verb or file.
    tried
        How often.
    counts
        Outcome -> how often.
    wrong
        Each outcome that breaks a promise, in a line that says how to see it again.
    left_out
        Why it could not be tried here; empty if it was.
    figures
        What was measured, by name.
    """

    what: str
    tried: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    left_out: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def note(self, outcome: str) -> None:
        """Count one trial and what became of it."""
        self.tried += 1
        self.counts[outcome] += 1

    def expect(self, holds: bool, otherwise: str) -> None:
        """Take ``otherwise`` down as a broken promise unless ``holds``."""
        if not holds:
            print(f"WRONG  {self.what}: {otherwise}", file=sys.stderr, flush=True)
            self.wrong.append(otherwise)

    def most(self, name: str, value: float) -> None:
        """Keep the largest value of a figure."""
        self.figures[name] = max(value, self.figures.get(name, value))

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {**vars(self), "counts": dict(self.counts)}


@contextmanager
def counted(what: str) -> Iterator[Row]:
    """Give a row to fill, and note how long that took."""
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
