"""Hole PSNR of every method and of two trivial rivals, on held-out images, in one run.

    python benchmarks/completion.py MODEL TRAIN_RECORDS HELD_OUT_RECORDS [--images 64] [--steps-share 1.0]

Rivals: the mean training image, and the training image nearest on the known pixels. The held-out records must be of families (fonts,
species) that are not in the training records. Prints a markdown table of mean dB and of seconds an image.
"""

import argparse
import platform
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.completion import METHODS, Job, Options, complete
from pixmend.images import open_image
from pixmend.masks import Mask, make_mask
from pixmend.models import load_model
from pixmend.records import Records

_MASKS = ("center", "half", "random:0.8", "grid", "strokes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--masks", nargs="+", default=_MASKS)
    parser.add_argument("--steps-share", type=float, default=1.0, help="of each method's own steps")
    options = parser.parse_args()
    model = load_model(options.model)
    held_out = Records(options.held_out)
    chosen = np.random.default_rng(0).permutation(len(held_out))[: options.images]
    images = held_out.images(np.sort(chosen))
    train = Records(options.train).resident(2**34)
    assert train is not None
    print(
        f"{len(images)} images, {len(train):,} training images, {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"steps x {options.steps_share}\n"
    )
    methods = [
        method.fitted(model)
        for method in METHODS.values()
        if method.encoder != "always" or model.encoder is not None
    ]
    names = ["mean", "nearest", *(method.name for method in methods)]
    print("| mask |", " | ".join(names), "|")
    print("|---" * (len(names) + 1) + "|")
    for spec in options.masks:
        masks = [make_mask(spec, *images.shape[1:3], seed=number) for number in range(len(images))]
        cells = [f"{_psnr(np.broadcast_to(train.mean(0), images.shape), images, masks):.1f}"]
        cells.append(f"{_psnr(_nearest(train, images, masks), images, masks):.1f}")
        for method in methods:
            shortened = replace(method, steps=round(method.steps * options.steps_share))
            jobs = [Job(open_image(image), mask) for image, mask in zip(images, masks, strict=True)]
            started = time.perf_counter()
            found = list(complete(model, jobs, Options(shortened, snapshots=(), batch=32)))
            seconds = (time.perf_counter() - started) / len(images)
            answers = np.stack([result.candidates[0].picture.pixels for result in found])
            cells.append(f"{_psnr(answers, images, masks):.1f} ({seconds:.2f} s)")
        print(f"| {spec} |", " | ".join(cells), "|", flush=True)


def _psnr(answers: NDArray[np.generic], images: NDArray[np.uint8], masks: list[Mask]) -> float:
    """Return the mean over images of the PSNR of the hole, in dB."""
    values = []
    for answer, image, mask in zip(
        answers.astype(np.float64), images.astype(np.float64), masks, strict=True
    ):
        error = np.square(answer - image)[mask.hole].mean()
        values.append(10 * np.log10(255**2 / max(error, 1e-2)))
    return float(np.mean(values))


def _nearest(
    train: NDArray[np.uint8], images: NDArray[np.uint8], masks: list[Mask]
) -> NDArray[np.uint8]:
    """Return the training image nearest to each image on its known pixels."""
    flat = train.reshape(len(train), -1).astype(np.float32)
    squares = np.square(flat)
    found = []
    for image, mask in zip(images, masks, strict=True):
        known = np.repeat(mask.known[..., None], image.shape[-1], axis=2).ravel().astype(np.float32)
        wanted = image.ravel().astype(np.float32) * known
        found.append(train[np.argmin(squares @ known - 2 * (flat @ wanted))])
    return np.stack(found)


if __name__ == "__main__":
    main()
