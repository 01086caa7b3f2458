"""What to complete, and how: an image with its mask, and the options of a call."""

import math
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, get_args
from unicodedata import normalize

import numpy as np

from pixmend.errors import ImageError, InputError, MaskError, SettingsError
from pixmend.images import EXTENSIONS, Picture, open_image, read_array
from pixmend.masks import Mask, is_spec, make_mask
from pixmend.rng import check_seed, is_whole
from pixmend.storage import StorePath

if TYPE_CHECKING:
    from pixmend.completion.methods import Method

Answer = Literal["sharp", "average"]
View = Literal["whole", "window"]


@dataclass(frozen=True)
class Task:
    """One image to complete: the picture, its mask of the same size, and a name for messages."""

    picture: Picture
    mask: Mask
    name: str = "image"

    def check(self) -> None:
        """Refuse an image that cannot be completed exactly.

        Raise the MaskError of `Mask.check`, or an ImageError for known pixels without a value and
        for 16-bit colour.
        """
        self.mask.check(self.picture.height, self.picture.width, self.name)
        self.picture.check_known(self.mask.known)
        if self.picture.reduced:
            raise ImageError(
                f"{self.name}: 16-bit colour cannot be kept exactly; convert it to 8 bits a channel first"
            )


@dataclass(frozen=True)
class CompletionOptions:
    """How to complete."""

    method: "Method"  # see `find_method`
    candidates: int = 1  # distinct answers an image, best first
    # Steps after which the state of the search is kept; those past its last step are ignored.
    snapshots: tuple[int, ...] = (500, 1000)
    seed: int = 0
    # Images (or windows of images) completed at a time: bounds memory, changes no result.
    batch: int = 16
    # Time limit of each batch. The search then ignores the method's number of steps, which remains the length of its schedule.
    # Results depend on the clock.
    seconds: float | None = None
    # ``sharp``, a draw; or ``average``, the mean of all plausible answers, which errs least and blurs. It precedes the draws.
    answer: Answer = "sharp"
    # What the model sees: the whole image, framed as its training images were, or a window around each hole (`windows_around`).
    # A window suits textures, and images far larger than the model.
    view: View = "whole"
    frames: tuple[int, ...] = ()  # steps after which a frame is kept for `animation_frames`

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not is_whole(self.candidates, 1, 64):
            raise SettingsError(
                f"candidates = {self.candidates}: needs a whole number from 1 to 64"
            )
        if self.answer not in get_args(Answer):
            raise SettingsError(f"answer = {self.answer!r}: needs sharp or average")
        if not is_whole(self.batch, 1):
            raise SettingsError(f"batch = {self.batch}: needs a whole number of at least 1")
        if not all(is_whole(step, 0) for step in self.snapshots):
            raise SettingsError(f"snapshots = {self.snapshots}: steps are counted from 0")
        if self.seconds is not None and not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise SettingsError(f"seconds = {self.seconds}: needs a number above 0")
        if self.view not in get_args(View):
            raise SettingsError(f"view = {self.view!r}: there are {' and '.join(get_args(View))}")


def open_mask(mask: Any, picture: Picture, *, seed: int = 0) -> Mask:  # noqa: ANN401
    """Return the mask of a picture from a SPEC, a path or URL, a PIL image or an array.

    A folder's mask is that of the image's stem. MaskError if the mask does not parse or exist.
    """
    if isinstance(mask, Mask):
        return mask
    if isinstance(mask, str) and is_spec(mask):
        return make_mask(mask, picture.height, picture.width, seed=seed, picture=picture)
    if isinstance(mask, np.ndarray):
        return Mask.from_pixels(mask)
    if not isinstance(mask, str | Path | StorePath):
        return _read_mask(mask)
    path = StorePath.of(mask)
    if path.is_folder():
        if picture.path is None:
            raise MaskError(
                f"mask {path}: an image without a file name has no stem; give a mask file"
            )
        path = _mask_in(path, PurePath(picture.path.name), picture.name)
    elif not path.exists():
        make_mask(str(mask), picture.height, picture.width)  # raises, naming the shapes
    return _read_mask(path)


def mask_file(mask: str, image: StorePath, relative: PurePath) -> StorePath | None:
    """Return the file of a mask folder for an image; None if ``mask`` is no folder.

    ``relative`` is the image's path below the folder of images. The mask has the same path with any suffix, or the end of that
    path: ``masks/a/x.png`` for ``a/x.jpg``, else ``masks/x.png``. Names that look the same are the same, however they are encoded.
    MaskError if there is none, or several.
    """
    if is_spec(mask) or not (folder := StorePath.of(mask)).is_folder():
        return None
    return _mask_in(folder, relative, str(image))


def _read_mask(source: Any) -> Mask:  # noqa: ANN401 - as `open_image` has it
    try:
        if isinstance(source, StorePath) and source.suffix.lower() == ".npy":
            return Mask.from_pixels(read_array(source))
        return Mask.from_picture(open_image(source))
    except MaskError:
        raise
    except InputError as error:
        raise MaskError(f"mask {error}") from error


def _mask_in(folder: StorePath, relative: PurePath, name: str) -> StorePath:
    parts = (*relative.parts[:-1], relative.stem)
    for path in ("/".join(parts[start:]) for start in range(len(parts))):
        for same in dict.fromkeys([path, normalize("NFC", path), normalize("NFD", path)]):
            place = folder / same
            masks = sorted(_masks_of_stem(place.parent, place.name), key=str)
            if len(masks) > 1:
                listed = ", ".join(map(str, masks))
                raise MaskError(f"{name}: several masks of that stem: {listed}; keep one")
            if masks:
                return masks[0]
    raise MaskError(
        f"{name}: no mask of that stem in {folder}; add {'/'.join(parts)}.png (white = hole)"
    )


def _masks_of_stem(folder: StorePath, stem: str) -> list[StorePath]:
    """Return the masks of a stem, each once on file systems that ignore case.

    They are looked up by name or prefix: listing a folder of a million masks for each image would take far too long.
    """
    if folder.local is None:
        paths = [folder / name for name in folder.beginning(f"{stem}.")]
        return [each for each in paths if each.stem == stem and each.suffix.lower() in EXTENSIONS]
    suffixes = [
        each for end in EXTENSIONS for each in (end, end.upper(), f".{end[1:].capitalize()}")
    ]
    files = [path for each in suffixes if (path := folder / f"{stem}{each}").is_file()]
    return list({path.local.stat().st_ino: path for path in files if path.local}.values())
