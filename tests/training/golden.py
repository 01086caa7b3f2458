"""Twenty steps of training, loss by loss; run as a program it keeps them: ``python -m tests.training.golden``."""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from pixmend.images import encode_png
from pixmend.records import PackSettings, Records, pack
from pixmend.training import resolve, train
from tests.training.conftest import ALL_OPTIONS, TINY

KEPT = Path(__file__).parent / "golden_losses.json"
RUNS = {
    "default": {"channels": "L"},
    "fresh draws": {"channels": "L", "reuse_fakes": False},
    "all options": {"channels": "RGBA", **ALL_OPTIONS},
}


def losses_of(name, folder):
    """Return D's and G's loss at each step of the run of that name, made in an empty folder."""
    settings = resolve({**TINY, "steps": 20, "checkpoint_every": 20, **RUNS[name]})
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    channels = {"L": 1, "RGBA": 4}[settings.channels]
    for index in range(20):
        pixels = generator.integers(0, 256, (16, 16, channels), np.uint8)
        (folder / "images" / f"{index:02}.png").write_bytes(encode_png(pixels))
    packing = PackSettings(size=16, channels=settings.channels)
    pack(folder / "images", folder / "records", packing, workers=1)
    steps = list(train(Records(folder / "records"), folder / "run", settings))[:-1]
    return [[float(f"{loss:.6g}") for loss in (now.loss_d, now.loss_g)] for now in steps]


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = {name: losses_of(name, Path(folder) / name) for name in RUNS}
    lines = [f'"{name}": [\n{_rows(losses)}\n]' for name, losses in found.items()]
    KEPT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _rows(losses):
    return ",\n".join(json.dumps(pair) for pair in losses)


if __name__ == "__main__":
    main()
