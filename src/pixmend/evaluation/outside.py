"""Completions by any other tool: tasks written out as files, and answers read back and checked.

TASKS/tasks.json                     masks, seed, and the digest of each image
TASKS/center/000000.png              an image with its hole painted mid-grey
TASKS/center/masks/000000.png        the mask, white = hole
ANSWERS/center/000000.png            the whole image that the tool made of it
ANSWERS/facts.json                   optional: {"seconds_per_image": 0.01}
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixmend.errors import InputError, SettingsError
from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.protocol import Protocol, digest_of, masks_for
from pixmend.evaluation.rivals import Images
from pixmend.images import encode_png, open_image, to_channels, to_eight_bits
from pixmend.masks import Mask
from pixmend.storage import make_folder, parse_json, write_bytes, write_text

_GREY = 128
_UNLIKE = 64.0  # grey levels: no tool changes known pixels by so much, another image does


def parse_completions(given: Sequence[str]) -> dict[str, Path]:
    """Read NAME=FOLDER of each.

    Raises
    ------
    SettingsError
        Not of that form, a name twice, or no such folder.
    """
    found: dict[str, Path] = {}
    for text in given:
        name, _, folder = text.partition("=")
        if not (name and folder) or "/" in name or ":" in name:
            raise SettingsError(f"--completions {text}: needs NAME=FOLDER, such as lama=answers")
        if name in found:
            raise SettingsError(f"--completions {text}: {name} is given twice; give another name")
        if not Path(folder).is_dir():
            raise SettingsError(f"--completions {text}: there is no folder {folder}")
        found[name] = Path(folder)
    return found


def place_of(spec: str, number: int) -> Path:
    """Return where a task and its answer lie within their folders."""
    return Path(spec.replace(":", "-")) / f"{number:06}.png"


def write_tasks(folder: Path, held: HeldOut, protocol: Protocol) -> int:
    """Write each image with each hole, and the mask beside it; return how many.

    Raises
    ------
    OutputError
        They cannot be written.
    """
    size, count = held.images.shape[1], len(held.images)
    for spec in protocol.masks:
        make_folder(folder / place_of(spec, 0).parent / "masks")
        masks = masks_for(protocol, spec, range(count), size)
        for number, (image, mask) in enumerate(zip(held.images, masks, strict=True)):
            place = folder / place_of(spec, number)
            shown = np.where(mask.known[..., None], image, np.uint8(_GREY))
            write_bytes(place, encode_png(shown))
            write_bytes(place.parent / "masks" / place.name, encode_png(mask.to_pixels()))
    facts = {
        "masks": list(protocol.masks),
        "seed": protocol.seed,
        "images": [digest_of(image) for image in held.images],
    }
    write_text(folder / "tasks.json", json.dumps(facts) + "\n")
    return count * len(protocol.masks)


class Outside:
    """The answers in a folder, as whole images.

    Parameters
    ----------
    name, folder
        As the user gave them.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        self.seconds = self._seconds()

    def digest(self, masks: Sequence[str], count: int) -> str:
        """Return a hash of the answers to the first ``count`` images: answers that changed are measured anew.

        Raises
        ------
        InputError
            Some are missing; the first is named.
        """
        content = hashlib.blake2b(digest_size=8)
        places = [place_of(spec, number) for spec in masks for number in range(count)]
        missing = [place for place in places if not (self._folder / place).is_file()]
        if missing:
            raise InputError(
                f"--completions {self.name}={self._folder}: {len(missing)} of {len(places)} answers are missing, the first "
                f"is {missing[0]}; write the tasks with --tasks FOLDER and answer each under its name"
            )
        for place in places:
            content.update((self._folder / place).read_bytes())
        return content.hexdigest()

    def read(self, spec: str, number: int, image: Images, mask: Mask) -> Images:
        """Return the answer to one image, uint8 [S, S, C].

        Raises
        ------
        InputError
            Not readable, of another size, or an answer to another image.
        """
        path = self._folder / place_of(spec, number)
        answer = to_eight_bits(open_image(path).pixels)
        if answer.shape[:2] != image.shape[:2]:
            height, width = answer.shape[:2]
            raise InputError(
                f"{path}: {width} x {height}, and the image is {image.shape[1]} x {image.shape[0]}; answer at the size of the task"
            )
        modes = {1: "L", 3: "RGB", 4: "RGBA"}
        answer = to_channels(answer, modes[image.shape[-1]]).astype(np.uint8)  # type: ignore[arg-type]
        off = np.square(answer.astype(np.float64) - image)[mask.known].mean() ** 0.5
        if off > _UNLIKE:
            raise InputError(
                f"{path}: its known pixels are {off:.0f} grey levels off the image's: an answer to another image or mask; "
                "write the tasks anew with --tasks FOLDER and the same --n, --seed and --masks, and answer those"
            )
        return answer

    def _seconds(self) -> float | None:
        path = self._folder / "facts.json"
        if not path.exists():
            return None
        try:
            return float(parse_json(path.read_text(encoding="utf-8"))["seconds_per_image"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f'{path}: needs {{"seconds_per_image": 0.01}}, or remove it'
            ) from error
