"""External methods: tasks written as files for another tool, and its answers read from files.

TASKS/tasks.json                     masks, seed, and the digest of each image
TASKS/center/000000.png              an image with its hole painted mid-grey
TASKS/center/masks/000000.png        the mask, white = hole
ANSWERS/center/000000.png            the tool's answer, a whole image
ANSWERS/facts.json                   optional: {"seconds_per_image": 0.01}
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pixmend.completion import METHODS
from pixmend.errors import InputError, MissingError, SettingsError
from pixmend.evaluation.baselines import BASELINES, Images
from pixmend.evaluation.held_out import HeldOut, digest_of
from pixmend.evaluation.metrics import rmse
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.images import Channels, encode_png, open_image, to_channels, to_eight_bits
from pixmend.masks import Mask
from pixmend.storage import StorePath, make_folder, write_bytes, write_text

_GREY = 128
_MAX_RMSE = 64.0  # grey levels on known pixels: tools change them less, another image differs more
_MODES: dict[int, Channels] = {1: "L", 3: "RGB", 4: "RGBA"}


def parse_completions(arguments: Sequence[str]) -> dict[str, Path]:
    """Parse NAME=FOLDER arguments; SettingsError for a repeated name or a missing folder."""
    folders: dict[str, Path] = {}
    for text in arguments:
        name, _, folder = text.partition("=")
        if not (name and folder) or "/" in name or ":" in name:
            raise SettingsError(f"--completions {text}: needs NAME=FOLDER, such as lama=answers")
        if name in folders:
            raise SettingsError(f"--completions {text}: {name} is given twice; give another name")
        path = StorePath.of(folder)
        if path.local is None or not path.is_folder():
            raise SettingsError(f"--completions {text}: there is no folder {folder}")
        folders[name] = path.local
    return folders


def write_tasks(folder: Path, held_out: HeldOut, spec: EvaluationSpec) -> int:
    """Write each image with each hole, and its mask; return their number."""
    size, count = held_out.images.shape[1], len(held_out.images)
    for shape in spec.masks:
        make_folder(folder / _path_of(shape, 0).parent / "masks")
        masks = draw_masks(shape, range(count), size, spec.seed)
        for number, (image, mask) in enumerate(zip(held_out.images, masks, strict=True)):
            path = folder / _path_of(shape, number)
            masked = np.where(mask.known[..., None], image, np.uint8(_GREY))
            write_bytes(path, encode_png(masked))
            write_bytes(path.parent / "masks" / path.name, encode_png(mask.to_pixels()))
    facts = {
        "masks": list(spec.masks),
        "seed": spec.seed,
        "images": [digest_of(image) for image in held_out.images],
    }
    write_text(folder / "tasks.json", json.dumps(facts) + "\n")
    return count * len(spec.masks)


class ExternalMethod:
    """The answers of another tool in a folder; SettingsError for the name of a method."""

    def __init__(self, name: str, folder: Path, masks: Sequence[str], count: int) -> None:
        """Open the answers to ``count`` images; InputError if any is missing."""
        if name in METHODS or name in BASELINES:
            raise SettingsError(f"--completions {name}: is the name of a method; give another name")
        self._folder = folder
        self.seconds: float | None = None
        facts = StorePath(folder / "facts.json")
        try:
            self.seconds = float(facts.read_json()["seconds_per_image"])
        except MissingError:
            pass
        except (InputError, ValueError, KeyError, TypeError) as error:
            example = '{"seconds_per_image": 0.01}'
            raise InputError(f"{facts}: needs {example}, or remove the file") from error
        paths = [_path_of(mask, number) for mask in masks for number in range(count)]
        missing = [path for path in paths if not (folder / path).is_file()]
        if missing:
            raise InputError(
                f"--completions {name}={folder}: {len(missing)} of {len(paths)} answers are "
                f"missing, the first is {missing[0]}; write the tasks with --tasks FOLDER and "
                "save each answer under the name of its task"
            )
        content = hashlib.blake2b(digest_size=6)
        for path in paths:
            content.update((folder / path).read_bytes())
        self.digest = content.hexdigest()

    def read(self, shape: str, number: int, image: Images, mask: Mask) -> Images:
        """Return one answer, uint8 [S, S, C], with known pixels kept; InputError if it does not fit."""
        path = self._folder / _path_of(shape, number)
        answer = to_eight_bits(open_image(path).pixels)
        if answer.shape[:2] != image.shape[:2]:
            size, task = (f"{each.shape[1]} x {each.shape[0]}" for each in (answer, image))
            raise InputError(
                f"{path}: {size}, but the image is {task}; save answers in the size of the task"
            )
        answer = to_channels(answer, _MODES[image.shape[-1]]).astype(np.uint8)
        error = rmse(answer, image, mask.known)
        if error > _MAX_RMSE:
            raise InputError(
                f"{path}: its known pixels differ from the image's by {error:.0f} grey levels: "
                "an answer to another image or mask; write the tasks again with --tasks FOLDER "
                "and the same --n, --seed and --masks, and answer those"
            )
        return np.where(mask.known[..., None], image, answer)


def _path_of(shape: str, number: int) -> Path:
    """Return the path of a task, and of its answer, within their folders."""
    return Path(shape.replace(":", "-")) / f"{number:06}.png"
