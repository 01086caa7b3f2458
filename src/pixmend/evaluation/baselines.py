"""Baselines: inpainting without the model, which the model has to beat."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pixmend.errors import SettingsError, install_hint
from pixmend.images import to_tensor
from pixmend.masks import Mask
from pixmend.models import Retrieval

if TYPE_CHECKING:
    from scipy.sparse import dia_array

Images: TypeAlias = NDArray[np.uint8]  # [N, H, W, C]
Inpaint: TypeAlias = Callable[[Images, Sequence[Mask]], Images]

BASELINES = {
    "mean": "the mean of the training images",
    "nearest": "the training image nearest on the known pixels",
    "telea": "Telea 2004, by OpenCV",
    "navier-stokes": "Bertalmio 2001, by OpenCV",
    "biharmonic": "biharmonic equations, Damelin and Hoang 2018",
}
_OPENCV = {"telea": "INPAINT_TELEA", "navier-stokes": "INPAINT_NS"}
_RADIUS = 3  # pixels, the inpainting radius of OpenCV


def missing_requirement(name: str, train: Images | None) -> str | None:
    """Return why a baseline is unavailable, or None if it is available."""
    if name in ("mean", "nearest") and train is None:
        return f"{name} needs --train-data RECORDS"
    if name in _OPENCV and find_spec("cv2") is None:
        return f"{name} needs the extra bench ({install_hint('bench')})"
    return None


def find_baseline(name: str, train: Images | None) -> Inpaint:
    """Return a baseline by name; SettingsError if a requirement is missing."""
    reason = missing_requirement(name, train)
    if reason is not None:
        raise SettingsError(f"--methods {name}: {reason}")
    if name in _OPENCV:
        return partial(_opencv, _OPENCV[name])
    if train is None or name == "biharmonic":
        return _biharmonic
    if name == "nearest":
        return _nearest(train)
    mean = train.mean(0).round().astype(np.uint8)
    return lambda images, masks: np.broadcast_to(mean, images.shape)


def _nearest(train: Images) -> Inpaint:
    retrieval = Retrieval(channels_first(train))

    def inpaint(images: Images, masks: Sequence[Mask]) -> Images:
        known = torch.from_numpy(np.stack([mask.known for mask in masks]))[:, None].float()
        neighbours: Images = train[retrieval.nearest(to_tensor(images), known)[:, 0].numpy()]
        return neighbours

    return inpaint


def _opencv(kind: str, images: Images, masks: Sequence[Mask]) -> Images:
    import cv2

    answers = np.empty_like(images)
    for image, mask, answer in zip(images, masks, answers, strict=True):
        # One channel at a time: OpenCV accepts one or three channels, not four.
        for channel in range(image.shape[-1]):
            band, hole = np.ascontiguousarray(image[..., channel]), mask.hole.astype(np.uint8)
            answer[..., channel] = cv2.inpaint(band, hole, _RADIUS, getattr(cv2, kind))
    return answers


def _biharmonic(images: Images, masks: Sequence[Mask]) -> Images:
    answers = [
        solve_biharmonic(image / 255, mask.hole) for image, mask in zip(images, masks, strict=True)
    ]
    return (np.stack(answers) * 255).round().astype(np.uint8)


def solve_biharmonic(image: NDArray[np.float64], hole: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return [H, W, C] whose bilaplacian is 0 in the hole, clipped to each channel's known range."""
    from scipy.sparse import kronsum
    from scipy.sparse.linalg import spsolve

    answer, missing = image.copy(), hole.ravel()
    if not missing.any() or missing.all():
        return answer
    laplacian = kronsum(*map(_path_laplacian, hole.shape[::-1]))
    rows = (laplacian @ laplacian).tocsc()[missing]  # [N, H * W]
    known = np.where(hole[..., None], 0, image).reshape(len(missing), -1)
    solution = spsolve(rows[:, missing], -(rows @ known))
    answer[hole] = solution.reshape(len(solution), -1)
    bounds = known[~missing]
    return answer.clip(bounds.min(0), bounds.max(0))


def _path_laplacian(length: int) -> "dia_array":
    """Return the Laplacian of a line of pixels, mirrored at its ends."""
    from scipy.sparse import diags_array

    degrees = np.full(length, -2.0)
    degrees[[0, -1]] += 1
    ones = np.ones(length - 1)
    return diags_array([ones, degrees, ones], offsets=[-1, 0, 1])


def channels_first(images: Images) -> torch.Tensor:
    """Return uint8 [N, H, W, C] as a tensor uint8 [N, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
