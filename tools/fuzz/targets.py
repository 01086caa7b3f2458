"""Fuzz targets by name: the check, the modules it covers and its seeds."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CORPORA", "TARGETS", "Target", "kept_inputs"]

CORPORA = Path(__file__).parent.parent.parent / "tests" / "fuzz" / "corpora"


@dataclass(frozen=True)
class Target:
    """A reader under attack.

    Attributes
    ----------
    room, subject
        The functions ``check_SUBJECT`` and ``SUBJECT_seeds`` of ``fuzz/ROOM.py``, imported lazily
        because some need torch.
    modules
        Modules of the coverage.
    words
        Dictionary of the mutations.
    longest
        Maximum bytes of an input; longer ones are slower without adding coverage.
    """

    room: str
    subject: str
    modules: tuple[str, ...]
    words: tuple[bytes, ...] = ()
    longest: int = 4096

    @property
    def check(self) -> Callable[[bytes], None]:
        """The function that raises if the bytes break a promise."""
        check: Callable[[bytes], None] = self._get(f"check_{self.subject}")
        return check

    @property
    def seeds(self) -> Callable[[], Iterable[bytes]]:
        """The generator of initial inputs, made by the library itself."""
        seeds: Callable[[], Iterable[bytes]] = self._get(f"{self.subject}_seeds")
        return seeds

    def _get(self, name: str) -> Any:  # noqa: ANN401 - named, not typed
        return getattr(importlib.import_module(f"tools.fuzz.{self.room}"), name)


TARGETS = {
    "records": Target(
        "records",
        "shard",
        ("pixmend.records.tfrecord",),
    ),
    "example": Target(
        "records",
        "example",
        ("pixmend.records.tfrecord", "pixmend.records.containers"),
        (b"image/encoded", b"image_raw", b"height", b"width", b"depth", b"image/class/label"),
    ),
    "index": Target(
        "records",
        "index",
        ("pixmend.records.manifest", "pixmend.records.dataset"),
        (b"PXMINDEX",),
    ),
    "manifest": Target(
        "records",
        "manifest",
        ("pixmend.records.manifest",),
        (b'"format"', b'"settings"', b'"shards"', b'"sha256"', b'"count"', b"null", b"1e400"),
    ),
    "model": Target(
        "models",
        "model",
        ("pixmend.models.model_file",),
        (b'"settings"', b'"memory"', b'"retrieval_count"', b'"inpainter"', b'"card"', b"null"),
        16384,
    ),
    "checkpoint": Target(
        "models",
        "checkpoint",
        ("pixmend.training.checkpoint",),
        (b'"step"', b'"images"', b'"skipped"', b'"format"', b"null", b"1e400"),
        16384,
    ),
    "mask_spec": Target(
        "images",
        "mask_spec",
        ("pixmend.masks",),
        (b"center:", b"half:", b"random:", b"lowres:", b"strokes:", b"grid", b"1e-9", b"nan"),
        64,
    ),
    "mask_image": Target("images", "mask_image", ("pixmend.masks", "pixmend.images.image_files")),
    "image": Target(
        "images",
        "image",
        ("pixmend.images.image_files", "pixmend.images.picture", "pixmend.images.pixels"),
        (
            b"eXIf",
            b"iCCP",
            b"tRNS",
            b"PLTE",
            b"pHYs",
            b"acTL",
            b"fcTL",
            b"Exif\0\0",
            b"ICC_PROFILE",
        ),
    ),
    "settings": Target(
        "texts",
        "settings",
        ("pixmend.training.settings", "pixmend.training.augment"),
        (
            b"inf",
            b"nan",
            b"true",
            b'"off"',
            b"inpainter",
            b"diffaugment",
            b"background",
            b"[[",
            b"1e400",
        ),
    ),
    "multipart": Target(
        "forms",
        "form",
        ("pixmend.serve.requests",),
        (
            b"--b\r\n",
            b"--b--",
            b'; name="image"',
            b'; filename="a"',
            b"\r\n\r\n",
            b"steps",
            b"classic",
        ),
    ),
}


def kept_inputs(name: str) -> list[bytes]:
    """Return the seeds of a target, then its kept inputs, smallest first."""
    kept = [path.read_bytes() for path in sorted((CORPORA / name).glob("*"))]
    return [*TARGETS[name].seeds(), *sorted(kept, key=len)]
