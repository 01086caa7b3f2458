"""Compare settings of the search one at a time, and the seams that each blend leaves.

    python benchmarks/settings.py [--images 16] [--masks center half random:0.8] [--steps 100]
                                  [--restarts 2] [--held-out RECORDS]

Uses the bundled model without its inpainter on its bundled glyphs, of unseen fonts, or on records.
Each row differs from the first in one setting. Prints mean hole PSNR in dB of pasted results. The
boundary ratio is the mean absolute difference of neighbours across the hole's border, relative to
that of the same neighbours in the originals; its rows are of `instant`, with the inpainter.
"""

import argparse
import os
import platform
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from speed import tasks_of

from pixmend.completion import METHODS, Completion, CompletionOptions, Method, Task, complete
from pixmend.completion.objective import latent_norm
from pixmend.evaluation.metrics import psnr
from pixmend.images import Pixels
from pixmend.models import DCGAN, load_model

_BASE = replace(METHODS["default"], init_pool=256, blend="paste")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--masks", nargs="+", default=["center", "half", "random:0.8"])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--held-out", type=Path, default=None)
    options = parser.parse_args()
    model = load_model("characters")
    print(
        f"{options.images} glyphs, {options.steps} steps, {datetime.now(UTC):%Y-%m-%d}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}\n"
    )
    tasks = {
        mask: tasks_of(model, options.images, mask, options.held_out) for mask in options.masks
    }
    plain = replace(model, inpainter=None, retrieval=None)
    base = replace(_BASE, steps=options.steps, restarts=options.restarts)
    print("| setting |", " | ".join(tasks), "|")
    print("|---" * (1 + len(tasks)) + "|")
    for name, method in _variants(base).items():
        cells = [f"{_psnr(_run(plain, method, part), part):.2f}" for part in tasks.values()]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)
    print("\n| boundary ratio of |", " | ".join(tasks), "|")
    print("|---" * (1 + len(tasks)) + "|")
    for blend in ("paste", "feather", "poisson"):
        method = replace(METHODS["instant"], blend=blend)
        cells = [f"{_ratio(_run(model, method, part), part):.2f}" for part in tasks.values()]
        print(f"| {blend} |", " | ".join(cells), "|", flush=True)


def _variants(base: Method) -> dict[str, Method]:
    """Return variants of ``base`` by the setting that differs."""
    return {
        f"window {base.weight_window}, lambda {base.lambda_perceptual}, bank {base.init_pool}, {base.restarts} restarts": base,
        "window 3": replace(base, weight_window=3),
        "window 15": replace(base, weight_window=15),
        "no window: equal weights": replace(base, weight_window=0, min_weight=1.0),
        "lambda 0": replace(base, lambda_perceptual=0.0),
        "lambda 1": replace(base, lambda_perceptual=1.0),
        "norm prior 0.01": replace(base, terms=((latent_norm, 0.01),)),
        "norm prior 0.1": replace(base, terms=((latent_norm, 0.1),)),
        "bank 1": replace(base, init_pool=1, restarts=1),
        "bank 2048": replace(base, init_pool=2048),
        "1 restart": replace(base, restarts=1),
        f"{4 * base.restarts} restarts": replace(base, restarts=4 * base.restarts),
        "refined, 6 steps": replace(base, finetune=6),
        "refined, 12 steps": replace(base, finetune=12),
        "refined, 24 steps": replace(base, finetune=24),
    }


def _run(model: DCGAN, method: Method, tasks: Sequence[Task]) -> list[Completion]:
    return list(complete(model, tasks, CompletionOptions(method, snapshots=(), batch=64)))


def _psnr(results: Sequence[Completion], tasks: Sequence[Task]) -> float:
    pairs = zip(results, tasks, strict=True)
    return float(
        np.mean(
            [psnr(_best(result), task.picture.pixels, task.mask.hole) for result, task in pairs]
        )
    )


def _ratio(results: Sequence[Completion], tasks: Sequence[Task]) -> float:
    """Return the boundary ratio over all holes."""
    ours, theirs = (
        sum(_border_steps(pixels, task.mask.hole) for pixels, task in pairs)
        for pairs in (
            [(_best(result), task) for result, task in zip(results, tasks, strict=True)],
            [(task.picture.pixels, task) for task in tasks],
        )
    )
    return ours / theirs


def _border_steps(pixels: Pixels, hole: np.ndarray) -> float:  # type: ignore[type-arg]
    """Return the sum of absolute differences of neighbours across the hole's border."""
    values, total = pixels.astype(np.float64), 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).mean(2)
        total += float(steps[np.diff(hole, axis=axis)].sum())
    return total


def _best(result: Completion) -> Pixels:
    return result.candidates[0].picture.pixels


if __name__ == "__main__":
    main()
