from pathlib import Path
from typing import IO

import numpy as np

from pixmend.records import PackSettings, Records, pack
from pixmend.records.tfrecord import frame_record


def noise(number: int, height: int = 20, width: int = 14, channels: int = 3) -> np.ndarray:
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """All that a record folder holds, but for the note of where it came from."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.name != ".pack.json"}


def write_record(file: IO[bytes], payload: bytes) -> int:
    """Append a record; return the byte at which it starts."""
    start = file.tell()
    file.write(frame_record(payload))
    return start


def every(records: Records) -> np.ndarray:
    return records.images(range(len(records)))


def pack_one(folder: Path, **settings: object) -> np.ndarray:
    """Pack a folder in this process without resizing surprises, and return all images."""
    out = folder.parent / f"{folder.name}-records"
    pack(folder, out, PackSettings.model_validate({"size": 8} | settings), workers=1)
    return every(Records(out))
