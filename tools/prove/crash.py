"""SIGKILL at random moments and at lines of a write: nothing reported is lost, every rerun completes."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pixmend import storage
from tools.prove.children import attempt, start
from tools.prove.tally import Row, Scale, counted
from tools.prove.world import Verb, leftovers, make_world, verbs_of

__all__ = ["at_line", "compare", "crash", "kill_at_lines", "kill_at_random", "look"]


def crash(scale: Scale, folder: Path) -> list[Row]:
    """Kill every verb."""
    world = make_world(folder)
    rows = []
    for verb in verbs_of(world):
        rows.append(kill_at_random(verb, folder / verb.name, scale.kills, scale.seed))
        rows.append(kill_at_lines(verb, folder / verb.name, scale.lines, scale.seed))
    return rows


def kill_at_random(verb: Verb, folder: Path, kills: int, seed: int) -> Row:
    """Kill runs at random moments, check the folder after each, and compare the final results."""
    with counted(f"{verb.name}: SIGKILL at random moments") as row:
        seconds, whole = _whole(verb, folder / "whole", row)
        generator = np.random.default_rng(seed)
        killed, number = 0, 0
        while killed < kills:
            out, before, alive = folder / f"random-{number}", frozenset[str](), True
            while alive:
                after = float(generator.uniform(0, seconds)) if killed < kills else None
                ended = start(verb.command(out)).end(after)
                alive = ended.killed
                killed += alive
                row.note(
                    "killed"
                    if alive
                    else "rerun completed"
                    if ended.code == 0
                    else "rerun " + ended.kind
                )
                if alive and leftovers(out):
                    row.counts["of these in a write"] += 1
                row.expect(
                    alive or ended.code == 0, f"{out.name}: {ended.kind}: {ended.last_words}"
                )
                before = look(verb, out, before, row)
            compare(verb, out, whole, row)
            number += 1
        row.figures["runs"] = number
        row.figures["seconds of a whole run"] = seconds
    return row


def kill_at_lines(verb: Verb, folder: Path, lines: int, seed: int) -> Row:
    """Kill before lines of `atomic_write` over all writes of a command, then rerun it."""
    with counted(f"{verb.name}: SIGKILL at lines of a write") as row:
        whole = verb.result(folder / "whole")
        last = _lines_of(verb, folder / "counted", row)
        row.figures["lines of its writes"] = last
        # One line of each of equal intervals; the first and the last line always.
        parts = np.linspace(1, last + 1, lines + 1, dtype=int)
        drawn = np.random.default_rng(seed).integers(
            parts[:-1], np.maximum(parts[1:], parts[:-1] + 1)
        )
        for number in sorted({1, last, *map(int, drawn)}):
            out = folder / f"line-{number}"
            ended = attempt(at_line(number, verb.command(out)))
            row.note("killed" if ended.killed else "passed that line no more")
            row.expect(ended.killed or ended.code == 0, f"line {number}: {ended.last_words}")
            before = look(verb, out, frozenset(), row)
            again = attempt(verb.command(out))
            row.expect(again.code == 0, f"line {number}, rerun {again.kind}: {again.last_words}")
            look(verb, out, before, row)
            compare(verb, out, whole, row)
    return row


def _whole(verb: Verb, out: Path, row: Row) -> tuple[float, dict[str, str]]:
    """Return the seconds and the result of an undisturbed run."""
    ended = attempt(verb.command(out))
    row.expect(ended.code == 0, f"undisturbed: {ended.kind}: {ended.last_words}")
    return ended.seconds, verb.result(out)


def _lines_of(verb: Verb, out: Path, row: Row) -> int:
    """Return the number of lines of `atomic_write` that an undisturbed run executes."""
    command, told = verb.command(out), out.with_name(f"{out.name}.lines")

    # A verb may exit by itself, so each line is reported immediately.
    ended = attempt(lambda: _trace(command, lambda passed: told.write_text(str(passed))))
    row.expect(ended.code == 0, f"undisturbed: {ended.kind}: {ended.last_words}")
    return int(told.read_text())


def look(verb: Verb, out: Path, before: frozenset[str], row: Row) -> frozenset[str]:
    """Check a folder; return what is reported done, which must include all earlier reports."""
    try:
        now = verb.done(out)
    except Exception as error:  # any exception of a reader means that the folder is broken
        row.expect(False, f"{out.name}: half-written: {type(error).__name__}: {error}")
        return before
    row.expect(before <= now, f"{out.name}: lost what was done: {sorted(before - now)[:3]}")
    return now


def compare(verb: Verb, out: Path, whole: dict[str, str], row: Row) -> None:
    """Compare a finished folder with that of an undisturbed run, and check for leftovers."""
    try:
        found = verb.result(out)
    except Exception as error:  # as above
        row.expect(False, f"{out.name}: no result: {type(error).__name__}: {error}")
        return
    other = sorted(key for key in found.keys() | whole if found.get(key) != whole.get(key))
    row.expect(not other, f"{out.name}: differs from an undisturbed run in {other[:3]}")
    row.expect(not leftovers(out), f"{out.name}: leaves {leftovers(out)[:3]}")
    row.counts["results equal to an undisturbed run"] += not other


def at_line(number: int, work: Callable[[], None]) -> Callable[[], None]:
    """Return ``work`` with a SIGKILL before the ``number``-th line of `atomic_write`."""

    def kill(passed: int) -> None:
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: _trace(work, kill)


def _trace(work: Callable[[], None], at: Callable[[int], None]) -> None:
    """Run ``work``; call ``at`` with the count before each line of `atomic_write`."""
    code, passed = storage.atomic_write.__wrapped__.__code__, 0

    def local(frame: object, event: str, arg: object) -> object:
        nonlocal passed
        del frame, arg
        if event == "line":
            passed += 1
            at(passed)
        return local

    sys.settrace(lambda frame, event, arg: local if frame.f_code is code else None)
    work()
