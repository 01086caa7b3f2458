from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pixmend.records import Manifest, PackSettings, pack

from .helpers import noise


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    def make(count: int = 10, classes: int = 2, name: str = "images") -> Path:
        folder = tmp_path / name
        for number in range(count):
            path = folder / f"Sample{number % classes + 1:03d}" / f"img{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(number)).save(path)
        return folder

    return make


@pytest.fixture
def packed(make_folder: Callable[..., Path], tmp_path: Path) -> tuple[Path, Manifest]:
    """Ten images in three shards."""
    out = tmp_path / "records"
    settings = PackSettings(size=8, images_per_shard=4)
    return out, pack(make_folder(), out, settings, workers=1)
