"""Programs in children of this process, which can be killed, starved and measured.

The process that imports torch never runs a verb: each sitting is a fork of it, so that hundreds of them start in no time.
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

_HALTED = 180  # seconds after which a child is taken to hang


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes
    ----------
    code
        Its exit code; minus the signal's number if one ended it.
    said
        What it wrote on stdout and stderr.
    peak
        MiB of memory that it took at most beyond what it was born with; 0 where it was killed.
    hung
        Whether it had to be ended for taking too long.
    """

    code: int
    said: str
    peak: float = 0.0
    seconds: float = 0.0
    hung: bool = False

    @property
    def killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.code == -signal.SIGKILL and not self.hung

    @property
    def kind(self) -> str:
        """The outcome in a word: ``done``, ``refused`` (exit code 2), ``killed``, ``hung``, ``crashed`` (a signal) or ``bug``."""
        if self.hung or self.killed:
            return "hung" if self.hung else "killed"
        if self.code < 0:
            return "crashed"
        return {0: "done", 2: "refused"}.get(self.code, "bug")

    @property
    def is_clean(self) -> bool:
        """Whether it ended well, or with words for a user and no traceback."""
        return self.kind in ("done", "refused") and "Traceback" not in self.said

    @property
    def last_words(self) -> str:
        """The end of what it said, in a line."""
        return " / ".join(self.said.strip().splitlines()[-4:])[-600:]


class Child:
    """A child at work."""

    def __init__(self, pid: int, said: Path, told: int) -> None:
        self.pid, self._said, self._told = pid, said, told
        self._begun = time.monotonic()

    def end(self, kill_after: float | None = None, *, patience: float = _HALTED) -> Ended:
        """Wait until it ends, and SIGKILL it after ``kill_after`` seconds if that comes before."""
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
    """Begin ``work`` in a child, with no more address space than ``memory_mib`` beyond its own if given.

    It ends with 0; with 2, after a line, for a `PixmendError`; with 1, after a traceback, for anything else; or as `SystemExit` says.
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
    """Do ``work`` in a child and return how that ended."""
    return start(work, memory_mib=memory_mib).end()


def open_streams() -> None:
    """Open stdout and stderr anew on what lies under them now, as in a terminal of UTF-8."""
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def program(*arguments: object) -> Callable[[], None]:
    """Return the work of `pixmend ARGUMENTS`."""

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
    except BaseException:  # the child must never come back into its parent's code
        traceback.print_exc()
        return 1
    return 0


def _measure_anew() -> int:
    """Forget the parent's peak memory; return the bytes now in use."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def _status(name: str) -> int:
    """Return a size of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
