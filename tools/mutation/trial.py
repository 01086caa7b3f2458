"""Run one mutant against the tests that reach its line, in a forked child."""

import gc
import importlib.machinery
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

__all__ = ["Reach", "in_child", "lives", "tests_of"]

_QUIET = ("-q", "-x", "--no-header", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist")
_MOST_MEMORY = 8 * 2**30


@dataclass
class Reach:
    """The lines of a file that each test reaches, and its time.

    Attributes
    ----------
    lines
        Test id -> line numbers.
    seconds
        Test id -> CPU seconds.
    """

    file: str
    lines: dict[str, set[int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def tests_at(self, first: int, last: int) -> list[str]:
        """Return the tests that reach one of these lines, fastest first."""
        wanted = set(range(first, last + 1))
        reaching = [test for test, lines in self.lines.items() if lines & wanted]
        return sorted(reaching, key=lambda test: self.seconds[test])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Record the lines that a test reaches."""
        reached: set[int] = set()

        def watch(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
            if frame.f_code.co_filename != self.file:
                return None
            reached.add(frame.f_lineno)
            return watch

        started = time.process_time()
        sys.settrace(watch)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.lines[item.nodeid] = reached
            self.seconds[item.nodeid] = time.process_time() - started


def tests_of(arguments: Sequence[str]) -> None:
    """Import the tests, so that children need not import them."""
    if pytest.main([*_QUIET, "--collect-only", "-qq", *arguments]) != 0:
        raise RuntimeError(f"the tests cannot be collected: {' '.join(arguments)}")


def lives(file: str, source: str, tests: Sequence[str], *, seconds: float) -> str:
    """Return the outcome of a mutant: "lives", "killed" or "timed out".

    Parameters
    ----------
    file, source
        The module's file and its mutated source.
    seconds
        CPU seconds of the tests without the mutant.
    """

    def run() -> int:
        if not _swap_code(file, source):
            _load_instead(file, source)
        return int(pytest.main([*_QUIET, *tests]))

    status = in_child(run, cpu_seconds=15 + 5 * seconds)
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timed out"
    return "lives" if status == 0 else "killed"


def in_child(run: Callable[[], int], *, cpu_seconds: float) -> int:
    """Run in a silent forked child; return its exit status, or minus the signal that ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        with tempfile.TemporaryFile() as silence:
            os.dup2(silence.fileno(), 1)
            os.dup2(silence.fileno(), 2)
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds), int(cpu_seconds) + 5))
            resource.setrlimit(resource.RLIMIT_DATA, (_MOST_MEMORY, _MOST_MEMORY))
            status = run()
    finally:
        os._exit(status)


def _swap_code(file: str, source: str) -> bool:
    """Replace the code of the one function that differs; return False if anything else differs."""
    before = compile(Path(file).read_text(encoding="utf-8"), file, "exec")
    changed = _differing(before, compile(source, file, "exec"))
    if changed is None:
        return False
    old, new = changed
    functions = [each for each in gc.get_objects() if isinstance(each, FunctionType)]
    found = [each for each in functions if each.__code__ == old]
    for function in found:
        function.__code__ = new
    return bool(found)


def _differing(before: CodeType, after: CodeType) -> tuple[CodeType, CodeType] | None:
    """Return the outermost function that differs, if nothing else does; it may be a method."""
    parts = [each for each in before.co_consts if isinstance(each, CodeType)]
    others = [each for each in after.co_consts if isinstance(each, CodeType)]
    differ = [(a, b) for a, b in zip(parts, others, strict=False) if a != b]
    same_body = (before.co_code, before.co_names) == (after.co_code, after.co_names) and [
        each for each in before.co_consts if not isinstance(each, CodeType)
    ] == [each for each in after.co_consts if not isinstance(each, CodeType)]
    if not same_body or len(parts) != len(others) or len(differ) != 1:
        return None
    a, b = differ[0]
    if a.co_flags & 1:  # CO_OPTIMIZED: a function
        return (a, b) if a.co_freevars == b.co_freevars else None
    return _differing(a, b)


def _load_instead(file: str, source: str) -> None:
    """Unload this project's modules and tests; the next import of ``file`` gets ``source``."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pixmend", "tests", "conftest"):
            del sys.modules[name]
    loader: Any = importlib.machinery.SourceFileLoader
    ordinary = loader.get_code

    def get_code(self: Any, name: str) -> CodeType:  # noqa: ANN401
        if self.path == file:
            return compile(source, file, "exec")
        code: CodeType = ordinary(self, name)
        return code

    loader.get_code = get_code
