"""Compare the time of each method with that of a thousand search steps, and the growth of cost.

    python benchmarks/speed.py [--images 64] [--mask center] [--batches 1 8 64 512]
                               [--candidates 1 4 16] [--held-out RECORDS]

Uses the bundled model on its bundled glyphs, of unseen fonts, or on records. All methods of a batch
take turns, `--rounds` times, so that other programs slow them equally. Times are medians: CPU time
if torch has one thread (wall time on an idle machine), else wall time. A search of a thousand steps
is timed on `--timed` of them, and its PSNR comes from one full run (`--reach 0` skips it). Peak
resident memory is measured in a process per row (Linux).
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
    parser.add_argument("--images", type=int, default=64, help="images of the PSNR")
    parser.add_argument("--mask", default="center")
    parser.add_argument("--held-out", type=Path, default=None)
    parser.add_argument("--searches", nargs="*", default=["yeh", "classic"])
    parser.add_argument(
        "--compared", type=int, nargs="*", default=[1, 64], help="batch sizes of the comparison"
    )
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 64, 512])
    parser.add_argument("--candidates", type=int, nargs="*", default=[1, 4, 16])
    parser.add_argument("--batch", type=int, default=16, help="batch size of the candidates table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--timed", type=int, default=20, help="timed search steps")
    parser.add_argument("--reach", type=int, default=_STEPS, help="search steps of the PSNR")
    parser.add_argument("--measure-peak", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    model = load_model("characters")
    tasks = tasks_of(model, options.images, options.mask, options.held_out)
    if options.measure_peak:
        method, images, batch = options.measure_peak
        peak_mib = watch_memory()
        _run(model, METHODS[method], _many(tasks, int(images)), batch=int(batch))
        print(round(peak_mib() or 0))
        return
    clock = "CPU" if torch.get_num_threads() == 1 else "wall"
    print(
        f"{len(tasks)} glyphs, mask {options.mask}, {datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, {clock} time, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}\n"
    )
    _compare(model, tasks, options)
    _grow(model, tasks, options)


def _compare(model: DCGAN, tasks: Sequence[Task], options: argparse.Namespace) -> None:
    """Print PSNR and seconds per image of thousand-step searches and of inpainter methods."""
    ours = {
        "instant": (METHODS["instant"], {}),
        "default": (METHODS["default"], {}),
        "default, average": (METHODS["default"], {"answer": "average"}),
    }
    reached = {
        name: _psnr(_run(model, method, tasks, **more), tasks)
        for name, (method, more) in ours.items()
    }
    for name in options.searches:
        searched = replace(METHODS[name], steps=options.reach)
        results = _run(model, searched, tasks) if options.reach else None
        reached[name] = float("nan") if results is None else _psnr(results, tasks)
    against = "".join(f" | {name} / it" for name in options.searches)
    print(f"| method | batch | hole PSNR, dB | s/image{against} |")
    print("|---" * (4 + len(options.searches)) + "|")
    for batch in options.compared:
        part = _many(tasks, batch)
        seconds = {name: _Clock(model, method, part, more) for name, (method, more) in ours.items()}
        for name in options.searches:
            seconds[name] = _Search(model, METHODS[name], part, options.timed)
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


def _grow(model: DCGAN, tasks: Sequence[Task], options: argparse.Namespace) -> None:
    """Print seconds per image and peak memory by batch size and number of candidates."""
    ways = [
        (name, images, images, 1) for images in options.batches for name in ("instant", "default")
    ]
    ways += [
        (name, 4 * options.batch, options.batch, draws)
        for draws in options.candidates
        for name in ("instant", "default")
    ]
    clocks = [
        _Clock(model, METHODS[name], _many(tasks, images), {"batch": batch, "candidates": draws})
        for name, images, batch, draws in ways
    ]
    for _ in range(min(3, options.rounds)):
        for clock in clocks:
            clock.turn()
    print("\n| method | images | --batch | candidates | s/image | peak MiB |")
    print("|---|---|---|---|---|---|")
    for (name, images, batch, draws), clock in zip(ways, clocks, strict=True):
        peak = _peak(name, images, batch, options) if draws == 1 else ""
        cells = [name, images, batch, draws, f"{clock.seconds() / images:.4f}", peak]
        print("|", " | ".join(map(str, cells)), "|", flush=True)
    if options.batches:
        many = max(options.batches)
        for batch in (16, 64):
            print(
                f"| default | {many} | {batch} | 1 | | {_peak('default', many, batch, options)} |"
            )


class _Clock:
    """The median time to complete some images in one or more batches."""

    def __init__(
        self, model: DCGAN, method: Method, tasks: Sequence[Task], more: dict[str, object]
    ) -> None:
        self._arguments = (model, method, tasks)
        self._more = {"batch": len(tasks), **more}
        self._seconds: list[float] = []
        self.turn()
        self._seconds.clear()  # the first is a warm-up

    def turn(self) -> None:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        started = clock()
        _run(*self._arguments, **self._more)
        self._seconds.append(clock() - started)

    def seconds(self) -> float:
        return statistics.median(self._seconds)


class _Search:
    """The median time of a thousand steps, extrapolated from runs of some steps and of one."""

    def __init__(self, model: DCGAN, method: Method, tasks: Sequence[Task], timed: int) -> None:
        self._timed = timed
        self._long, self._short = (
            _Clock(model, replace(method, steps=steps), tasks, {}) for steps in (timed + 1, 1)
        )

    def turn(self) -> None:
        self._long.turn()
        self._short.turn()

    def seconds(self) -> float:
        step = (self._long.seconds() - self._short.seconds()) / self._timed
        return self._short.seconds() + (_STEPS - 1) * step


def _run(model: DCGAN, method: Method, tasks: Sequence[Task], **more: object) -> list[Completion]:
    settings = {"batch": 64, "snapshots": (), **more}
    return list(complete(model, tasks, CompletionOptions(method, **settings)))  # type: ignore[arg-type]


def _psnr(results: Sequence[Completion], tasks: Sequence[Task]) -> float:
    pairs = zip(results, tasks, strict=True)
    decibels = [
        psnr(result.candidates[0].picture.pixels, task.picture.pixels, task.mask.hole)
        for result, task in pairs
    ]
    return float(np.mean(decibels))


def _peak(method: str, images: int, batch: int, options: argparse.Namespace) -> int:
    """Return the peak resident memory, MiB, of a separate process that completes the images."""
    words = [sys.executable, __file__, "--measure-peak", method, str(images), str(batch)]
    words += ["--images", str(options.images), "--mask", options.mask]
    if options.held_out is not None:
        words += ["--held-out", str(options.held_out)]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def tasks_of(model: DCGAN, count: int, mask: str, records: Path | None) -> list[Task]:
    """Return ``count`` tasks, of records or of the bundled images."""
    pictures = [open_image(pixels) for pixels in _pixels(model, count, records)]
    return [
        Task(picture, make_mask(mask, picture.height, picture.width, seed=number), str(number))
        for number, picture in enumerate(pictures)
    ]


def _pixels(model: DCGAN, count: int, records: Path | None) -> list[Pixels]:
    if records is not None:
        source = Records(records)
        chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
        return list(source.images(chosen))
    paths = list(find_images(BUNDLED / "characters"))
    chosen = np.linspace(0, len(paths) - 1, count).astype(int)
    pictures: list[Picture] = [open_image(paths[number]) for number in chosen]
    return [to_channels(each.pixels, model.settings.channels) for each in pictures]


def _many(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return ``count`` tasks, repeating them if there are fewer."""
    return [tasks[number % len(tasks)] for number in range(count)]


if __name__ == "__main__":
    main()
