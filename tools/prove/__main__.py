"""`python -m tools.prove --profile quick` runs all sections; exits with 1 if a promise is broken."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from tools.prove.crash import crash
from tools.prove.disk import disk
from tools.prove.hostile import hostile
from tools.prove.machines import machines
from tools.prove.manners import manners
from tools.prove.mutate import mutants
from tools.prove.neighbours import neighbours
from tools.prove.numerics import numerics
from tools.prove.siege import siege
from tools.prove.soak import soak
from tools.prove.tally import Row, Scale, markdown
from tools.prove.underway import under_way

__all__ = ["PROFILES", "SECTIONS", "main"]

PROFILES = {
    "tiny": Scale(kills=1, lines=1, rooms=2, rounds=1, mutants=20, machines=2, soak_minutes=0.1),
    "quick": Scale(kills=14, lines=6, rooms=5, rounds=3, mutants=1000, machines=10, soak_minutes=1, clients=9),
    "full": Scale(kills=75, lines=40, rooms=60, rounds=40, mutants=10_000, machines=300, soak_minutes=30, clients=64),
}  # fmt: skip
SECTIONS: dict[str, Callable[[Scale, Path], list[Row]]] = {
    "crash": crash,
    "disk": disk,
    "under way": under_way,
    "hostile": hostile,
    "neighbours": neighbours,
    "mutants": mutants,
    "machines": machines,
    "manners": manners,
    "numerics": numerics,
    "soak": soak,
    "siege": siege,
}


def main() -> int:
    """Run the sections, print a table and write JSON."""
    parser = argparse.ArgumentParser(prog="prove", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--profile", choices=PROFILES, default="quick")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=", ".join(SECTIONS))  # fmt: skip
    parser.add_argument(
        "--soak-minutes", type=float, help="Minutes of the soak test; default: the profile's."
    )
    parser.add_argument("--clients", type=int, help="Clients of the soak test, of every kind.")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("prove.json"))
    options = parser.parse_args()
    scale = replace(PROFILES[options.profile], seed=options.seed)
    if options.soak_minutes is not None:
        scale = replace(scale, soak_minutes=options.soak_minutes)
    if options.clients is not None:
        scale = replace(scale, clients=options.clients)
    torch.set_num_threads(1)
    found: dict[str, list[Row]] = {}
    facts = {
        "profile": options.profile,
        "scale": asdict(scale),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{os.cpu_count()} CPUs, {platform.processor() or platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 1),
    }
    begun = time.monotonic()
    for name in options.only or SECTIONS:
        folder = Path(tempfile.mkdtemp(prefix="prove-"))
        try:
            found[name] = SECTIONS[name](scale, folder / "work")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        told = markdown({name: found[name]}).splitlines()
        print("\n".join(told if len(found) == 1 else told[2:]), flush=True)
        facts["seconds"] = round(time.monotonic() - begun, 1)
        facts["cpu_seconds"] = round(sum(os.times()[:4]), 1)
        rows = {section: [row.as_json() for row in each] for section, each in found.items()}
        options.json.write_text(json.dumps({**facts, "sections": rows}, indent=1) + "\n")
    broken = sum(len(row.wrong) for rows in found.values() for row in rows)
    tried = sum(row.tried for rows in found.values() for row in rows)
    print(
        f"\n{tried:,} trials, {broken} broken promises, {facts['seconds']} s ({facts['cpu_seconds']} of CPU) -> {options.json}"
    )
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
