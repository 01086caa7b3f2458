"""Baselines: inpainting without the model, which the model has to beat."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.errors import SettingsError, install_hint
from pixmend.images import to_tensor
from pixmend.masks import Mask
from pixmend.models import Retrieval

Images: TypeAlias = NDArray[np.uint8]  # [N, H, W, C]
Inpaint: TypeAlias = Callable[[Images, Sequence[Mask]], Images]

BASELINES = {
    "mean": "the mean of the training images",
    "nearest": "the training image nearest on the known pixels",
    "telea": "Telea 2004, by OpenCV",
    "navier-stokes": "Bertalmio 2001, by OpenCV",
    "biharmonic": "biharmonic equations, by scikit-image",
}
_MODULES = {"telea": "cv2", "navier-stokes": "cv2", "biharmonic": "skimage"}
_RADIUS = 3  # pixels, the inpainting radius of OpenCV


def missing_requirement(name: str, train: Images | None) -> str | None:
    """Return why a baseline is unavailable, or None if it is available."""
    module = _MODULES.get(name)
    if module is None:
        return None if train is not None else f"{name} needs --train-data RECORDS"
    if find_spec(module):
        return None
    return f"{name} needs the extra bench ({install_hint('bench')})"


def find_baseline(name: str, train: Images | None) -> Inpaint:
    """Return a baseline by name; SettingsError if a requirement is missing."""
    reason = missing_requirement(name, train)
    if reason is not None:
        raise SettingsError(f"--methods {name}: {reason}")
    if name == "biharmonic":
        return _biharmonic
    if name in _MODULES:
        return _opencv(name)
    assert train is not None
    return _mean(train) if name == "mean" else _nearest(train)


def _mean(train: Images) -> Inpaint:
    mean = train.mean(0).round().astype(np.uint8)
    return lambda images, masks: np.broadcast_to(mean, images.shape)


def _nearest(train: Images) -> Inpaint:
    retrieval = Retrieval(channels_first(train))

    def inpaint(images: Images, masks: Sequence[Mask]) -> Images:
        known = torch.from_numpy(np.stack([mask.known for mask in masks]))[:, None].float()
        neighbours: Images = train[retrieval.nearest(to_tensor(images), known)[:, 0].numpy()]
        return neighbours

    return inpaint


def _opencv(name: str) -> Inpaint:
    import cv2

    kind = cv2.INPAINT_TELEA if name == "telea" else cv2.INPAINT_NS

    def inpaint(image: Images, mask: Mask) -> Images:
        # One channel at a time: OpenCV accepts one or three channels, not four.
        hole = mask.hole.astype(np.uint8)
        bands = [np.ascontiguousarray(band) for band in image.transpose(2, 0, 1)]
        return np.stack([cv2.inpaint(band, hole, _RADIUS, kind) for band in bands], axis=-1)

    return lambda images, masks: np.stack(list(map(inpaint, images, masks)))


def _biharmonic(images: Images, masks: Sequence[Mask]) -> Images:
    from skimage.restoration import inpaint_biharmonic

    answers = [
        inpaint_biharmonic(image / 255, mask.hole, channel_axis=-1)
        for image, mask in zip(images, masks, strict=True)
    ]
    return (np.stack(answers).clip(0, 1) * 255).round().astype(np.uint8)


def channels_first(images: Images) -> torch.Tensor:
    """Return uint8 [N, H, W, C] as a tensor uint8 [N, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
