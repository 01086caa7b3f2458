"""Damaged images of every format: each opens or is refused in one line, within bounded memory."""

import io
import json
import random
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pixmend.errors import ImageError
from pixmend.images import decode_image
from tools.prove.children import start
from tools.prove.hostile import MEMORY_MIB
from tools.prove.tally import Row, Scale, counted

__all__ = ["damaged", "mutants", "mutate", "originals"]

_AT_ONCE = 500  # images per child
_ODD = (0, 1, 2, 127, 128, 254, 255)


def mutants(scale: Scale, folder: Path) -> list[Row]:
    """Try damaged images of every format."""
    folder.mkdir(parents=True, exist_ok=True)
    return [damaged(kind, scale.mutants, scale.seed) for kind in originals()]


def damaged(kind: str, count: int, seed: int) -> Row:
    """Decode ``count`` damaged images of a format in children that announce each image first."""
    with counted(f"damaged {kind}") as row:
        for first in range(0, count, _AT_ONCE):
            numbers = range(first, min(count, first + _AT_ONCE))
            with tempfile.NamedTemporaryFile("w+") as diary:
                ended = start(
                    _decoding(kind, numbers, seed, diary.name), memory_mib=6 * MEMORY_MIB
                ).end()
                told = Path(diary.name).read_text().splitlines()
            outcomes = json.loads(told[-1]) if ended.code == 0 else {}
            for outcome, times in outcomes.items():
                row.tried += times
                row.counts[outcome] += times
            row.expect("of several lines" not in outcomes, f"errors of several lines in {numbers}")
            at = told[-1] if told else "the first"
            row.expect(
                ended.code == 0, f"{ended.kind} at image {at} of seed {seed}: {ended.last_words}"
            )
            row.most("most MiB", ended.peak)
            row.expect(ended.peak <= MEMORY_MIB, f"took {ended.peak:.0f} MiB in {numbers}")
    return row


def originals() -> dict[str, list[bytes]]:
    """Return format -> small files of several modes and encodings."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 256, (11, 9), np.uint8))
    colour = Image.fromarray(rng.integers(0, 256, (11, 9, 3), np.uint8))
    clear = Image.fromarray(rng.integers(0, 256, (11, 9, 4), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (11, 9), np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
    facts = {"exif": exif, "icc_profile": b"\0" * 128 + b"acsp" + b"\0" * 64}
    ways = {
        "PNG": [(grey, {}), (colour, facts), (clear, {}), (deep, {}), (colour.quantize(8), {"transparency": 3})],
        "JPEG": [(grey, {}), (colour, facts), (colour, {"progressive": True}), (colour.convert("CMYK"), {})],
        "WEBP": [(colour, {}), (clear, {"lossless": True, **facts}), (clear, {"save_all": True, "append_images": [clear]})],
        "BMP": [(grey, {}), (colour, {}), (colour.quantize(8), {}), (grey.convert("1"), {})],
        "GIF": [(colour.quantize(16), {}), (grey, {"save_all": True, "append_images": [grey]})],
        "TIFF": [(colour, {"compression": name}) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")]
        + [(grey.convert("1"), {"compression": "group4"}), (deep, {}), (clear, {}), (colour, {"exif": exif})],
    }  # fmt: skip
    return {kind: [_saved(image, kind, options) for image, options in each] for kind, each in ways.items()}  # fmt: skip


def mutate(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Damage a file a few times: flip, overwrite, delete, duplicate, swap or splice."""
    found = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 8))):
        if not found:
            break
        # Headers are small and matter most.
        at = rng.randrange(min(len(found), rng.choice((16, 64, *[len(found)] * 4))))
        length = min(rng.choice((1, 2, 4, 32)), len(found) - at)
        match rng.randrange(9):
            case 0:
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                found[at] = rng.choice(_ODD)
            case 2:
                found[at : at + length] = rng.choice((b"\xff", b"\0", b"\x7f")) * length
            case 3:
                number = rng.choice((0, 1, 255, 65535, 2**31 - 1, 2**31, 2**32 - 1))
                found[at : at + 4] = number.to_bytes(4, rng.choice(("big", "little")))
            case 4:
                del found[at : at + length]
            case 5:
                found[at:at] = found[at : at + length] * rng.choice((1, 3, 100))
            case 6:
                del found[rng.randrange(len(found)) :]
            case 7:
                other = rng.choice(others)
                start_at = rng.randrange(len(other))
                found[at : at + length] = other[start_at : start_at + 32]
            case _:
                found[at:at] = rng.randbytes(length)
    # With wrong checksums the decoder would stop at the first chunk.
    return _checked_again(bytes(found)) if rng.random() < 0.5 else bytes(found)


def _decoding(kind: str, numbers: range, seed: int, diary: str) -> Callable[[], None]:
    def run() -> None:
        files, counts = originals()[kind], Counter[str]()
        with Path(diary).open("w", buffering=1) as told:
            for number in numbers:
                told.write(f"{number}\n")
                rng = random.Random(f"{seed} {kind} {number}")
                content = mutate(rng.choice(files), files, rng)
                try:
                    decode_image(content)
                except ImageError as error:
                    counts["refused" if "\n" not in str(error) else "of several lines"] += 1
                else:
                    counts["opened"] += 1
            told.write(json.dumps(counts) + "\n")

    return run


def _saved(image: Image.Image, kind: str, options: dict[str, object]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _checked_again(content: bytes) -> bytes:
    """Return a PNG with correct checksums; other formats unchanged."""
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return content
    found, at = bytearray(content), 8
    while at + 12 <= len(found):
        length = int.from_bytes(found[at : at + 4], "big")
        end = at + 8 + length
        if end + 4 > len(found):
            break
        found[end : end + 4] = zlib.crc32(found[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(found)
