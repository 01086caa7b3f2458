"""Hole PSNR and SSIM of methods, answers and baselines on held-out images, in one run.

    python benchmarks/completion.py MODEL TRAIN_RECORDS HELD_OUT_RECORDS [--images 64]
                                    [--methods instant default yeh:0.1]

Baselines and metrics are those of `pixmend evaluate`, which also tells how sure each figure is; this is the quick table. The held-out
records must be of families (fonts, species) that are not in the training records. A method takes its own number of steps, or with
`:share` that share of them. Prints a markdown table of mean dB, of mean SSIM over the hole, and of seconds an image.
"""

import argparse
import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from pixmend.evaluation import BASELINES, find_methods
from pixmend.evaluation.baselines import missing_requirement
from pixmend.evaluation.metrics import psnr, ssim_map
from pixmend.masks import make_mask
from pixmend.models import load_model
from pixmend.records import Records

_MASKS = ("center", "half", "random:0.8", "grid", "strokes")
_METHODS = ("instant", "default")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("train", type=Path)
    parser.add_argument("held_out", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--masks", nargs="+", default=_MASKS)
    parser.add_argument("--methods", nargs="*", default=_METHODS)
    options = parser.parse_args()
    model = load_model(options.model)
    held_out = Records(options.held_out)
    chosen = np.random.default_rng(0).permutation(len(held_out))[: options.images]
    images = held_out.images(np.sort(chosen))
    train = Records(options.train).load_all(2**34)
    assert train is not None
    print(
        f"{len(images)} images of {len(held_out):,}, {len(train):,} training images, {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}\n"
    )
    baselines = [name for name in BASELINES if missing_requirement(name, train) is None]
    methods = find_methods([*baselines, *options.methods], model, train)
    masks = {
        spec: [make_mask(spec, *images.shape[1:3], seed=number) for number in range(len(images))]
        for spec in options.masks
    }
    print("| |", " | ".join(f"{spec} PSNR | SSIM" for spec in masks), "| s/image |")
    print("|---" * (2 * len(masks) + 2) + "|")
    for each in methods:
        cells, seconds = [], []
        for drawn in masks.values():
            answers = each.run(images, drawn, lambda: False)
            triples = list(zip(answers, images, drawn, strict=True))
            decibels = [psnr(answer.pixels, image, mask.hole) for answer, image, mask in triples]
            similar = [
                ssim_map(answer.pixels, image)[mask.hole].mean() for answer, image, mask in triples
            ]
            cells += [f"{np.mean(decibels):.2f}", f"{np.mean(similar):.3f}"]
            seconds += [answer.seconds for answer in answers]
        print(f"| {each.label} |", " | ".join(cells), f"| {np.mean(seconds):.3f} |", flush=True)


if __name__ == "__main__":
    main()
