"""Line coverage of the kept inputs: executed lines of functions, of all lines of functions."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeAlias

__all__ = ["Line", "lines_of", "lines_run"]

Line: TypeAlias = tuple[str, int]  # file, line number


def lines_run(
    check: Callable[[bytes], None], inputs: Iterable[bytes], within: frozenset[Line]
) -> frozenset[Line]:
    """Return the lines of ``within`` that ``check`` executes on the inputs."""
    files = {file for file, _ in within}
    ran: set[Line] = set()

    def watch(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        file = frame.f_code.co_filename
        if file not in files:
            return None
        if event == "line":
            ran.add((file, frame.f_lineno))
        return watch

    before = sys.gettrace()
    sys.settrace(watch)
    try:
        for content in inputs:
            check(content)
    finally:
        sys.settrace(before)
    return within & ran


def lines_of(modules: Iterable[str]) -> frozenset[Line]:
    """Return the lines of all functions in ``modules``; other lines run on import."""
    files = [inspect.getfile(importlib.import_module(name)) for name in modules]
    return frozenset(
        (file, line)
        for file in files
        for line in _inside(compile(Path(file).read_text(encoding="utf-8"), file, "exec"))
    )


def _inside(code: CodeType) -> Iterator[int]:
    if code.co_flags & inspect.CO_OPTIMIZED:  # a function, not a module or a class
        yield from {line for *_, line in code.co_lines() if line and line != code.co_firstlineno}
    for part in code.co_consts:
        if isinstance(part, CodeType):
            yield from _inside(part)
