"""Held-out images that a model's page offers to try."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pixmend.errors import ImageError, ModelFileError
from pixmend.images import decode_image, encode_png, find_images
from pixmend.model_header import held_out_folder
from pixmend.storage import StorePath

EXAMPLES = 8


def held_out_images(path: Path, card: Mapping[str, Any]) -> list[bytes]:
    """Return image files of `held_out_folder`, or else those in the card (`pixmend export --examples`); at most 8."""
    if folder := held_out_folder(path):
        files = list(find_images(folder))
        return [file.read_bytes() for file in files[:: max(1, len(files) // EXAMPLES)][:EXAMPLES]]
    try:  # a card may hold anything
        contents = map(base64.b64decode, card.get("examples", [])[:EXAMPLES])
        return [encode_png(decode_image(each).pixels) for each in contents]
    except (TypeError, ValueError, ImageError) as error:
        raise ModelFileError(
            f"{StorePath.of(path)}: the examples in its card are no images; export it again"
        ) from error
