"""Decode image files that strangers chose; as a program, a child that does it for another process.

It imports PIL alone: a child starts in a tenth of a second, and its limit of memory is for images.
"""

import io
import json
import re
import signal
import struct
import sys
import warnings
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import Image, ImageOps, UnidentifiedImageError

MEMORY_BYTES = 5 * 2**28  # of a child: the largest WebP needs 1.02 GiB, other kinds 0.75
_LIGHT_PNG, _LIGHT_JPEG = 16 * 2**20, 2**20  # bytes
# EXIF tags may overlap, which multiplies them. Progressive scans may repeat without end.
_EXIF = (b"eXIf", b"Exif", b"Raw profile type")
_OTHER_JPEG = re.compile(rb"\xff[\xc2\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf]")  # but baseline
_PNG = b"\x89PNG\r\n\x1a\n"
_CONVERTED = {"La": "LA", "RGBa": "RGBA", "YCbCr": "RGB", "LAB": "RGB", "HSV": "RGB", "RGBX": "RGB"}
_KEPT_MODES = ("1", "L", "LA", "RGB", "RGBA", "CMYK", "I;16", "F")
_MAX_DPI = 1e6  # not every kind of file holds more
# The modes of pixels that an ICC profile of a colour space describes.
_SPACES = {b"RGB ": "RGB RGBA", b"GRAY": "1 L LA I;16 F", b"CMYK": "CMYK", b"Lab ": ""}
# Document, description, make, model, page, software, date, artist, host, copyright: TIFF tags
# about the image. Other tags describe the storage in that file, and would be wrong in another.
_TIFF_TAGS = (269, 270, 271, 272, 285, 305, 306, 315, 316, 33432)
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)  # GeoTIFF, GDAL
_TIFF_GROUPS = (0x8769, 0x8825)  # camera, GPS
_TIFF_ICC = 34675
_PNG_KEPT = {b"cHRM", b"cICP", b"gAMA", b"iTXt", b"sPLT", b"sRGB", b"tEXt", b"tIME", b"zTXt"}
# What PIL reads and writes itself, and the frames of an animation.
_PNG_READ = {*b"IHDR PLTE IDAT IEND tRNS iCCP pHYs eXIf acTL fcTL fdAT".split()}
_JPEG_READ = {"APP0", "APP1", "APP2", "APP14", "COM"}


Decoded = tuple[Image.Image, dict[str, Any]]  # and the fields of a `Picture`


class RefusedError(ValueError):
    """A reason that says all; other errors mean a damaged file."""


def is_light(content: bytes) -> bool:
    """Whether decoding needs little but its pixels: a small PNG or baseline JPEG without EXIF."""
    is_png, is_jpeg = content.startswith(_PNG), content.startswith(b"\xff\xd8")
    if len(content) > (_LIGHT_PNG if is_png else _LIGHT_JPEG) or any(e in content for e in _EXIF):
        return False
    return is_png or (is_jpeg and not _OTHER_JPEG.search(content))


def decode(content: bytes, max_pixels: int, formats: tuple[str, ...]) -> Decoded:
    """Decode the first frame of a file of one of PIL's ``formats``; see `upright`.

    Any exception but MemoryError says that the file cannot be used: see `explain`.
    """
    with warnings.catch_warnings():
        # PIL's own limit comes first for the largest images, and only as a warning.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(content), formats=formats) as image:
                if image.width * image.height > max_pixels:
                    raise RefusedError(f"{image.width} x {image.height}: {too_large(max_pixels)}")
                return upright(image, content)
        except UnidentifiedImageError:
            kinds = ", ".join(sorted(formats)).lower()
            raise RefusedError(f"not an image, or a damaged one; known kinds are {kinds}") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise RefusedError(too_large(max_pixels)) from None


