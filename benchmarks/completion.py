"""Hole PSNR and SSIM of methods, answers and rivals on held-out images, in one run.

    python benchmarks/completion.py MODEL TRAIN_RECORDS HELD_OUT_RECORDS [--images 64] [--methods instant default yeh:0.1]

Rivals: the mean training image; the training image nearest on the known pixels; and, where the extra `bench` is installed, OpenCV's Telea
and Navier-Stokes and scikit-image's biharmonic inpainting. The held-out records must be of families (fonts, species) that are not in the
training records. A method takes its own number of steps, or with `:share` that share of them. Prints a markdown table of mean dB, of
mean SSIM over the hole, and of seconds an image.
"""

import argparse
import importlib.util
import os
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pixmend.completion import Answer, Job, Options, complete, find_method
from pixmend.images import open_image
from pixmend.masks import Mask, make_mask
from pixmend.models import DCGAN, load_model
from pixmend.records import Records

_MASKS = ("center", "half", "random:0.8", "grid", "strokes")
_METHODS = ("instant", "default")

Images: TypeAlias = NDArray[np.uint8]  # [N, H, W, C]
Fill: TypeAlias = Callable[[Images, list[Mask]], Images]


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
    train = Records(options.train).resident(2**34)
    assert train is not None
    print(
        f"{len(images)} images of {len(held_out):,}, {len(train):,} training images, {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.processor() or platform.machine()}, load {os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}\n"
    )
    fills = {**rivals(train), **answers(model, options.methods)}
    masks = {
        spec: [make_mask(spec, *images.shape[1:3], seed=number) for number in range(len(images))]
        for spec in options.masks
    }
    print("| |", " | ".join(f"{spec} PSNR | SSIM" for spec in masks), "| s an image |")
    print("|---" * (2 * len(masks) + 2) + "|")
    for name, fill in fills.items():
        cells, started = [], time.perf_counter()
        found = {spec: fill(images, drawn) for spec, drawn in masks.items()}
        seconds = (time.perf_counter() - started) / len(images) / len(masks)
        for spec, filled in found.items():
            cells.append(f"{psnr(filled, images, masks[spec]):.2f}")
            cells.append(f"{ssim(filled, images, masks[spec]):.3f}")
        print(f"| {name} |", " | ".join(cells), f"| {seconds:.3f} |", flush=True)


def rivals(train: Images) -> dict[str, Fill]:
    """Return what needs no model."""
    found: dict[str, Fill] = {
        "mean image": lambda images, masks: np.broadcast_to(
            train.mean(0).round().astype(np.uint8), images.shape
        ),
        "nearest training image": lambda images, masks: nearest(train, images, masks),
    }
    if importlib.util.find_spec("cv2"):
        import cv2

        found["Telea"] = lambda images, masks: opencv(images, masks, cv2.INPAINT_TELEA)
        found["Navier-Stokes"] = lambda images, masks: opencv(images, masks, cv2.INPAINT_NS)
    if importlib.util.find_spec("skimage"):
        found["biharmonic"] = biharmonic
    return found


def answers(model: DCGAN, names: list[str]) -> dict[str, Fill]:
    """Return each method's sharp answer, and the average where the model has an encoder for it."""
    found: dict[str, Fill] = {}
    for name in names:
        base, _, share = name.partition(":")
        method = find_method(base).fitted(model)
        if share:
            steps = max(1, round(method.steps * float(share)))
            method = replace(method, steps=steps, encoded_steps=steps)
        kinds: tuple[Answer, ...] = ("sharp",)
        if base == "default" and method.uses_encoder(model):
            kinds = ("sharp", "average")
        for kind in kinds:
            options = Options(method, snapshots=(), batch=32, answer=kind)

            def fill(images: Images, masks: list[Mask], options: Options = options) -> Images:
                jobs = [
                    Job(open_image(image), mask) for image, mask in zip(images, masks, strict=True)
                ]
                found = complete(model, jobs, options)
                pixels = [result.candidates[0].picture.pixels for result in found]
                return np.stack(pixels).astype(np.uint8)

            found[f"{name}, {kind}"] = fill
    return found


def psnr(filled: Images, images: Images, masks: list[Mask]) -> float:
    """Return the mean over images of the PSNR of the hole, in dB."""
    values = []
    for answer, image, mask in zip(
        filled.astype(np.float64), images.astype(np.float64), masks, strict=True
    ):
        error = np.square(answer - image)[mask.hole].mean()
        values.append(10 * np.log10(255**2 / max(error, 1e-2)))
    return float(np.mean(values))


def ssim(filled: Images, images: Images, masks: list[Mask]) -> float:
    """Return the mean over images of the SSIM of the hole's pixels, taken on the completed image (Wang 2004, windows of sigma 1.5)."""
    values = []
    for answer, image, mask in zip(filled, images, masks, strict=True):
        whole = np.where(mask.known[..., None], image, answer)
        x, y = (
            torch.from_numpy(each.astype(np.float64) / 255).permute(2, 0, 1)
            for each in (whole, image)
        )
        mean_x, mean_y = smoothed(x), smoothed(y)
        varied_x, varied_y = smoothed(x * x) - mean_x**2, smoothed(y * y) - mean_y**2
        together = smoothed(x * y) - mean_x * mean_y
        means = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
        spread = (2 * together + 9e-4) / (varied_x + varied_y + 9e-4)
        values.append(float((means * spread).mean(0).numpy()[mask.hole].mean()))
    return float(np.mean(values))


def smoothed(image: torch.Tensor) -> torch.Tensor:
    """Return [C, H, W] through a Gaussian of sigma 1.5 cut at 5 pixels, mirrored at the edges."""
    places = torch.arange(-5, 6, dtype=torch.float64)
    bell = torch.exp(-places.square() / (2 * 1.5**2))
    bell = bell / bell.sum()
    padded = F.pad(image[:, None], (5, 5, 5, 5), mode="reflect")
    across = F.conv2d(padded, bell.view(1, 1, 1, -1))
    return F.conv2d(across, bell.view(1, 1, -1, 1))[:, 0]


def nearest(train: Images, images: Images, masks: list[Mask]) -> Images:
    """Return the training image nearest to each image on its known pixels."""
    flat = train.reshape(len(train), -1).astype(np.float32)
    squares = np.square(flat)
    found = []
    for image, mask in zip(images, masks, strict=True):
        known = np.repeat(mask.known[..., None], image.shape[-1], axis=2).ravel().astype(np.float32)
        wanted = image.ravel().astype(np.float32) * known
        found.append(train[np.argmin(squares @ known - 2 * (flat @ wanted))])
    return np.stack(found)


def opencv(images: Images, masks: list[Mask], kind: int) -> Images:
    """Return OpenCV's inpainting, channel by channel: it knows one and three of them only."""
    import cv2

    return np.stack(
        [
            np.stack(
                [
                    cv2.inpaint(np.ascontiguousarray(band), mask.hole.astype(np.uint8), 3, kind)
                    for band in image.transpose(2, 0, 1)
                ],
                axis=-1,
            )
            for image, mask in zip(images, masks, strict=True)
        ]
    )


def biharmonic(images: Images, masks: list[Mask]) -> Images:
    """Return scikit-image's biharmonic inpainting."""
    from skimage.restoration import inpaint_biharmonic

    filled = [
        inpaint_biharmonic(image / 255, mask.hole, channel_axis=-1)
        for image, mask in zip(images, masks, strict=True)
    ]
    return (np.stack(filled).clip(0, 1) * 255).round().astype(np.uint8)


if __name__ == "__main__":
    main()
