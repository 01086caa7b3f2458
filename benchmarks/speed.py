"""What an answer costs: each method's time beside that of a thousand steps of search, at equal or better PSNR, and how cost grows.

    python benchmarks/speed.py [--images 64] [--mask center] [--batches 1 8 64 512] [--candidates 1 4 16] [--held-out RECORDS]

The model is the bundled one; the images are its bundled glyphs, of fonts that it was not trained on, or those of records. All methods of a
batch take turns, `--rounds` times, so that what else the machine does falls on all alike; times are medians, of CPU time where torch has
one thread (wall time at rest), else of wall time. A search of a
thousand steps is timed over `--timed` of them and its PSNR taken from one run of all (`--reach 0` leaves that out). Peaks are of load_all
memory, of a process each (Linux).
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from pixmend.completion import METHODS, Completion, CompletionOptions, Method, Task, complete
from pixmend.evaluation.metrics import psnr
from pixmend.evaluation.peak_memory import watch_memory
from pixmend.images import Picture, Pixels, find_images, open_image, to_channels
from pixmend.masks import make_mask
from pixmend.models import BUNDLED, DCGAN, load_model
from pixmend.records import Records

_STEPS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=64, help="whose PSNR is taken")
    parser.add_argument("--mask", default="center")
    parser.add_argument("--held-out", type=Path, default=None)
    parser.add_argument("--searches", nargs="*", default=["yeh", "classic"])
    parser.add_argument("--compared", type=int, nargs="*", default=[1, 64], help="batches")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64, 512])
    parser.add_argument("--candidates", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--batch", type=int, default=16, help="of the table of candidates")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timed", type=int, default=20, help="steps of a search that are timed")
    parser.add_argument("--reach", type=int, default=_STEPS, help="steps whose PSNR is taken")
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = load_model("characters")
    jobs = jobs_of(model, options.images, options.mask, options.held_out)
    if options.alone:
        method, images, batch = options.alone
        with watch_memory() as peak:
            _run(model, METHODS[method], _many(jobs, int(images)), batch=int(batch))
        print(round(peak.mib or 0))
        return
    clock = "CPU" if torch.get_num_threads() == 1 else "wall"
    print(
        f"{len(jobs)} glyphs, mask {options.mask}, {datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, {clock} time, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}\n"
    )
    _compare(model, jobs, options)
    _grow(model, jobs, options)


def _compare(model: DCGAN, jobs: Sequence[Task], options: argparse.Namespace) -> None:
    """Print PSNR and seconds an image of searches of a thousand steps and of the encoder's methods, and how they relate."""
    ours = {
        "instant": (METHODS["instant"], {}),
        "default": (METHODS["default"], {}),
        "default, average": (METHODS["default"], {"answer": "average"}),
    }
    reached = {
        name: _psnr(_run(model, method, jobs, **more), jobs)
        for name, (method, more) in ours.items()
    }
    for name in options.searches:
        searched = replace(METHODS[name], steps=options.reach)
        found = _run(model, searched, jobs) if options.reach else None
        reached[name] = float("nan") if found is None else _psnr(found, jobs)
    against = "".join(f" | {name} / it" for name in options.searches)
    print(f"| method | batch | hole PSNR, dB | s an image{against} |")
    print("|---" * (4 + len(options.searches)) + "|")
    for batch in options.compared:
        asked = _many(jobs, batch)
        seconds = {
            name: _Clock(model, method, asked, more) for name, (method, more) in ours.items()
        }
        for name in options.searches:
            seconds[name] = _Search(model, METHODS[name], asked, options.timed)
        for _ in range(options.rounds):
            for clock in seconds.values():
                clock.turn()
        for name in (*options.searches, *ours):
            taken = seconds[name].seconds() / batch
            ratios = [
                f"{seconds[other].seconds() / batch / taken:.0f}" for other in options.searches
            ]
            cells = [name, f"{batch}", f"{reached[name]:.2f}", f"{taken:.4f}", *ratios]
            print("|", " | ".join(cells), "|", flush=True)