def explain(error: Exception) -> str:
    """Return the reason of an exception of `decode` in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, RefusedError) else f"damaged: {text}"


def too_large(max_pixels: int) -> str:
    """Return the reason for refusing an image of too many pixels."""
    return f"more than {max_pixels / 1e6:.0f} million pixels; scale it down first"


def upright(image: Image.Image, content: bytes = b"") -> Decoded:
    """Load an image, apply its EXIF rotation, and convert it to a mode that keeps its pixels.

    ``content`` is its file, if the image may be changed. The fields are ``info``, ``reduced`` and
    ``warnings`` of a `Picture`.
    """
    reduced, lost, frames = _is_reduced(image, content), list[str](), getattr(image, "n_frames", 1)
    notes = [f"only frame {image.tell() + 1} of {frames} is used"] if frames > 1 else []
    is_turned = getattr(image, "tag_v2", {}).get(0x0112, 1) != 1
    image.load()
    resolution, chunks = _resolution(image), b"".join(_text_chunks(image, content, lost))
    # PIL turns a TIFF upright as it loads it, and takes all its tags for EXIF.
    tags = _tiff_tags(image.getexif(), is_turned, lost) if image.format == "TIFF" else None
    if content:
        ImageOps.exif_transpose(image, in_place=True)  # saves a copy
    else:
        image = ImageOps.exif_transpose(image)
    exif = image.getexif() if tags is None else tags
    camera, swapped = exif.get_ifd(0x8769), (image.height, image.width)
    if (camera.get(0xA002), camera.get(0xA003)) == swapped:  # the size before the turn
        camera[0xA002], camera[0xA003] = image.size
    profile, kept = image.info.get("icc_profile") or b"", _to_kept_mode(image)
    modes = _SPACES.get(profile[16:20])
    if modes is not None and (kept.mode not in modes.split() or image.mode == "LAB"):
        lost.append(f"the profile of {profile[16:20].decode().strip()} colours")
        profile = b""
    if "transparency" in image.info and kept.mode[-1] != "A":
        lost.append("the transparent value of 16-bit grey")
    info = {"icc_profile": profile, "xmp": image.info.get("xmp"), "dpi": resolution}
    info |= {"exif": exif.tobytes() if exif else b"", "png": chunks}
    notes += [f"not kept: {', '.join(lost[:9])}"] if lost else []
    info = {key: value for key, value in info.items() if value}
    return kept, {"info": info, "reduced": reduced, "warnings": notes}


def png_chunks(content: bytes, start: int = len(_PNG)) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the chunks of a PNG, as far as they are whole."""
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        yield kind, content[start + 8 : start + 8 + length]
        start += length + 12


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _text_chunks(image: Image.Image, content: bytes, lost: list[str]) -> Iterator[bytes]:
    """Yield what is known of an image besides its pixels as chunks of a PNG; name the rest."""
    chunks = list(png_chunks(content)) if content.startswith(_PNG) else []
    for kind, body in chunks:
        # PIL reads XMP and EXIF in text chunks, and takes the rotation out.
        if kind in _PNG_KEPT and not body.startswith((b"XML:com.adobe.xmp", b"Raw profile")):
            yield _chunk(kind, body)
    others = {kind for kind, _ in chunks} - _PNG_READ - _PNG_KEPT
    lost += sorted(kind.decode() for kind in others if kind.isalpha())
    comment = image.info.get("comment", b"")
    if isinstance(comment, bytes) and comment and b"\0" not in comment:
        yield _chunk(b"tEXt", b"Comment\0" + comment)
    segments = {name for name, _ in getattr(image, "applist", [])} - _JPEG_READ
    lost += sorted("IPTC (APP13)" if name == "APP13" else name for name in segments)


def _resolution(image: Image.Image) -> tuple[float, float] | None:
    """Return the resolution, dots per inch, unless PIL invented it."""
    tags = getattr(image, "tag_v2", image.getexif())
    stated = 0x011A in tags or image.info.get("jfif_unit", 0)
    if "dpi" not in image.info or (image.format in ("TIFF", "JPEG", "MPO") and not stated):
        return None
    try:
        x, y = map(float, image.info["dpi"])
    except (ZeroDivisionError, TypeError, ValueError):
        return None
    return (x, y) if 0 < x < _MAX_DPI and 0 < y < _MAX_DPI else None  # None for NaN


