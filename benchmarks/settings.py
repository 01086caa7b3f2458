"""What each setting of the search buys, one at a time, and what seams each blend leaves.

    python benchmarks/settings.py [--images 16] [--masks center half random:0.8] [--steps 100] [--restarts 2] [--held-out RECORDS]

The model is the bundled one without its encoder, the images its bundled glyphs, of fonts that it was not trained on, or those of records.
Each row differs from the first in one thing. Prints mean hole PSNR in dB, pasted. A seam is the mean absolute difference of neighbours of
which one is known and one missing, over that of the same neighbours in the originals; its rows are of `instant`, encoder and all.
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
from speed import jobs_of

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
    asked = {mask: jobs_of(model, options.images, mask, options.held_out) for mask in options.masks}
    alone = replace(model, encoder=None, retrieval=None)
    base = replace(_BASE, steps=options.steps, restarts=options.restarts)
    print("| setting |", " | ".join(asked), "|")
    print("|---" * (1 + len(asked)) + "|")
    for name, method in _variants(base).items():
        cells = [f"{_psnr(_run(alone, method, jobs), jobs):.2f}" for jobs in asked.values()]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)
    print("\n| seam of |", " | ".join(asked), "|")
    print("|---" * (1 + len(asked)) + "|")
    for blend in ("paste", "feather", "poisson"):
        method = replace(METHODS["instant"], blend=blend)
        cells = [f"{_seam(_run(model, method, jobs), jobs):.2f}" for jobs in asked.values()]
        print(f"| {blend} |", " | ".join(cells), "|", flush=True)


def _variants(base: Method) -> dict[str, Method]:
    """Return methods by what sets them apart from the first."""
    return {
        f"window {base.weight_window}, lambda {base.lambda_perceptual}, bank {base.init_pool}, {base.restarts} restarts": base,
        "window 3": replace(base, weight_window=3),
        "window 15": replace(base, weight_window=15),
        "no window: known pixels alike": replace(base, weight_window=0, min_weight=1.0),
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


def _run(model: DCGAN, method: Method, jobs: Sequence[Task]) -> list[Completion]:
    return list(complete(model, jobs, CompletionOptions(method, snapshots=(), batch=64)))


def _psnr(found: Sequence[Completion], jobs: Sequence[Task]) -> float:
    pairs = zip(found, jobs, strict=True)
    return float(
        np.mean([psnr(_drawn(each), job.picture.pixels, job.mask.hole) for each, job in pairs])
    )


def _seam(found: Sequence[Completion], jobs: Sequence[Task]) -> float:
    """Return the mean gradient across the borders of all holes over that of the originals."""
    ours, theirs = (
        sum(_across(pixels, job.mask.hole) for pixels, job in pairs)
        for pairs in (
            [(_drawn(each), job) for each, job in zip(found, jobs, strict=True)],
            [(job.picture.pixels, job) for job in jobs],
        )
    )
    return ours / theirs


def _across(pixels: Pixels, hole: np.ndarray) -> float:  # type: ignore[type-arg]
    """Return the sum of absolute differences over the pairs of neighbours of which one is missing."""
    values, total = pixels.astype(np.float64), 0.0
    for axis in (0, 1):
        steps = np.abs(np.diff(values, axis=axis)).mean(2)
        total += float(steps[np.diff(hole, axis=axis)].sum())
    return total


def _drawn(found: Completion) -> Pixels:
    return found.candidates[0].picture.pixels


if __name__ == "__main__":
    main()
