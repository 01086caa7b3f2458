"""Image files: found, opened within limits, and saved without loss."""

import io
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pixmend.errors import ImageError, InputError
from pixmend.images.picture import Picture, picture_from_array, picture_of
from pixmend.images.pixels import Pixels
from pixmend.storage import StorePath, atomic_write

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000  # 8,000 x 8,000: more is taken for a bomb
MAX_BYTES = 512 * 2**20
# Readers that run other programs or follow links in the file (EPS, MPO sidecars ...) stay shut.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# Description, make, model, software, date, artist, host, copyright: what a TIFF's tags say about the image. The others say how it
# is stored in that file, and would be wrong in another.
_TIFF_FACTS = (270, 271, 272, 305, 306, 315, 316, 33432)
_EXIF_GROUPS = (0x8769, 0x8825)  # camera, place


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the image files under ``folder``, sub-folders included, sorted by path; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in EXTENSIONS and not hidden and path.is_file():
            yield path


def images_at(place: StorePath) -> Iterator[Path | StorePath]:
    """Yield the image files of a folder as `find_images` and `images_in` do, or the one file that a place is."""
    if not place.is_folder():
        yield place.local or place
    elif place.local is not None:
        yield from find_images(place.local)
    else:
        yield from (place / name for name in images_in(place))


def images_in(folder: StorePath) -> Iterator[str]:
    """Yield the image files in a folder, sub-folders included, as relative names; hidden ones are left out."""
    for name, *_ in folder.files():
        hidden = any(part.startswith(".") for part in name.split("/"))
        if PurePosixPath(name).suffix.lower() in EXTENSIONS and not hidden:
            yield name


def open_image(source: Any, *, max_pixels: int = MAX_PIXELS) -> Picture:  # noqa: ANN401 - what users have at hand
    """Open a path or URL, a PIL image or an array [H, W] or [H, W, C] as an upright `Picture`.

    EXIF rotation is applied (and its tag taken out); of an animation the first frame is taken.

    Raises
    ------
    ImageError
        Missing, not an image, damaged, over the limits, or of a mode that cannot be kept.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return picture_from_array(source)
    if isinstance(source, Image.Image):
        return picture_of(ImageOps.exif_transpose(source))
    if not isinstance(source, str | os.PathLike | StorePath):
        raise ImageError(
            f"image: a {type(source).__name__} is no image; give a path, a PIL image or a NumPy array"
        )
    place = StorePath.of(source if isinstance(source, str | StorePath) else Path(source))
    path = place.local
    if path is None:
        return decode_image(_fetched(place), place, max_pixels=max_pixels)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ImageError(f"{path}: not a file; give an image file")
        if size > MAX_BYTES:
            raise ImageError(
                f"{path}: {size / 2**20:.0f} MiB is over the limit of {MAX_BYTES >> 20} MiB"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    return decode_image(content, path, max_pixels=max_pixels)


def decode_image(
    content: bytes,
    path: Path | StorePath | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Picture:
    """Decode an image file's bytes, of one of ``formats``; ``path`` names it in messages. See `open_image`."""
    name = str(path or "image")
    try:
        with warnings.catch_warnings():
            # PIL's own alarm comes first for the largest, and only as a warning.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats) as image:
                _check_header(image, name, max_pixels)
                image.load()
                if image.format == "TIFF":
                    # After loading, which turns a TIFF upright and then takes all its tags for EXIF: the old width would be one.
                    _note_tiff_facts(image)
                return picture_of(ImageOps.exif_transpose(image), path)
    except UnidentifiedImageError:
        kinds = ", ".join(sorted(formats)).lower()
        raise ImageError(
            f"{name}: not an image, or a damaged one; known kinds are {kinds}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: {_too_large(max_pixels)}") from None
    except ImageError:
        raise
    # Decoders of damaged files raise whatever their parser met; for the user it is one thing.
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        EOFError,
        ArithmeticError,
        RuntimeError,
        AttributeError,
    ) as error:
        raise ImageError(f"{name}: damaged: {error}") from error
    except MemoryError:
        # Raises again where the machine is short of memory: then the image may be good, and must not be left out.
        bytearray(4 * max_pixels)
        raise ImageError(f"{name}: {_too_large(max_pixels)}") from None
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("struct", "zlib", "PIL"):
            raise
        raise ImageError(f"{name}: damaged: {error}") from error


