"""What a store costs beside this machine: images packed and read per second, and bytes fetched, with an empty and a full cache.

    python benchmarks/storage.py [URL] [--images 5000] [--size 64] [--read 5000]

Draws soft pictures into a temporary folder, copies them to URL (memory:// if not given; it should be empty), and packs each way, one
process at a time; then reads batches of 64 in a training's order from the records here and there. What lies under URL is removed again.
The figures of a store on the same machine are those of its server, which takes its share of the cores. Prints markdown.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pixmend.images import encode_png
from pixmend.records import PackSettings, Records, pack
from pixmend.storage import StorePath
from pixmend.training.data import Shuffle

_BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="memory://pixmend-benchmark")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--read", type=int, default=5000)
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, load {load}.\n")
    print("| what | images/s |\n|---|---|")
    far = StorePath.of(options.url)
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        os.environ["PIXMEND_CACHE"] = str(here / "cache")
        draw(here / "images", options.images, options.size)
        count = options.images
        try:
            rate("images copied to the store", count, lambda: copy(here / "images", far))
            settings = PackSettings(size=options.size)
            for label, source, out in [
                ("packed: here to here", StorePath(here / "images"), StorePath(here / "records")),
                ("packed: here to the store", StorePath(here / "images"), far / "records"),
                ("packed: the store to here", far / "images", StorePath(here / "fetched")),
                ("packed: the store to the store", far / "images", far / "again"),
            ]:
                rate(label, count, lambda s=source, o=out: pack(s, o, settings, workers=1))
            rate("read: here", options.read, lambda: read(Records(here / "records"), options.read))
            for label in ("read: the store, cache empty", "read: the store, cache full"):
                rate(label, options.read, lambda: read(Records(far / "records"), options.read))
        finally:
            with suppress(Exception):
                far.remove_folder()


def rate(label: str, count: int, action: Callable[[], object]) -> None:
    start = time.monotonic()
    action()
    print(f"| {label} | {count / (time.monotonic() - start):,.0f} |", flush=True)


def draw(folder: Path, count: int, size: int) -> None:
    """Write ``count`` soft pictures, one of 97."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (97, size // 8, size // 8, 3), np.uint8)
    pictures = [encode_png(np.kron(some, np.ones((8, 8, 1), np.uint8))) for some in coarse]
    for number in range(count):
        (folder / f"{number:08d}.png").write_bytes(pictures[number % len(pictures)])


def copy(folder: Path, far: StorePath) -> None:
    for file in StorePath(folder).files():
        (far / "images" / file.name).upload(folder / file.name)


def read(records: Records, count: int) -> None:
    order = Shuffle(len(records), 0)
    for first in range(0, count, _BATCH):
        records.images(order.positions(first, min(_BATCH, count - first)))


if __name__ == "__main__":
    main()
