"""Make the tables of docs/benchmarks.md on this machine, one after the other.

    make bench                                                   under 20 minutes on two idle cores
    make bench PROFILE=full TRAIN=RECORDS HELD_OUT=RECORDS       hours; less with a GPU
    python benchmarks/everything.py [--profile small] [--only packing speed] [--out FOLDER]
                                    [--train RECORDS --held-out RECORDS]

Writes each table to OUT/NAME.md. Existing tables are skipped, so the same command resumes.
OUT/machine.json records the machine, versions, date and seeds. Without records, the bundled
characters are split into training and held-out records: enough to test the programs, too few to
quote figures. `tensorflow_interop.py` needs another environment, `gpu.py` a GPU: they are not run.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from pixmend.images import find_images
from pixmend.models import BUNDLED
from pixmend.records import PackSettings, pack
from pixmend.storage import write_text

HERE = Path(__file__).parent
PROFILES = ("tiny", "small", "full")
_DATA = ("TRAIN", "HELD_OUT")
# Table -> program, arguments of every profile, arguments of tiny, small and full.
PLAN: dict[str, tuple[str, str, tuple[str, str, str]]] = {
    "packing": ("packing.py", "", ("--images 40 --workers 1", "--images 4000", "")),
    "cluster": (
        "cluster.py",
        "",
        ("pack --images 40 --workers 1", "pack --images 4000 --workers 1 2", "pack"),
    ),
    "loading": (
        "loading.py",
        "",
        ("--images 40 --size 16 --read 64", "--images 2000 10000 --read 4000", ""),
    ),
    "training": (
        "training.py",
        "",
        ("--steps 1 --size 16 --filters 8 --batch 4", "--steps 5", "--steps 25"),
    ),
    "completion": (
        "completion.py",
        "characters TRAIN HELD_OUT",
        ("--images 2 --masks center --methods instant", "--images 32", "--images 512"),
    ),
    "evaluate": (
        "pixmend evaluate",
        "characters HELD_OUT --train-data TRAIN --out OUT/report",
        ("--n 2 --masks center --methods mean", "--n 64", "--n 512 --candidates 4"),
    ),
    "searches": (
        "pixmend evaluate",
        "characters HELD_OUT --out OUT/searches --methods default,classic,yeh,bamos,moodoki,chengbinjin,csgm,surgery",
        ("--n 1 --masks center --seconds-per-image 0.1", "--n 4 --masks center", "--n 64"),
    ),
    "ablation": (
        "ablation.py",
        "OUT/ablation TRAIN",
        (
            "--steps 2 --variants default --set filters=4 batch_size=4",
            "--steps 60 --variants default r1_gamma hinge",
            "--steps 500",
        ),
    ),
    "inpainters": (
        "inpainters.py",
        "OUT/inpainters TRAIN",
        ("--minutes 0.02 --filters 8 --batch 4 --memory 8", "--minutes 2", "--minutes 30"),
    ),
    "quality": (
        "quality.py",
        "TRAIN HELD_OUT",
        (
            "--minutes 0.01 --every 1 --filters 4 --batch 4",
            "--minutes 1 --every 200 --filters 16",
            "--minutes 120",
        ),
    ),
    "speed": (
        "speed.py",
        "",
        (
            "--images 1 --rounds 1 --timed 1 --reach 0 --compared 1 --batches 1 --candidates 1",
            "--images 4 --batches 1 8 --timed 20 --reach 0",
            "",
        ),
    ),
    "serving": (
        "serving.py",
        "",
        (
            "--seconds 0.3 --clients 2 --methods instant --batch 4",
            "--seconds 5 --clients 1 8 32",
            "--seconds 60",
        ),
    ),
    "costs": (
        "costs.py",
        "--out OUT/costs.json",
        ("--images 128 --steps 1 --complete 1", "--images 1000 --steps 2", ""),
    ),
    "scale": ("scale.py", "--costs OUT/costs.json", ("--workers 20 --simulated 100000", "", "")),
    "settings": ("settings.py", "", ("--images 1 --steps 2", "--images 4 --steps 50", "")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="small")
    parser.add_argument("--only", nargs="+", choices=list(PLAN), default=list(PLAN))
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--train", type=Path)
    parser.add_argument("--held-out", type=Path)
    options = parser.parse_args()
    out = options.out / options.profile
    out.mkdir(parents=True, exist_ok=True)
    train, held_out = options.train, options.held_out
    if train is None or held_out is None:
        train, held_out = bundled_records(out)
    given = {"TRAIN": str(train), "HELD_OUT": str(held_out), "OUT": str(out)}
    write_text(out / "machine.json", json.dumps(machine(options.profile, given), indent=1) + "\n")
    failed = [name for name in options.only if not make_table(name, options.profile, out, given)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see their .log files in {out}")


def make_table(name: str, profile: str, out: Path, given: dict[str, str]) -> bool:
    """Run one benchmark unless its table exists; return whether the table exists now."""
    path = out / f"{name}.md"
    program, always, by_profile = PLAN[name]
    if path.exists():
        return True
    words = f"{always} {by_profile[PROFILES.index(profile)]}".split()
    for word, value in given.items():
        words = [part.replace(word, value) if part.startswith(word) else part for part in words]
    command = [sys.executable, *start_of(program), *words]
    started = time.monotonic()
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    took = time.monotonic() - started
    print(f"{name}: {'made' if not ran.returncode else 'FAILED'} in {took:.0f} s", flush=True)
    if ran.returncode:
        write_text(out / f"{name}.log", f"{ran.stdout}\n{ran.stderr}")
        return False
    shown = " ".join([program, *words])
    date = datetime.now(UTC)
    load = os.getloadavg()[0]
    text = f"`{shown}`, {date:%Y-%m-%d %H:%M} UTC, {took:.0f} s, load {load:.1f}\n\n{ran.stdout}"
    write_text(path, text)
    return True


def start_of(program: str) -> Sequence[str]:
    """Return the arguments of Python that start the program."""
    if program.startswith("pixmend"):
        return ["-m", *program.split()]
    return [str(HERE / program)]


def bundled_records(out: Path) -> tuple[Path, Path]:
    """Pack the bundled characters, alternately into training and held-out records."""
    paths = sorted(find_images(BUNDLED / "characters"))
    folders = []
    for part, name in enumerate(_DATA):
        images, records = out / "images" / name, out / "records" / name
        for path in paths[part::2]:
            link = images / path.parent.name / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.write_bytes(path.read_bytes())
        pack(images, records, PackSettings(size=64, channels="L"), workers=1)
        folders.append(records)
    return folders[0], folders[1]


def machine(profile: str, given: dict[str, str]) -> dict[str, object]:
    """Return the conditions of the figures."""
    import torch

    cpu = platform.processor() or platform.machine()
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "profile": profile,
        "seeds": "0 in all programs",
        "records": {name: given[name] for name in _DATA},
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("pixmend", "torch", "numpy", "scipy")},
    }


if __name__ == "__main__":
    main()
