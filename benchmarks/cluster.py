"""Measure `pixmend pack` and `complete` on a Ray cluster: speed by workers, memory by inputs.

    python benchmarks/cluster.py pack     [--images 20000] [--workers 1 2] [--json FILE]
    python benchmarks/cluster.py complete [--images 20000] [--workers 1 2] [--method instant]
                                          [--model characters]
    python benchmarks/cluster.py memory   [--images 10000 100000 1000000] [--workers 2]
                                          [--of pack complete]

Each run is a fresh process that starts Ray on this machine with that many cores. Seconds are those
of the verb, including the start of workers but not of Ray. "At work" counts from the first to the
last completed input, the rate of a large job. Images are those of `packing.py`; for memory, 8 px of
noise in folders of 1,000. Peak memory is the resident set of the driver and of the largest worker.
Compares the outputs of all runs. Prints a markdown table; --json appends the figures to a file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from packing import describe, make_files
from PIL import Image

_SECONDS = 0.2  # between samples of the workers' memory
_MARK = "PIXMEND_BENCHMARK"  # environment variable of one run's workers

_RUN = f"""
import hashlib, json, os, resource, sys, threading, time
from contextlib import nullcontext
from pathlib import Path
verb, source, out, workers, method, model = sys.argv[1:]
workers = int(workers)  # 0 is one process without Ray
peak, ended = 0, threading.Event()

def sample_memory():
    global peak
    while not ended.wait({_SECONDS}):
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                line = (folder / "cmdline").read_bytes()
                ours = os.environ[{_MARK!r}].encode() in (folder / "environ").read_bytes()
                if ours and line.startswith((b"ray::PackingWorker", b"ray::CompletionWorker")):
                    status = (folder / "status").read_text()
                    peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]))
            except (OSError, IndexError):
                pass

import pixmend.api
if workers:
    import ray
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    threading.Thread(target=watch, daemon=True).start()
from pixmend.cluster.completion_job import complete
from pixmend.cluster.packing_job import PackingJob
from pixmend.cluster.session import connect
from pixmend.completion import CompletionOptions, find_method
from pixmend.records import PackSettings, pack
from pixmend.storage import StorePath
seen = []

def note(progress):
    if progress.done:
        seen[:] = [*seen[:1], (time.monotonic(), progress.done)][-2:] if seen else [(time.monotonic(), progress.done)]

start = time.monotonic()
with connect("auto") if workers else nullcontext() as cluster:
    if verb == "pack":
        settings = PackSettings(size=64 if method else 8)
        engine = PackingJob(cluster, workers) if workers else None
        manifest = pack(source, out, settings, workers=1, engine=engine, on_progress=tell)
        count, digest = manifest.count, manifest.digest
    else:
        options = CompletionOptions(find_method(method or "instant"), snapshots=(), batch=16)
        if workers:
            completed = complete(cluster, model, StorePath(Path(source)), StorePath(Path(out)), options, workers=workers, on_progress=note)
            count = completed.done
        else:
            from pixmend.api import load
            from pixmend.completion import Names, Task, open_mask, plan_targets, write_completion
            from pixmend.images import find_images, open_image
            loaded, names, count = load(model), Names(), 0
            paths = list(find_images(Path(source)))
            relatives = [path.relative_to(source) for path in paths]
            targets = dict(zip(map(str, paths), plan_targets(relatives, names)))

            def tasks():
                for path in paths:
                    picture = open_image(path)
                    yield Task(picture, open_mask("center", picture), str(path))

            for result in loaded.complete_tasks(tasks(), loaded.for_model(options)):
                target = targets[result.name]
                write_completion(result, StorePath(Path(out)), names.settle(target, target.suffix, candidates=1, uncertainty=False))
                count += 1
        every = hashlib.sha256()
        for path in sorted(Path(out).rglob("*.png")):
            every.update(str(path.relative_to(out)).encode() + path.read_bytes())
        digest = every.hexdigest()
