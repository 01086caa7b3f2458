"""The mask of a job as users name it: a SPEC, a file, or a folder of masks matched to the images by stem."""

from pathlib import Path
from typing import Any

import numpy as np

from pixmend.errors import InputError, MaskError
from pixmend.images import EXTENSIONS, Picture, open_image
from pixmend.masks import SHAPES, Mask, make_mask
from pixmend.storage import StorePath


def open_mask(mask: Any, picture: Picture, *, seed: int = 0) -> Mask:  # noqa: ANN401
    """Return the mask for a picture, given as a SPEC, a path or URL (file, or folder matched by stem), a PIL image or an array.

    Raises
    ------
    MaskError
        It does not parse, does not exist or does not fit.
    """
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, str) and mask.partition(":")[0] in SHAPES:
        return make_mask(mask, picture.height, picture.width, seed=seed)
    if isinstance(mask, np.ndarray):
        return Mask.from_pixels(mask)
    if not isinstance(mask, str | Path | StorePath):
        return Mask.from_pixels(open_image(mask).pixels)
    path = StorePath.of(mask)
    if path.is_folder():
        if picture.path is None:
            raise MaskError(
                f"mask {path}: an image without a file name has no stem; give a mask file"
            )
        path = _mask_of(path, picture.path.stem, picture.name)
    elif not path.exists():
        make_mask(str(mask), picture.height, picture.width)  # raises, naming the shapes
    try:
        return Mask.from_pixels(open_image(path).pixels)
    except InputError as error:
        raise MaskError(f"mask {error}") from error


def mask_file(mask: str, image: StorePath) -> StorePath | None:
    """Return the file that `open_mask` reads of a mask folder for that image; None where ``mask`` is no folder.

    Raises
    ------
    MaskError
        There is none, or several.
    """
    if mask.partition(":")[0] in SHAPES or not (folder := StorePath.of(mask)).is_folder():
        return None
    return _mask_of(folder, image.stem, str(image))


def _mask_of(folder: StorePath, stem: str, name: str) -> StorePath:
    found = sorted(_spellings(folder, stem), key=str)
    if not found:
        raise MaskError(f"{name}: no mask of that stem in {folder}; add {stem}.png (white = hole)")
    if len(found) > 1:
        raise MaskError(
            f"{name}: several masks of that stem: {', '.join(map(str, found))}; keep one"
        )
    return found[0]


def _spellings(folder: StorePath, stem: str) -> list[StorePath]:
    """Return the masks of a stem, each once where capitals do not count.

    They are asked for by name, or by how names begin: among a million masks a list for each image would be a million lists.
    """
    if folder.local is None:
        places = [folder / name for name in folder.beginning(f"{stem}.")]
        return [each for each in places if each.stem == stem and each.suffix.lower() in EXTENSIONS]
    spelt = [each for end in EXTENSIONS for each in (end, end.upper(), f".{end[1:].capitalize()}")]
    paths = [folder.local / f"{stem}{each}" for each in spelt]
    found = {path.stat().st_ino: path for path in paths if path.is_file()}
    return [StorePath(path) for path in found.values()]
