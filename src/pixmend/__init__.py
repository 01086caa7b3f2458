"""pixmend completes the missing pixels of an image with a DCGAN trained on your own folder of images.

    import pixmend

    model = pixmend.load("characters")
    result = model.complete(image, mask="center", candidates=4)
    result.best, result.sheet()

``image`` is a path, a PIL image or a NumPy array, and the answer has the same type. Errors that a user can fix are
`PixmendError`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "Completion",
    "Mask",
    "Model",
    "PixmendError",
    "__version__",
    "complete",
    "evaluate",
    "load",
    "pack",
    "train",
]

# Names and the rooms they live in: torch is imported when one is first used, so that `pixmend --help` need not wait for it.
_ROOMS = {
    "Completion": "pixmend.completion",
    "Mask": "pixmend.masks",
    "Model": "pixmend.api",
    "PixmendError": "pixmend.errors",
    "complete": "pixmend.loading",
    "evaluate": "pixmend.api",
    "load": "pixmend.loading",
    "pack": "pixmend.api",
    "train": "pixmend.api",
}

if TYPE_CHECKING:
    from pixmend.api import Model, evaluate, pack, train
    from pixmend.completion import Completion
    from pixmend.errors import PixmendError
    from pixmend.loading import complete, load
    from pixmend.masks import Mask


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the room holds
    if name not in _ROOMS:
        raise AttributeError(f"module 'pixmend' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_ROOMS[name]), name)
    except ModuleNotFoundError as error:
        from pixmend.loading import missing_package

        raise missing_package(error, f"pixmend.{name}") from error


def __dir__() -> list[str]:
    return sorted(__all__)