def _fetched(place: StorePath) -> bytes:
    try:
        size = place.size()
        if size > MAX_BYTES:
            raise ImageError(
                f"{place}: {size / 2**20:.0f} MiB is over the limit of {MAX_BYTES >> 20} MiB"
            )
        return place.read_bytes() if size else b""
    except InputError as error:
        raise ImageError(str(error)) from error


def encode_png(pixels: Pixels, *, quick: bool = False) -> bytes:
    """Return uint8 [H, W, C] (or uint16 [H, W, 1]) as a PNG; equal pixels give equal bytes.

    ``quick`` looks for runs alone (zlib's Z_RLE): half the time, as small on photographs, a fifth larger on drawings.
    """
    flat = np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    options = {"compress_type": zlib.Z_RLE} if quick else {}
    Image.fromarray(flat).save(buffer, "PNG", compress_level=6, **options)
    return buffer.getvalue()


def png_bytes(picture: Picture) -> bytes:
    """Return a picture as a PNG with its metadata; CMYK is shown as RGB."""
    buffer = io.BytesIO()
    image, info = picture.to_pil(), picture.info
    if image.mode == "CMYK":
        # The profile is of inks; a PNG has none.
        image, info = image.convert("RGB"), {k: v for k, v in info.items() if k != "icc_profile"}
        image.info.pop("icc_profile", None)
    image.save(buffer, "PNG", **info)
    return buffer.getvalue()


def lossless_suffix(suffix: str, mode: str) -> str:
    """Return the file suffix under which a picture of ``mode`` that came as ``suffix`` can be saved exactly.

    A WebP file holds no alpha that is opaque everywhere: it opens as RGB, with equal pixels.
    """
    kept = suffix.lower()
    if mode == "CMYK":
        return suffix if kept in (".tif", ".tiff") else ".tif"
    if kept in (".png", ".tif", ".tiff"):
        return suffix
    if kept == ".webp" and mode in ("RGB", "RGBA"):
        return suffix
    if kept == ".bmp" and mode in ("1", "L", "RGB"):
        return suffix
    return ".png"


def save_image(picture: Picture, path: Path) -> None:
    """Save ``picture`` atomically and without loss under a suffix of `lossless_suffix`, metadata included."""
    with atomic_write(path) as file:
        file.write(image_bytes(picture, path.suffix))


def image_bytes(picture: Picture, suffix: str) -> bytes:
    """Return the file of `save_image` under a suffix of `lossless_suffix`."""
    kind = suffix.lower()
    options: dict[str, Any] = dict(picture.info)
    if kind == ".webp":
        options |= {"lossless": True, "exact": True}
    elif kind in (".tif", ".tiff"):
        # PIL's compressing writer fails on EXIF with groups (camera, place), the plain one does not.
        options |= {"compression": "raw" if "exif" in options else "tiff_adobe_deflate"}
    elif kind == ".bmp":
        options = {key: value for key, value in options.items() if key == "dpi"}
    name = {".tif": "TIFF", ".tiff": "TIFF"}.get(kind, kind[1:].upper())
    image = picture.to_pil()
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _check_header(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width} x {height}: {_too_large(max_pixels)}")
    tiles = getattr(image, "tile", None)
    tile = tiles[0] if tiles else None
    raw_mode = tile[3] if tile is not None and len(tile) > 3 else ""
    raw_mode = raw_mode[0] if isinstance(raw_mode, tuple) and raw_mode else raw_mode
    if isinstance(raw_mode, str) and ";16" in raw_mode and image.mode[0] not in "IF":
        # PIL would cut each sample to 8 bits without a word.
        image.info["cut_to_8_bits"] = True


def _note_tiff_facts(image: Image.Image) -> None:
    """Put what a TIFF says about the image where PIL keeps the EXIF of other kinds."""
    tags, facts = image.getexif(), Image.Exif()
    for tag in _TIFF_FACTS:
        if tag in tags:
            facts[tag] = tags[tag]
    for group in _EXIF_GROUPS:
        if group in tags:
            facts.get_ifd(group).update(tags.get_ifd(group))
    if any(key in tags for key in (*_TIFF_FACTS, *_EXIF_GROUPS)):
        image.info["exif"] = facts.tobytes()


def _too_large(max_pixels: int) -> str:
    return f"more than {max_pixels / 1e6:.0f} million pixels; scale it down first"