def _is_reduced(image: Image.Image, content: bytes) -> bool:
    """Whether PIL cuts the samples of deep colour to 8 bits, which it does in silence."""
    if image.format == "AVIF" and (start := content.find(b"av1C")) >= 0:
        return bool(content[start + 6 : start + 7] > b"\x3f")  # high_bitdepth
    decoder, *_, arguments = (getattr(image, "tile", None) or [("", None)])[0]
    raw_mode, *others = arguments if isinstance(arguments, tuple) and arguments else (arguments,)
    deep = isinstance(raw_mode, str) and ";16" in raw_mode
    if decoder.startswith("ppm"):
        deep = others[0] > 255
    return deep and image.mode[0] not in "IF"


def _tiff_tags(tags: Image.Exif, is_turned: bool, lost: list[str]) -> Image.Exif:
    """Return the tags of a TIFF that are about the image; name those left out."""
    kept = Image.Exif()
    for tag in sorted(tags):
        if tag in _TIFF_TAGS or (tag in _GEO_TAGS and not is_turned):
            kept[tag] = tags[tag]
        elif tag in _TIFF_GROUPS:
            kept.get_ifd(tag).update(tags.get_ifd(tag))
        elif tag > 0x7FFF and tag != _TIFF_ICC:
            lost.append(f"TIFF tag {tag}")
    return kept


def _to_kept_mode(image: Image.Image) -> Image.Image:
    if "transparency" in image.info and image.mode in ("L", "RGB", "1"):
        # A tRNS chunk makes one colour of the image transparent: alpha by another name.
        return image.convert("RGBA" if image.mode == "RGB" else "LA")
    if image.mode in _KEPT_MODES:
        return image
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in _CONVERTED:
        return image.convert(_CONVERTED[image.mode])
    if image.mode.startswith("I"):
        whole = image if image.mode == "I" else image.convert("I")
        extremes: Any = whole.getextrema()
        if extremes[0] >= 0 and extremes[1] <= 65535:
            return whole.convert("I;16")
    raise RefusedError(
        f"pixels of mode {image.mode} cannot be kept exactly; "
        "convert it to 8-bit or 16-bit grey, or to RGB"
    )


def _decode_one(head: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    size, max_pixels, formats, seconds = json.loads(head)
    # The system ends this process then, whatever a decoder does.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        image, facts = decode(requests.read(size), max_pixels, formats)
    except MemoryError:
        sys.exit(1)  # what is left of it would be missing next time
    except Exception as error:
        _answer(answers, {"error": explain(error)})
    else:
        _send(answers, image, facts)


def _send(answers: BinaryIO, image: Image.Image, facts: dict[str, Any]) -> None:
    info, bands = facts["info"], len(image.getbands())
    blobs = {key: info.pop(key) for key in list(info) if isinstance(info[key], bytes)}
    shape = [image.height, image.width] + [bands] * (bands > 1)
    sizes = [(key, len(value)) for key, value in blobs.items()]
    _answer(answers, {"mode": image.mode, "shape": shape, "blobs": sizes, "facts": facts})
    answers.write(b"".join(blobs.values()))
    rows = max(1, 2**20 // image.width)  # strips, for a whole copy could exceed the memory
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        answers.write((strip.convert("L") if image.mode == "1" else strip).tobytes())
    answers.flush()


def _answer(answers: BinaryIO, facts: dict[str, Any]) -> None:
    answers.write(json.dumps(facts).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, ValueError, OSError):
        pass  # macOS: the limit of time remains
    while request := sys.stdin.buffer.readline():  # until the other process closes its end
        # A function, so that no image outlives its turn.
        _decode_one(request, sys.stdin.buffer, sys.stdout.buffer)
        signal.setitimer(signal.ITIMER_REAL, 0)
