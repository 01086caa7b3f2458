"""Each promise of docs/guarantees.md and each threat of docs/security.md names tests that are there, and sections that are run."""

import re
from pathlib import Path

import pytest

from tools.prove.__main__ import SECTIONS

ROOT = Path(__file__).parent.parent
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
SECURITY = (ROOT / "docs" / "security.md").read_text()
KINDS = ("Known pixels", "Determinism", "Batch independence", "Exact resume", "Atomic outputs", "Bounded memory",
         "No code from files", "Isolation of bad inputs", "Server limits")  # fmt: skip


def rows(text):
    """Return the cells of every row of the tables of a text, without their heads."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_promise_has_rows_each_with_a_test_that_is_there(kind):
    found = rows(GUARANTEES.partition(f"\n## {kind}\n")[2].partition("\n## ")[0])
    assert found
    for promise, test, _ in found:
        assert is_there(test), promise


def test_every_threat_has_a_test_that_is_there():
    found = rows(SECURITY.partition("\n## Surfaces\n")[2].partition("\n## ")[0])
    assert len(found) > 20
    for _, threat, _, test in found:
        assert is_there(test), threat


def test_the_sections_named_are_those_that_are_run():
    named = {name for row in rows(GUARANTEES) for name in row[2].rstrip("| ").split(", ") if name}
    assert named == set(SECTIONS)


def is_there(cell):
    place = re.fullmatch(r"`(tests/\S+\.py)::(\w+)`\s*\|?", cell)
    return place and f"def {place[2]}(" in (ROOT / place[1]).read_text()
