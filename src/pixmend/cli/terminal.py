"""Terminal output, progress bars and signals of the verbs."""

import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column


def escape(text: str) -> str:
    """Return text as one line of printable characters: names and cards may hold any others."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class _Console(Console):
    """A console that escapes text: one call prints one line."""

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - as rich has it
        lines = (escape(each) if isinstance(each, str) else each for each in objects)
        super().print(*lines, **options)


# No markup and no emoji codes: messages contain file names.
stdout = _Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
stderr = _Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_facts(facts: Mapping[str, object]) -> None:
    """Print each fact that is not empty on a line of stdout, after its name."""
    width = max(map(len, facts))
    for name, fact in facts.items():
        if str(fact):
            stdout.print(f"{name:<{width}}  {fact}")


def to_json(facts: Mapping[str, Any]) -> str:
    """Return JSON; NaN and infinity, which it lacks, become null."""
    finite = json.loads(json.dumps(facts), parse_constant=lambda _: None)
    return json.dumps(finite, indent=1, allow_nan=False)


def print_failures(failures: Iterable[tuple[str, str]]) -> None:
    """Print the name and reason of each failed input on stderr."""
    for name, reason in failures:
        stderr.print(f"failed: {reason if name in reason else f'{name}: {reason}'}")


def progress_bar() -> Progress:
    """Return a bar with count, note, elapsed and remaining time, on stderr to keep stdout clean."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(10 if stderr.width < 150 else 40),
        MofNCompleteColumn(),
        # A note that does not fit wraps, as it would push out the times.
        TextColumn("{task.fields[note]}", markup=False, table_column=Column()),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=stderr,
        # Redirected lines go to the bar's console: the records of a pipe would never reach it.
        redirect_stdout=stdout.is_terminal,
    )


@contextmanager
def counting_bar(name: str, failed: str) -> Iterator[Callable[[tuple[int, int, int, str]], None]]:
    """Yield a function that shows inputs done, their total and how many ``failed`` on a bar."""
    with progress_bar() as bar:
        task = bar.add_task(name, total=None, note="", visible=False)

        def show(progress: tuple[int, int, int, str]) -> None:
            done, total, bad, _ = progress
            note = f"{bad:,} {failed}" if bad else ""
            bar.update(task, completed=done, total=total, note=note, visible=True)

        yield show


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Show that something takes a while: a line, which moves on a terminal until it is done."""
    if not stderr.is_terminal:
        stderr.print(text)
    with stderr.status(escape(text)):
        yield


@contextmanager
def quiet_unless(speaking: bool) -> Iterator[None]:
    """Silence the terminal within the block unless ``speaking``: one process prints for a group."""
    stdout.quiet = stderr.quiet = not speaking
    try:
        yield
    finally:
        stdout.quiet = stderr.quiet = False


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """Yield a function: whether Ctrl-C, SIGTERM or SIGHUP came; a second Ctrl-C interrupts."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as under nohup
        numbers.append(signal.SIGHUP)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class LastingFile(io.FileIO):
    """A standard stream that outlives its reader: a verb's work counts more than its words."""

    failure: OSError | None = None

    @classmethod
    def replace(cls, name: str) -> "LastingFile | None":
        """Replace ``sys.stdout`` or ``sys.stderr``; None if it is closed, or already replaced."""
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            return None
        file = cls(stream.fileno(), "w", closefd=False)
        # Not every encoding has every character of a name.
        options = {"encoding": stream.encoding, "errors": "backslashreplace"}
        setattr(
            sys, name, io.TextIOWrapper(io.BufferedWriter(file), **options, line_buffering=True)
        )
        return file

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - a buffer
        """Write, or keep the failure and drop this output."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            return len(data)

    def check(self) -> None:
        """Raise an OutputError if output is lost, unless its reader (head, a pager) left."""
        if self.failure is not None and not isinstance(self.failure, BrokenPipeError):
            from pixmend.storage.local import write_failure

            raise write_failure("standard output", self.failure)
