"""A tiny data set and the smallest run that is still a run."""

import shutil

import numpy as np
import pytest

from pixmend.images import encode_png
from pixmend.records import PackSettings, Records, pack
from pixmend.training import resolve, train

TINY = {
    "size": 16,
    "channels": "L",
    "filters": 4,
    "latent_dim": 6,
    "batch_size": 8,
    "grid_images": 4,
    "checkpoint_every": 4,
    "log_every": 2,
    "steps": 10,
    "device": "cpu",
    "precision": "float32",
    "monitor": False,
}

FAMILIES = 30
FACES = 10

# Everything that is off by default, at once.
ALL_OPTIONS = {
    "loss": "hinge",
    "n_critic": 2,
    "reuse_fakes": False,
    "discriminator_learning_rate": 4e-4,
    "feature_matching": 0.05,
    "r1_gamma": 1.0,
    "r1_every": 3,
    "spectral_norm": True,
    "diffaugment": "colour,translation,cutout",
    "diffaugment_probability": 0.7,
    "horizontal_flip": True,
    "lr_schedule": "cosine",
    "warmup": 0.2,
}

INPAINTER = {
    "inpainter_filters": 8,
    "inpainter_batch": 8,
    "inpainter_draws": 2,
    "retrieval_images": 12,
}


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(20):
        pixels = generator.integers(0, 256, (16, 16, 1), np.uint8)
        (folder / f"{index:02}.png").write_bytes(encode_png(pixels))
    return folder


@pytest.fixture(scope="session")
def record_folder(image_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("records") / "packed"
    pack(image_folder, out, PackSettings(size=16, channels="L"), workers=1)
    return out


@pytest.fixture(scope="session")
def records(record_folder):
    return Records(record_folder)


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory):
    """Thirty families of ten images; every second family has the same fourth image."""
    folder = tmp_path_factory.mktemp("families")
    generator = np.random.default_rng(1)
    twin = generator.integers(0, 256, (16, 16, 1), np.uint8)
    for family in range(FAMILIES):
        for face in range(FACES):
            pixels = generator.integers(0, 256, (16, 16, 1), np.uint8)
            shared = face == 3 and family % 2 == 0
            name = f"{chr(97 + family % 26) * (1 + family // 26)}__{face}.png"
            (folder / name).write_bytes(encode_png(twin if shared else pixels))
    return folder


@pytest.fixture(scope="session")
def family_records(family_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("family_records") / "packed"
    pack(family_folder, out, PackSettings(size=16, channels="L"), workers=1)
    return Records(out)


@pytest.fixture
def tiny():
    """Return settings of a tiny run, with changes."""

    def settings(**changes):
        return resolve({**TINY, **changes})

    return settings


@pytest.fixture(scope="session")
def ten_steps(records, tmp_path_factory):
    """An uninterrupted run of ten steps, which no test changes."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    list(train(records, run, resolve(TINY)))
    return run


@pytest.fixture
def whole(ten_steps, tmp_path):
    """An uninterrupted run of ten steps of one's own."""
    return shutil.copytree(ten_steps, tmp_path / "whole")
