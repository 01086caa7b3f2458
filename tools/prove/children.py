"""Run programs in forked children that can be killed, starved of memory and measured.

The parent imports torch but never runs a verb: children fork from it, so that hundreds start fast.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pixmend.cli import main
from pixmend.errors import PixmendError

__all__ = ["Child", "Ended", "attempt", "open_streams", "program", "start"]

_HALTED = 180  # seconds after which a child counts as hung


@dataclass(frozen=True)
class Ended:
    """The end of a child process.

    Attributes
    ----------
    code
        Its exit code, or minus the number of the signal that ended it.
    said
        Its stdout and stderr.
    peak
        Peak memory beyond that at the fork, MiB; 0 if it was killed.
    hung
        Whether it was ended because it took too long.
    """

    code: int
    said: str
    peak: float = 0.0
    seconds: float = 0.0
    hung: bool = False

    @property
    def killed(self) -> bool:
        """Whether it ended by SIGKILL."""
        return self.code == -signal.SIGKILL and not self.hung

    @property
    def kind(self) -> str:
        """The outcome: ``done``, ``refused`` (exit code 2), ``killed``, ``hung``, ``crashed`` (a signal) or ``bug``."""
        if self.hung or self.killed:
            return "hung" if self.hung else "killed"
        if self.code < 0:
            return "crashed"
        return {0: "done", 2: "refused"}.get(self.code, "bug")

    @property
    def is_clean(self) -> bool:
        """Whether it succeeded, or failed with a message and without a traceback."""
        return self.kind in ("done", "refused") and "Traceback" not in self.said

    @property
    def last_words(self) -> str:
        """The end of its output, in one line."""
        return " / ".join(self.said.strip().splitlines()[-4:])[-600:]


class Child:
    """A running child."""

    def __init__(self, pid: int, said: Path, told: int) -> None:
        self.pid, self._said, self._told = pid, said, told
        self._begun = time.monotonic()

    def end(self, kill_after: float | None = None, *, patience: float = _HALTED) -> Ended:
        """Wait for its end; SIGKILL it after ``kill_after`` seconds."""
        limit = patience if kill_after is None else kill_after
        status = self._wait(limit)
        hung = False
        if status is None:
            hung = kill_after is None
            os.kill(self.pid, signal.SIGKILL)
            status = os.waitpid(self.pid, 0)[1]
        seconds = time.monotonic() - self._begun
        with os.fdopen(self._told, "rb") as pipe:
            told = pipe.read()
        said = self._said.read_text(errors="replace")
        self._said.unlink()
        peak = json.loads(told)["peak"] if told else 0.0
        return Ended(os.waitstatus_to_exitcode(status), said, peak, seconds, hung)

    def _wait(self, seconds: float) -> int | None:
        until = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return status
            left = until - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(0.005, left))


def start(work: Callable[[], object], *, memory_mib: float | None = None) -> Child:
    """Start ``work`` in a child, optionally with only ``memory_mib`` of additional address space.

    Its exit code is 0; 2 with a line for a `PixmendError`; 1 with a traceback for other exceptions;
    or that of `SystemExit`.
    """
    descriptor, name = tempfile.mkstemp(prefix="prove-", suffix=".said")
    read, write = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(descriptor)
        os.close(write)
        return Child(pid, Path(name), read)
    os.close(read)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    open_streams()
    before = _measure_anew()
    if memory_mib is not None:
        most = _status("VmSize") + int(memory_mib * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    code = _code_of(work)
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    peak = max(0, _status("VmHWM") - before) / 2**20
    os.write(write, json.dumps({"peak": round(peak, 1)}).encode())
    os._exit(code)


def attempt(work: Callable[[], object], *, memory_mib: float | None = None) -> Ended:
    """Run ``work`` in a child and return its end."""
    return start(work, memory_mib=memory_mib).end()


def open_streams() -> None:
    """Reopen stdout and stderr on their current file descriptors, in UTF-8."""
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def program(*arguments: object) -> Callable[[], None]:
    """Return a function that runs `pixmend ARGUMENTS`."""

    def run() -> None:
        sys.argv = ["pixmend", *map(os.fspath, map(_text, arguments))]
        main()

    return run


def _text(argument: object) -> str:
    return os.fspath(argument) if isinstance(argument, Path) else str(argument)


def _code_of(work: Callable[[], object]) -> int:
    try:
        work()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except PixmendError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BaseException:  # the child must not return to the parent's code
        traceback.print_exc()
        return 1
    return 0


def _measure_anew() -> int:
    """Reset the peak memory inherited from the parent; return the bytes in use."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def _status(name: str) -> int:
    """Return a size of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
