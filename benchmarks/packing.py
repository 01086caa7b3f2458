"""Measure speed and memory of `pixmend pack`: N synthetic files of 128 px packed to 64 px.

    python benchmarks/packing.py [--images 20000] [--workers 1 2] [--size 64]

Half the files are PNG and half JPEG, of soft shapes, stripes and noise, 112 x 128 or 128 x 112 px,
so that they compress and decode like photographs. Each run is a fresh process with files in the
page cache. Prints a markdown table and compares the shards of all runs, which must be equal.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_RUN = """
import json, resource, sys, time
start = time.monotonic()
from pixmend.records import PackSettings, pack
manifest = pack(sys.argv[1], sys.argv[2], PackSettings(size=int(sys.argv[3])), workers=int(sys.argv[4]))
seconds = time.monotonic() - start
peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"seconds": seconds, "count": manifest.count, "bytes": sum(s.bytes for s in manifest.shards),
                  "digest": manifest.digest, "parent": peaks[0], "worker": peaks[1]}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        made = make_files(folder, options.images)
        print(describe(options.images, made))
        print("| workers | seconds | images/s | parent peak RSS | worker peak RSS | total |")
        print("|---|---|---|---|---|---|")
        digests = set()
        for workers in options.workers:
            result = run(folder, Path(name) / f"records-{workers}", options.size, workers)
            digests.add(result["digest"])
            print(row(workers, result), flush=True)
        print(f"\nOutputs of all runs are equal: {'yes' if len(digests) == 1 else 'NO'}.")
    sys.exit(len(digests) != 1)


def run(folder: Path, out: Path, size: int, workers: int) -> dict[str, float]:
    """Pack in a fresh process; return its figures, memory in KiB."""
    arguments = [sys.executable, "-c", _RUN, str(folder), str(out), str(size), str(workers)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def row(workers: int, result: dict[str, float]) -> str:
    parent, worker = result["parent"] / 1024, result["worker"] / 1024
    together = parent + (worker * workers if workers > 1 else 0)
    return (
        f"| {workers} | {result['seconds']:.1f} | {result['count'] / result['seconds']:,.0f} | {parent:.0f} MiB"
        f" | {f'{worker:.0f} MiB' if workers > 1 else '-'} | {together:.0f} MiB |"
    )


def describe(images: int, made: tuple[int, float]) -> str:
    import PIL

    count, seconds = made
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{images:,} files, {count / images / 1000:.1f} kB on average (written in {seconds:.0f} s), "
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_name()}, {os.cpu_count()} cores, load {load} before, Python "
        f"{platform.python_version()}, Pillow {PIL.__version__}, NumPy {np.__version__}\n"
    )


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def make_files(folder: Path, count: int) -> tuple[int, float]:
    """Write the files of ten classes; return their bytes and the seconds it took."""
    from PIL import Image

    start, total = time.monotonic(), 0
    for number in range(count):
        kind = "png" if number % 2 else "jpg"
        path = folder / f"Sample{number % 10 + 1:03d}" / f"img{number:06d}.{kind}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(picture(number))
        if kind == "png":
            image.save(path, compress_level=4)
        else:
            image.save(path, quality=90)
        total += path.stat().st_size
    return total, time.monotonic() - start


def picture(number: int) -> NDArray[np.uint8]:
    """Return blobs of colour, stripes and noise, uint8 [128, 112, 3] or [112, 128, 3]."""
    random = np.random.default_rng(number)
    height, width = (128, 112) if number % 4 < 2 else (112, 128)
    y, x = np.mgrid[:height, :width].astype(np.float32) / 128
    values = np.ones((height, width, 3), np.float32) * random.uniform(40, 200, 3)
    for _ in range(4):
        top, left, spread = random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.05, 0.3)
        blob = np.exp(-((y - top) ** 2 + (x - left) ** 2) / spread**2)
        values += blob[..., None] * random.uniform(-150, 150, 3)
    stripes = np.sin((x * random.uniform(5, 40) + y * random.uniform(5, 40)) * 2)
    values += stripes[..., None] * random.uniform(0, 30) + random.normal(0, 3, values.shape)
    return values.clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