seconds = time.monotonic() - start
ended.set()
busy = (seen[-1][0] - seen[0][0], seen[-1][1] - seen[0][1]) if len(seen) == 2 else (seconds, count)
print(json.dumps({{"seconds": seconds, "busy_seconds": busy[0], "busy_images": busy[1], "images": count, "digest": digest,
                   "driver_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "worker_mib": peak / 1024}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["pack", "complete", "memory"])
    parser.add_argument("--images", type=int, nargs="+")
    parser.add_argument("--workers", type=int, nargs="+")
    parser.add_argument("--method", default="instant")
    parser.add_argument("--model", default="characters")
    parser.add_argument("--of", nargs="+", choices=["pack", "complete"], default=["pack"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = (
            memory(Path(name), options) if options.what == "memory" else speed(Path(name), options)
        )
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.exists() else []
        options.json.write_text(json.dumps(before + rows, indent=1) + "\n")
    sys.exit(any(not figures["equal"] for figures in rows))


def speed(scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Time one process, then each number of workers, on the same images."""
    (count,) = options.images or [20_000]
    print(describe(count, make_files(scratch / "images", count)))
    print("| run | seconds | images/s | images/s at work | speed-up | driver peak MiB | worker |")
    print("|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for workers in (0, *(options.workers or [1, 2])):
        method = "" if options.what == "complete" and not options.method else options.method
        ran = run(scratch, options.what, "images", workers, method, options.model)
        ran["equal"] = not rows or ran["digest"] == rows[0]["digest"]
        rows.append(ran)
        rates = [each["busy_images"] / max(each["busy_seconds"], 1e-9) for each in (ran, rows[0])]
        print(
            f"| {f'Ray, {workers}' if workers else 'one process'} | {ran['seconds']:.1f} | {ran['images'] / ran['seconds']:,.0f} "
            f"| {rates[0]:,.0f} | {rates[0] / rates[1]:.2f} | {ran['driver_mib']:.0f} | {ran['worker_mib']:.0f} |",
            flush=True,
        )
    print(
        f"\nOutputs of all runs are equal: {'yes' if all(each['equal'] for each in rows) else 'NO'}."
    )
    return rows


def memory(scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure peak memory for each number of tiny inputs."""
    (workers,) = options.workers or [2]
    print(
        f"{workers} workers, {os.cpu_count()} cores\n\n| verb | inputs | seconds | driver peak MiB | worker |"
    )
    print("|---|---|---|---|---|")
    rows = []
    made = 0
    for count in options.images or [10_000, 100_000, 1_000_000]:
        make_tiny(scratch / "tiny", made, count)
        made = count
        for verb in options.of:
            ran = run(
                scratch,
                verb,
                "tiny",
                workers,
                "" if verb == "pack" else options.method,
                options.model,
            )
            rows.append({**ran, "equal": ran["images"] == count})
            print(
                f"| {verb} | {count:,} | {ran['seconds']:.0f} | {ran['driver_mib']:.0f} | {ran['worker_mib']:.0f} |",
                flush=True,
            )
    return rows


def run(
    scratch: Path, verb: str, source: str, workers: int, method: str, model: str
) -> dict[str, Any]:
    """Run a verb in a fresh process and return its figures."""
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        arguments = [verb, str(scratch / source), f"{out}/out", str(workers), method, model]
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", _MARK: uuid.uuid4().hex}
        done = subprocess.run(
            [sys.executable, "-c", _RUN, *arguments],
            check=True, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
    figures = json.loads(done.stdout.splitlines()[-1])
    return {"verb": verb, "workers": workers, "method": method, **figures}


def make_tiny(folder: Path, start: int, stop: int) -> None:
    """Write 8 px images in folders of 1,000."""
    for number in range(start, stop):
        path = folder / f"{number // 1000:04d}" / f"{number:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(path, compress_level=1)


if __name__ == "__main__":
    main()
