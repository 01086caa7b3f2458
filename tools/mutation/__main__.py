"""`python -m tools.mutation` runs the mutants of each room against its tests."""

import argparse
import importlib.util
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tools.mutation.mutants import Mutant, mutants_of
from tools.mutation.trial import Reach, in_child, lives, tests_of


@dataclass(frozen=True)
class Room:
    """Modules and their tests (paths and options of pytest)."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


ROOMS = {
    "masks": Room(("pixmend.masks",), ("tests/test_masks.py",)),
    "images": Room(
        ("pixmend.images.image_files", "pixmend.images.picture", "pixmend.images.pixels"),
        ("tests/test_images.py",),
    ),
    "records": Room(
        (
            *("pixmend.records.tfrecord", "pixmend.records.manifest"),
            *("pixmend.records.dataset", "pixmend.records.containers"),
        ),
        (
            *("tests/records/test_framing.py", "tests/records/test_example.py"),
            *("tests/records/test_records.py", "tests/records/test_tfrecord_sources.py"),
            *("tests/records/test_containers.py", "tests/records/test_sources.py"),
            "tests/records/test_formats.py",
        ),
    ),
    "objective": Room(
        ("pixmend.completion.objective",),
        (
            *("tests/completion/test_terms.py", "tests/completion/test_parts.py"),
            "tests/completion/test_solvers.py",
        ),
    ),
    "checkpoint": Room(
        ("pixmend.training.checkpoint", "pixmend.models.model_file"),
        ("tests/training/test_checkpoint.py", "tests/models/test_file.py"),
    ),
}


def main() -> None:
    """Run the mutants and print the results."""
    parser = argparse.ArgumentParser(prog="python -m tools.mutation", description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=", ".join(ROOMS))
    parser.add_argument("--sample", type=int, default=60, help="Mutants per room; 0 for all.")
    parser.add_argument("--seed", type=int, default=0, help="Random seed of the sample.")
    parser.add_argument("--out", type=Path, default=Path("bench/mutants.json"))
    asked = parser.parse_args()
    results = {name: _tried(ROOMS[name], asked.sample, asked.seed) for name in asked.rooms or ROOMS}
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(
        "\n| room | mutants | run | killed | of these timed out | killed % |\n|---|---|---|---|---|---|"
    )
    for name, found in results.items():
        killed = found["tried"] - len(found["lives"])
        print(
            f"| {name} | {found['mutants']} | {found['tried']} | {killed} | {found['timed_out']} | {killed / found['tried']:.0%} |"
        )


def _tried(room: Room, sample: int, seed: int) -> dict[str, Any]:
    """Run a sample of a room's mutants; return counts and survivors."""
    tests_of(room.tests)
    files = [_file_of(module) for module in room.modules]
    everything = [
        (file, each) for file in files for each in mutants_of(Path(file).read_text("utf-8"))
    ]
    chosen = everything
    if sample and sample < len(everything):
        chosen = random.Random(seed).sample(everything, sample)
    reaches = {file: _reach(file, room.tests) for file in {file for file, _ in chosen}}
    survivors, timed_out = [], 0
    for number, (file, mutant) in enumerate(chosen, 1):
        verdict = _verdict(file, mutant, reaches[file])
        timed_out += verdict == "timed out"
        if verdict == "lives":
            where = f"{Path(file).name}:{mutant.line}: {mutant.before} -> {mutant.after}"
            survivors.append(" ".join(where.split()))
        said = survivors[-1] if verdict == "lives" else verdict
        print(f"{number}/{len(chosen)} {said}", flush=True)
    return {
        "mutants": len(everything),
        "tried": len(chosen),
        "timed_out": timed_out,
        "lives": sorted(survivors),
    }


def _verdict(file: str, mutant: Mutant, reach: Reach) -> str:
    tests = reach.tests_at(mutant.line, mutant.line + mutant.before.count("\n"))
    if not tests:
        # A line that runs on import only, such as a constant: any test may notice.
        tests = sorted(reach.seconds, key=lambda test: reach.seconds[test])
    seconds = sum(reach.seconds[test] for test in tests)
    return lives(file, mutant.source, tests, seconds=seconds)


def _reach(file: str, tests: tuple[str, ...]) -> Reach:
    """Run the unchanged tests in a child; return which test reaches which line."""
    reach, started = Reach(file), time.monotonic()
    kept = Path(tempfile.mkdtemp()) / "reach.json"

    def run() -> int:
        status = int(
            pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], [reach])
        )
        lines = {test: sorted(found) for test, found in reach.lines.items()}
        kept.write_text(json.dumps([lines, reach.seconds]), encoding="utf-8")
        return status

    if in_child(run, cpu_seconds=600) != 0:
        sys.exit(f"the tests fail without a mutant: {' '.join(tests)}")
    lines, seconds = json.loads(kept.read_text(encoding="utf-8"))
    shutil.rmtree(kept.parent)
    print(
        f"{Path(file).name}: {len(seconds)} tests in {time.monotonic() - started:.0f} s", flush=True
    )
    return Reach(file, {test: set(found) for test, found in lines.items()}, seconds)


def _file_of(module: str) -> str:
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    return found.origin


if __name__ == "__main__":
    main()