def _grow(model: DCGAN, jobs: Sequence[Task], options: argparse.Namespace) -> None:
    """Print seconds an image and peak memory against the size of the batch and against the number of candidates."""
    ways = [
        (name, images, images, 1) for images in options.batches for name in ("instant", "default")
    ]
    ways += [
        (name, 4 * options.batch, options.batch, lanes)
        for lanes in options.candidates
        for name in ("instant", "default")
    ]
    clocks = [
        _Clock(model, METHODS[name], _many(jobs, images), {"batch": batch, "candidates": lanes})
        for name, images, batch, lanes in ways
    ]
    for _ in range(min(3, options.rounds)):
        for clock in clocks:
            clock.turn()
    print("\n| method | images | --batch | candidates | s an image | peak, MiB |")
    print("|---|---|---|---|---|---|")
    for (name, images, batch, lanes), clock in zip(ways, clocks, strict=True):
        peak = _peak(name, images, batch, options) if lanes == 1 else ""
        cells = [name, images, batch, lanes, f"{clock.seconds() / images:.4f}", peak]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    if options.batches:
        many = max(options.batches)
        for batch in (16, 64):
            print(
                f"| default | {many} | {batch} | 1 | | {_peak('default', many, batch, options)} |"
            )


class _Clock:
    """The median time of completing some images in one batch or several."""

    def __init__(
        self, model: DCGAN, method: Method, jobs: Sequence[Task], more: dict[str, object]
    ) -> None:
        self._ask = (model, method, jobs)
        self._more = {"batch": len(jobs), **more}
        self._taken: list[float] = []
        self.turn()
        self._taken.clear()  # the first is a warm-up

    def turn(self) -> None:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        started = clock()
        _run(*self._ask, **self._more)
        self._taken.append(clock() - started)

    def seconds(self) -> float:
        return statistics.median(self._taken)


class _Search:
    """The median time of a thousand steps, from runs of some and of one: the difference is of the steps alone."""

    def __init__(self, model: DCGAN, method: Method, jobs: Sequence[Task], timed: int) -> None:
        self._timed = timed
        self._long, self._short = (
            _Clock(model, replace(method, steps=steps), jobs, {}) for steps in (timed + 1, 1)
        )

    def turn(self) -> None:
        self._long.turn()
        self._short.turn()

    def seconds(self) -> float:
        step = (self._long.seconds() - self._short.seconds()) / self._timed
        return self._short.seconds() + (_STEPS - 1) * step


def _run(model: DCGAN, method: Method, jobs: Sequence[Task], **more: object) -> list[Completion]:
    settings = {"batch": 64, "snapshots": (), **more}
    return list(complete(model, jobs, CompletionOptions(method, **settings)))  # type: ignore[arg-type]


def _psnr(found: Sequence[Completion], jobs: Sequence[Task]) -> float:
    pairs = zip(found, jobs, strict=True)
    decibels = [
        psnr(each.candidates[0].picture.pixels, job.picture.pixels, job.mask.hole)
        for each, job in pairs
    ]
    return float(np.mean(decibels))


def _peak(method: str, images: int, batch: int, options: argparse.Namespace) -> int:
    """Return the peak resident memory, in MiB, of a process of its own that completes so many images."""
    words = [sys.executable, __file__, "--alone", method, str(images), str(batch)]
    words += ["--images", str(options.images), "--mask", options.mask]
    if options.held_out is not None:
        words += ["--held-out", str(options.held_out)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def jobs_of(model: DCGAN, count: int, mask: str, records: Path | None) -> list[Task]:
    """Return so many images to complete, of records or the bundled ones."""
    pictures = [open_image(pixels) for pixels in _pixels(model, count, records)]
    return [
        Task(picture, make_mask(mask, picture.height, picture.width, seed=number), str(number))
        for number, picture in enumerate(pictures)
    ]


def _pixels(model: DCGAN, count: int, records: Path | None) -> list[Pixels]:
    if records is not None:
        held = Records(records)
        chosen = np.sort(np.random.default_rng(0).permutation(len(held))[:count])
        return list(held.images(chosen))
    paths = list(find_images(BUNDLED / "characters"))
    chosen = np.linspace(0, len(paths) - 1, count).astype(int)
    pictures: list[Picture] = [open_image(paths[number]) for number in chosen]
    return [to_channels(each.pixels, model.settings.channels) for each in pictures]


def _many(jobs: Sequence[Task], count: int) -> list[Task]:
    """Return so many jobs, the first again where there are not enough."""
    return [jobs[number % len(jobs)] for number in range(count)]


if __name__ == "__main__":
    main()
