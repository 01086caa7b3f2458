"""Compare options of training one at a time, in short runs of equal length, on one or more record folders.

    python benchmarks/ablation.py OUT RECORDS [RECORDS ...] [--steps 400] [--variants default hinge]
                                  [--set filters=32]

Prints a markdown table per record folder: KID x 1000 and diversity of 1,024 samples, in the
features of a fixed random network, and mean seconds per step. OUT gets the runs, and a picture per
record folder with a row of samples per variant, from the same latents. Short runs show the early
effect of an option, not which model is best in the end.
"""

import argparse
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pixmend.images import encode_png, grid, to_pixels
from pixmend.models import DCGAN, load_model, sample_latents
from pixmend.records import Records
from pixmend.rng import generator_for
from pixmend.training import parse_overrides, resolve, train

VARIANTS: dict[str, dict[str, object]] = {
    "default": {},
    "no EMA": {"ema_decay": 0.0},
    "hinge": {"loss": "hinge"},
    "r1_gamma": {"r1_gamma": 1.0},
    "spectral norm": {"spectral_norm": True},
    "hinge, spectral norm": {"loss": "hinge", "spectral_norm": True},
    "diffaugment": {"diffaugment": "colour,translation,cutout"},
    "diffaugment, half": {
        "diffaugment": "colour,translation,cutout",
        "diffaugment_probability": 0.5,
    },
    "translation": {"diffaugment": "translation"},
    "horizontal_flip": {"horizontal_flip": True},
    "cosine": {"lr_schedule": "cosine", "warmup": 0.05},
    "ttur": {"learning_rate": 1e-4, "discriminator_learning_rate": 4e-4},
    "r1, diffaugment": {"r1_gamma": 1.0, "diffaugment": "colour,translation,cutout"},
}
_SAMPLES = 1024
_SHOWN = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("records", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--set", nargs="+", default=["filters=32"], dest="pairs")
    options = parser.parse_args()
    print(
        f"{options.steps} steps, {' '.join(options.pairs)}, {datetime.now(UTC):%Y-%m-%d}, "
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for folder in options.records:
        _compare(folder, options)


def _compare(folder: Path, options: argparse.Namespace) -> None:
    records = Records(folder)
    real = records.load_all(2**34)
    assert real is not None
    measure = _Measure(real)
    print(f"\n{folder.name}: {len(real):,} images, {real.shape[1]} px, {records.channels}\n")
    print("| variant | KID x 1000 | diversity | s/step |\n|---|---|---|---|")
    print(
        f"| (real images: one half against the other) | {measure.floor():.1f} | 1.00 | |",
        flush=True,
    )
    rows = []
    for name in options.variants:
        run = options.out / folder.name / name.replace(", ", "-").replace(" ", "-")
        settings = resolve(
            {"size": real.shape[1], "channels": records.channels, "checkpoint_every": 10**6},
            {"steps": options.steps, **parse_overrides(options.pairs), **VARIANTS[name]},
        )
        started = time.perf_counter()
        *_, last = train(records, run, settings)
        seconds = (time.perf_counter() - started) / last.step
        fake = _samples(load_model(run))
        rows.append(fake[:_SHOWN])
        kid, diversity = measure.kid(fake), measure.diversity(fake)
        print(f"| {name} | {kid:.1f} | {diversity:.2f} | {seconds:.3f} |", flush=True)
        picture = grid(np.concatenate(rows), columns=_SHOWN, min_cell=48)
        (options.out / f"{folder.name}.png").write_bytes(encode_png(picture))


def _samples(model: DCGAN) -> NDArray[np.uint8]:
    z = sample_latents(model.settings, _SAMPLES, generator_for(0, "ablation"))
    with torch.no_grad():
        return np.concatenate([to_pixels(model.generator(part)) for part in z.split(128)])


class _Measure:
    """Distances to real images in the features of a random network, the same in every run."""

    def __init__(self, real: NDArray[np.uint8]) -> None:
        chosen = np.random.default_rng(0).permutation(len(real))[: 2 * _SAMPLES]
        features = _features(real[chosen])
        self._mean, self._std = features.mean(0), features.std(0) + 1e-6
        self._real = self._scaled(features)
        self._spread = _spread(self._real)

    def kid(self, images: NDArray[np.uint8]) -> float:
        """Return 1000 x the unbiased MMD^2 of the kernel (x y / d + 1)^3 (Binkowski 2018, sec. 4)."""
        return 1000 * _mmd(self._real, self._scaled(_features(images)))

    def floor(self) -> float:
        return 1000 * _mmd(self._real[::2], self._real[1::2])

    def diversity(self, images: NDArray[np.uint8]) -> float:
        """Return the mean distance of two samples relative to that of two real images."""
        return _spread(self._scaled(_features(images))) / self._spread

    def _scaled(self, features: Tensor) -> Tensor:
        return (features - self._mean) / self._std


@torch.no_grad()
def _features(images: NDArray[np.uint8]) -> Tensor:
    """Return [N, D]: maps of three random strided convolutions, averaged over a 4 x 4 grid."""
    features = []
    for part in np.array_split(images, max(1, len(images) // 256)):
        maps = torch.from_numpy(part.copy()).permute(0, 3, 1, 2).float() / 255
        if maps.shape[1] == 4:  # composited over white, with the alpha channel
            alpha = maps[:, 3:]
            maps = torch.cat([maps[:, :3] * alpha + 1 - alpha, alpha], 1)
        levels = []
        for depth, width in enumerate((32, 64, 128)):
            shape = (width, maps.shape[1], 4, 4)
            weight = torch.randn(shape, generator=generator_for(0, "ablation", "features", depth))
            maps = F.leaky_relu(F.conv2d(maps, weight / weight[0].numel() ** 0.5, None, 2, 1), 0.2)
            levels.append(F.adaptive_avg_pool2d(maps, min(4, maps.shape[2])).flatten(1))
        features.append(torch.cat(levels, 1))
    return torch.cat(features).double()


def _mmd(real: Tensor, fake: Tensor) -> float:
    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def without_self(matrix: Tensor) -> Tensor:
        count = len(matrix)
        return (matrix.sum() - matrix.trace()) / (count * (count - 1))

    within = without_self(kernel(real, real)) + without_self(kernel(fake, fake))
    return float(within - 2 * kernel(real, fake).mean())


def _spread(features: Tensor) -> float:
    return float(torch.pdist(features).mean())


if __name__ == "__main__":
    main()
