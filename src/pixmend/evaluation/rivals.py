"""What completes images without our model: what a model has to beat to be worth its training."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.errors import SettingsError
from pixmend.masks import Mask
from pixmend.models import Retrieval

Images: TypeAlias = NDArray[np.uint8]  # [N, H, W, C]
Fill: TypeAlias = Callable[
    [Images, Sequence[Mask]], Images
]  # images and masks in, whole images out

RIVALS = {
    "mean": "the mean of the training images",
    "nearest": "the training image nearest on the known pixels",
    "telea": "Telea 2004, by OpenCV",
    "navier-stokes": "Bertalmio 2001, by OpenCV",
    "biharmonic": "biharmonic equations, by scikit-image",
}
_MODULES = {"telea": "cv2", "navier-stokes": "cv2", "biharmonic": "skimage"}
_RADIUS = 3  # pixels around each that OpenCV looks at


def absent(name: str, train: Images | None) -> str | None:
    """Return in words why a rival cannot take part, or None if it can."""
    module = _MODULES.get(name)
    if module is None:
        return None if train is not None else f"{name} needs --train-data RECORDS"
    if find_spec(module):
        return None
    return f"{name} needs the extra bench (pip install 'pixmend[bench]')"


def find_rival(name: str, train: Images | None) -> Fill:
    """Return a rival by name.

    Parameters
    ----------
    train
        The training images, for ``mean`` and ``nearest``.

    Raises
    ------
    SettingsError
        It needs what is not there.
    """
    missing = absent(name, train)
    if missing is not None:
        raise SettingsError(f"--methods {name}: {missing}")
    if name == "biharmonic":
        return _biharmonic
    if name in _MODULES:
        return _opencv(name)
    assert train is not None
    return _mean(train) if name == "mean" else _nearest(train)


def _mean(train: Images) -> Fill:
    mean = train.mean(0).round().astype(np.uint8)
    return lambda images, masks: np.broadcast_to(mean, images.shape)


def _nearest(train: Images) -> Fill:
    memory = Retrieval(_channels_first(train))

    def fill(images: Images, masks: Sequence[Mask]) -> Images:
        target = _channels_first(images).float() / 127.5 - 1  # [B, C, S, S]
        known = torch.from_numpy(np.stack([mask.known for mask in masks]))[:, None].float()
        found: Images = train[memory.nearest(target, known)[:, 0].numpy()]
        return found

    return fill


def _opencv(name: str) -> Fill:
    import cv2

    kind = cv2.INPAINT_TELEA if name == "telea" else cv2.INPAINT_NS

    def one(image: Images, mask: Mask) -> Images:
        # Channel by channel: it knows one and three of them only.
        hole = mask.hole.astype(np.uint8)
        bands = [np.ascontiguousarray(band) for band in image.transpose(2, 0, 1)]
        return np.stack([cv2.inpaint(band, hole, _RADIUS, kind) for band in bands], axis=-1)

    return lambda images, masks: np.stack(
        [one(image, mask) for image, mask in zip(images, masks, strict=True)]
    )


def _biharmonic(images: Images, masks: Sequence[Mask]) -> Images:
    from skimage.restoration import inpaint_biharmonic

    filled = [
        inpaint_biharmonic(image / 255, mask.hole, channel_axis=-1)
        for image, mask in zip(images, masks, strict=True)
    ]
    return (np.stack(filled).clip(0, 1) * 255).round().astype(np.uint8)


def _channels_first(images: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
