"""Measure how fast training images stream from shards, and the memory by number of images.

    python benchmarks/loading.py [--images 10000 100000 1000000] [--size 64]
                                 [--small-from 1000000] [--read 20000]

Writes shards of synthetic records (each one of 997 pictures, PNG) to a temporary folder; from
`--small-from` images on they are of 32 px. A fresh process per row, with files in the page cache,
opens the records, streams `--read` images in batches of 64 as training does, and reports images/s
and the growth of peak resident memory at each stage. Prints a markdown table.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np

from pixmend.images import encode_png
from pixmend.records import Manifest, PackSettings, ShardInfo
from pixmend.records.manifest import write_index
from pixmend.records.tfrecord import encode_example, frame_record

_SHARD = 50_000
_RUN = """
import json, resource, sys, time
import torch
from pixmend.records import Records
from pixmend.training.data import Shuffle, ReadAhead, to_device
torch.set_num_threads(1)
cpu = torch.device("cpu")
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
marks = [peak()]
records = Records(sys.argv[1])
marks.append(peak())
order = Shuffle(len(records), 0)
order.positions(0, 64)
marks.append(peak())
ahead, count, batch = ReadAhead(records.images, order.positions), int(sys.argv[2]), 64
to_device(ahead.batch(0, batch), cpu)
start = time.monotonic()
for first in range(batch, batch + count, batch):
    to_device(ahead.batch(first, batch), cpu)
seconds = time.monotonic() - start
marks.append(peak())
print(json.dumps({"rate": count / seconds, "marks": marks}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--small-from", type=int, default=1_000_000)
    parser.add_argument("--read", type=int, default=20_000)
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {load}.\n")
    print(
        "| images | px | on disk | images/s | start | + open records | + order | + streaming | peak |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for count in options.images:
        size = 32 if count >= options.small_from else options.size
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "records"
            total = make_records(folder, count, size)
            print(row(count, size, total, measure(folder, options.read)), flush=True)
            shutil.rmtree(folder)


def measure(folder: Path, count: int) -> dict[str, object]:
    """Stream ``count`` images in a fresh process; return images/s and memory in KiB."""
    arguments = [sys.executable, "-c", _RUN, str(folder), str(count)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def row(count: int, size: int, total: int, result: dict[str, object]) -> str:
    marks = result["marks"]
    assert isinstance(marks, list)
    grown = [f"{(after - before) / 1024:.0f}" for before, after in pairwise(marks)]
    cells = [f"{marks[0] / 1024:.0f}", *grown, f"{marks[-1] / 1024:.0f}"]
    return (
        f"| {count:,} | {size} | {total / 2**20:,.0f} MiB | {result['rate']:,.0f} | "
        + " | ".join(f"{cell} MiB" for cell in cells)
        + " |"
    )


def make_records(folder: Path, count: int, size: int) -> int:
    """Write a record folder like `pixmend.records.pack`, from few pictures; return its bytes."""
    folder.mkdir()
    payloads = [payload(number, size) for number in range(997)]
    shards = []
    starts = range(0, count, _SHARD)
    for number, start in enumerate(starts):
        path = folder / f"images-{number:05d}-of-{len(starts):05d}.tfrecord"
        some = min(_SHARD, count - start)
        offsets = []
        with path.open("wb") as file:
            for index in range(start, start + some):
                offsets.append(file.tell())
                file.write(frame_record(payloads[index % 997]))
        write_index(path, np.array(offsets, np.uint64))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        shards.append(
            ShardInfo(name=path.name, count=some, bytes=path.stat().st_size, sha256=digest)
        )
    settings = PackSettings(size=size, channels="RGB")
    Manifest(settings=settings, count=count, left_out=0, shards=tuple(shards)).write(folder)
    return sum(shard.bytes for shard in shards)


def payload(number: int, size: int) -> bytes:
    """Return the record of a picture of soft stripes with little noise."""
    random = np.random.default_rng(number)
    y, x = np.mgrid[:size, :size] / size
    waves = np.sin(
        x[..., None] * random.uniform(2, 20, 3) + y[..., None] * random.uniform(2, 20, 3)
    )
    values = 128 + 100 * waves + random.normal(0, 2, (size, size, 3))
    return encode_example(
        {
            "image/encoded": encode_png(values.clip(0, 255).astype(np.uint8)),
            "image/format": "png",
            "image/height": size,
            "image/width": size,
            "image/channels": 3,
            "image/filename": f"{number}.png",
        }
    )


if __name__ == "__main__":
    main()
