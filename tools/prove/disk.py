"""Full, limited and read-only disks: one line, exit code 2, whole files; with space a rerun completes."""

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.prove.children import Ended, attempt, open_streams
from tools.prove.crash import compare, look
from tools.prove.tally import Row, Scale, counted
from tools.prove.world import Verb, make_world, verbs_of

__all__ = ["disk", "file_limit", "full_disk", "read_only", "small_disk"]

_DISK = 8 * 2**20


def disk(scale: Scale, folder: Path) -> list[Row]:
    """Fill the disk of every verb, limit its file size, and remove its permissions."""
    world = make_world(folder / "world")
    rows = []
    for verb in verbs_of(world):
        place = folder / verb.name
        place.mkdir()
        rows += [full_disk(verb, place, scale.rooms), file_limit(verb, place / "limit")]
        rows.append(read_only(verb, place))
    return rows


def full_disk(verb: Verb, folder: Path, rooms: int) -> Row:
    """Run a verb with increasing free space, from none to all it needs; then free space and rerun."""
    with counted(f"{verb.name}: disk full (tmpfs)") as row:
        if not can_mount():
            row.left_out = "needs the right to mount a file system"
            return row
        with small_disk(folder / "disk") as place:
            needed = _measure(verb, place / "whole", row)
            whole = verb.result(place / "whole")
            shutil.rmtree(place / "whole")
            for number in range(rooms):
                _fill(place, round(needed * number / rooms))
                out = place / "out"
                ended = attempt(verb.command(out))
                _judge(ended, row, f"{round(100 * number / rooms)} % of the room it needs")
                before = look(verb, out, frozenset(), row)
                (place / "filler").unlink()
                _rerun(verb, out, whole, before, row)
                shutil.rmtree(out)
    return row


def file_limit(
    verb: Verb, folder: Path, limits: Sequence[int] = (0, 100, 1000, 4000, 20_000)
) -> Row:
    """Limit the file size, as a quota does, at limits that only some files exceed."""
    with counted(f"{verb.name}: files limited in size") as row:
        ended = attempt(verb.command(folder / "whole"))
        row.expect(ended.code == 0, f"undisturbed: {ended.last_words}")
        whole = verb.result(folder / "whole")
        for limit in limits:
            out = folder / f"to-{limit}"
            ended = attempt(_limited(limit, verb.command(out)))
            _judge(ended, row, f"files of {limit} bytes at most")
            before = look(verb, out, frozenset(), row)
            _rerun(verb, out, whole, before, row)
    return row


def read_only(verb: Verb, folder: Path) -> Row:
    """Run a verb into read-only folders, a new and a finished one."""
    disk = small_disk if can_mount() else _plain
    with counted(f"{verb.name}: folder read-only") as row, disk(folder / "fixed") as place:
        ended = attempt(verb.command(place / "whole"))
        row.expect(ended.code == 0, f"undisturbed: {ended.last_words}")
        whole = verb.result(place / "whole")
        with _unwritable(place):
            for name in ("new", "whole"):
                ended = attempt(verb.command(place / name))
                _judge(ended, row, f"into a {name} folder")
        before = look(verb, place / "whole", frozenset(), row)
        _rerun(verb, place / "whole", whole, before, row)
    return row


def can_mount() -> bool:
    """Whether this process may mount a file system."""
    return os.geteuid() == 0 and shutil.which("mount") is not None and _mounts()


@contextmanager
def small_disk(place: Path, size: int = _DISK) -> Iterator[Path]:
    """Mount an empty file system in memory at ``place``; unmount it at the end."""
    place.mkdir(parents=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    try:
        yield place
    finally:
        _run("umount", "-l", place)


def _judge(ended: Ended, row: Row, how: str) -> None:
    row.note(ended.kind)
    row.expect(ended.is_clean, f"{how}: {ended.kind}: {ended.last_words}")
    told = [line for line in ended.said.splitlines() if line.startswith("error: ")]
    row.expect(ended.code == 0 or len(told) == 1, f"{how}: no one line: {ended.last_words}")


def _rerun(verb: Verb, out: Path, whole: dict[str, str], before: frozenset[str], row: Row) -> None:
    again = attempt(verb.command(out))
    row.expect(again.code == 0, f"{out.name}, rerun {again.kind}: {again.last_words}")
    look(verb, out, before, row)
    compare(verb, out, whole, row)


def _measure(verb: Verb, out: Path, row: Row) -> int:
    """Return the bytes that an undisturbed run writes."""
    ended = attempt(verb.command(out))
    row.expect(ended.code == 0, f"undisturbed: {ended.last_words}")
    free = os.statvfs(out)
    return _DISK - free.f_bavail * free.f_frsize


def _fill(place: Path, room: int) -> None:
    """Fill the file system up to the given free bytes."""
    free = os.statvfs(place)
    with (place / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free.f_bavail * free.f_frsize - room))


def _limited(limit: int, work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        file = os.dup(1)
        carrier, pipe = _carry_to(file)
        for stream in (1, 2):
            os.dup2(pipe, stream)
        os.close(pipe)
        open_streams()
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            work()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
                os.dup2(file, stream.fileno())
            os.waitpid(carrier, 0)  # the whole output is in the file now

    return run


def _carry_to(file: int) -> tuple[int, int]:
    """Start a process without limits that copies a pipe to ``file``; return its id and the pipe."""
    read, write = os.pipe()
    carrier = os.fork()
    if carrier == 0:
        os.close(write)
        while part := os.read(read, 65536):
            os.write(file, part)
        os._exit(0)
    os.close(read)
    return carrier, write


@contextmanager
def _unwritable(place: Path) -> Iterator[None]:
    if can_mount():
        _run("mount", "-o", "remount,ro", place)
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", place)
        return
    modes = {path: path.stat().st_mode for path in [place, *place.rglob("*")]}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def _plain(place: Path) -> Iterator[Path]:
    place.mkdir(parents=True)
    yield place


def _mounts() -> bool:
    place = Path("/tmp") / f"prove-mount-{os.getpid()}"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        place.mkdir()
        try:
            _run("mount", "-t", "tmpfs", "tmpfs", place)
            _run("umount", place)
            return True
        finally:
            place.rmdir()
    return False


def _run(*command: object) -> None:
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
