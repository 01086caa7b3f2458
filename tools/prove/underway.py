"""Changes while a verb runs: files deleted, changed or truncated, a dead worker, a clock set back."""

import itertools
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pixmend.images import encode_png
from tools.prove.children import Child, attempt, program, start
from tools.prove.crash import compare, look
from tools.prove.tally import Row, Scale, counted
from tools.prove.world import SIDE, Verb, make_images, make_world, verbs_of

__all__ = ["clock", "files_change", "under_way", "worker_dies"]


def under_way(scale: Scale, folder: Path) -> list[Row]:
    """Disturb every verb."""
    rows = [
        files_change(name, folder / f"{name}-files", scale.rounds, scale.seed)
        for name in ("pack", "train", "complete", "evaluate")
    ]
    world = make_world(folder / "world")
    rows += [clock(verb, folder / "clock" / verb.name) for verb in verbs_of(world)]
    rows += [worker_dies(folder / "workers", how) for how in ("killed", "out of memory")]
    return rows


def files_change(name: str, folder: Path, rounds: int, seed: int) -> Row:
    """Delete, change and truncate inputs while a verb reads them; then restore them and rerun."""
    with counted(f"{name}: files deleted, changed, cut under way") as row:
        world = make_world(folder / "world")
        (verb,) = (verb for verb in verbs_of(world) if verb.name == name)
        seconds = _whole(verb, folder / "whole", row)
        whole = verb.result(folder / "whole")
        generator = np.random.default_rng(seed)
        inputs = world.records if name == "train" else world.images
        shutil.copytree(inputs, folder / "kept")
        for number in range(rounds):
            out = folder / f"round-{number}"
            child = start(verb.command(out))
            _disturb(child, inputs, generator, seconds)
            ended = child.end()
            row.note(ended.kind)
            row.expect(ended.is_clean, f"{out.name}: {ended.kind}: {ended.last_words}")
            _put_back(folder / "kept", inputs)
            again = attempt(verb.command(out))
            row.expect(again.code == 0, f"{out.name}, rerun {again.kind}: {again.last_words}")
            compare(verb, out, whole, row)
    return row


def clock(verb: Verb, folder: Path) -> Row:
    """Run a verb twice with a clock that goes back a minute per call, and inputs from the future."""
    with counted(f"{verb.name}: clock going backwards") as row:
        _whole(verb, folder / "whole", row)
        whole = verb.result(folder / "whole")
        for part in ("once", "again"):
            ended = attempt(_backwards(verb.command(folder / "back")))
            row.note(f"{part} {ended.kind}")
            row.expect(ended.code == 0, f"{part}: {ended.kind}: {ended.last_words}")
            look(verb, folder / "back", frozenset(), row)
            compare(verb, folder / "back", whole, row)
    return row


def worker_dies(folder: Path, how: str) -> Row:
    """Kill a worker of `pack` as the OOM killer does, or limit its memory; then rerun."""
    with counted(f"pack: a worker {how}") as row:
        place = folder / how.replace(" ", "-")
        images, out = place / "images", place / "records"
        make_images(images, 40)
        command = program(
            "pack", images, out, "--size", SIDE, "--workers", 2, "--images-per-shard", 4
        )
        child = start(command)
        (_kill_a_worker if how == "killed" else _starve_a_worker)(child, row)
        ended = child.end()
        row.note(ended.kind)
        # A worker without memory may print errors of any length before it ends.
        told = ended.said.rpartition("error: ")[2].strip()
        refused = ended.code == 2 and "\n" not in told
        row.expect(ended.code == 0 or refused, f"{ended.kind}: {ended.last_words}")
        again = attempt(command)
        row.note(f"rerun {again.kind}")
        row.expect(again.code == 0, f"rerun: {again.last_words}")
        alone = place / "alone"
        attempt(
            program("pack", images, alone, "--size", SIDE, "--workers", 1, "--images-per-shard", 4)
        )
        same = [_records(path) for path in (out, alone)]
        row.expect(same[0] == same[1], "the rerun's records are not those of one worker")
    return row


def _whole(verb: Verb, out: Path, row: Row) -> float:
    ended = attempt(verb.command(out))
    row.expect(ended.code == 0, f"undisturbed: {ended.kind}: {ended.last_words}")
    return ended.seconds


def _disturb(child: Child, inputs: Path, generator: np.random.Generator, seconds: float) -> None:
    """Disturb a file every few moments, for about the duration of the work."""
    for _ in range(6):
        time.sleep(float(generator.uniform(0, seconds / 6)))
        files = sorted(path for path in inputs.rglob("*") if path.is_file())
        if not files:
            return
        path = files[int(generator.integers(len(files)))]
        what = int(generator.integers(4))
        if what == 0:
            path.unlink()
        elif what == 1:
            os.truncate(path, path.stat().st_size // 2)
        elif what == 2 and path.suffix == ".png":
            pixels = generator.integers(0, 256, (SIDE, SIDE, 1), np.uint8)
            path.write_bytes(encode_png(pixels))
        else:
            path.write_bytes(generator.bytes(path.stat().st_size))


def _put_back(kept: Path, inputs: Path) -> None:
    """Restore the content and times of every file."""
    shutil.rmtree(inputs)
    shutil.copytree(kept, inputs)


def _backwards(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        hours = itertools.count()
        begun = time.time()
        time.time = lambda: begun - 60 * next(hours)
        time.time_ns = lambda: int(time.time() * 1e9)
        work()

    return run


def _workers_of(pid: int) -> list[int]:
    """Return the child processes that are pool workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            line = (path / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == pid and b"spawn_main" in line:
            found.append(int(path.name))
    return found


def _wait_for_workers(child: Child, row: Row) -> list[int]:
    for _ in range(6000):
        workers = _workers_of(child.pid)
        if len(workers) == 2:
            return workers
        time.sleep(0.01)
    row.expect(False, "no two workers in a minute")
    return []


def _kill_a_worker(child: Child, row: Row) -> None:
    for worker in _wait_for_workers(child, row)[:1]:
        os.kill(worker, signal.SIGKILL)


def _starve_a_worker(child: Child, row: Row) -> None:
    """Limit a worker to its current memory."""
    for worker in _wait_for_workers(child, row)[:1]:
        size = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(worker, resource.RLIMIT_AS, (size, size))


def _records(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".pack.json"}
