"""Terminal output, progress bars and signals of the verbs."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# No markup and no emoji codes: messages contain file names.
stdout = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
stderr = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


def print_failures(failures: Iterable[tuple[str, str]]) -> None:
    """Print the name and reason of each failed input on stderr."""
    for name, reason in failures:
        stderr.print(f"failed: {reason if name in reason else f'{name}: {reason}'}")


def progress_bar() -> Progress:
    """Return a bar with count, note, elapsed and remaining time, on stderr to keep stdout clean."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=stderr,
    )


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
    """Yield a function that tells whether Ctrl-C or SIGTERM came; a second Ctrl-C interrupts."""
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop.is_set
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
