"""Image files: find, open within limits, and save without loss."""

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
from pixmend.images.picture import Picture, picture_from_array, picture_from_pil
from pixmend.images.pixels import Pixels
from pixmend.storage import StorePath, atomic_write

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
MAX_PIXELS = 64_000_000  # 8,000 x 8,000: more is refused as a decompression bomb
MAX_BYTES = 512 * 2**20
# Decoders that run other programs or follow links in the file (EPS, MPO sidecars ...) stay off.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# Description, make, model, software, date, artist, host, copyright: TIFF tags about the image.
# Other tags describe the storage in that file, and would be wrong in another.
_TIFF_TAGS = (270, 271, 272, 305, 306, 315, 316, 33432)
_EXIF_GROUPS = (0x8769, 0x8825)  # camera, GPS
_TIFF = (".tif", ".tiff")
_LOSSLESS_MODES = {".webp": ("RGB", "RGBA"), ".bmp": ("1", "L", "RGB")}
# What PIL's decoders raise on damaged files.
_DECODER_ERRORS = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError),
    *(ArithmeticError, RuntimeError, AttributeError),
)


def find_images(folder: Path) -> Iterator[Path]:
    """Yield the image files of `images_in`."""
    return (folder / name for name in images_in(StorePath(folder)))


def images_at(place: StorePath) -> Iterator[Path | StorePath]:
    """Yield the image files of a folder, here or in a store, or the single file at ``place``."""
    if not place.is_folder():
        yield place.local or place
    else:
        yield from ((place / name).local or place / name for name in images_in(place))


def images_in(folder: StorePath) -> Iterator[str]:
    """Yield the relative names of the image files below a folder, sorted, without hidden ones.

    A sub-folder that cannot be read is one of them: it fails as an image would, and is reported.
    """
    for name, *_ in folder.files(hidden=False):
        if name.endswith("/") or PurePosixPath(name).suffix.lower() in EXTENSIONS:
            yield name


def open_image(source: Any) -> Picture:  # noqa: ANN401 - a path, a URL, a PIL image or an array
    """Open a path or URL, a PIL image or an array [H, W] or [H, W, C] as an upright `Picture`.

    EXIF rotation is applied and its tag removed; of an animation the first frame is used.
    ImageError if it is missing, damaged, over the limits, or of a mode that cannot be kept.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return picture_from_array(source)
    if isinstance(source, Image.Image):
        return picture_from_pil(ImageOps.exif_transpose(source))
    if not isinstance(source, str | os.PathLike | StorePath):
        raise ImageError(
            f"image: a {type(source).__name__} is no image; "
            "give a path, a PIL image or a NumPy array"
        )
    place = StorePath.of(source if isinstance(source, str | StorePath) else Path(source))
    return decode_image(_read(place), place.local or place)


def decode_image(
    content: bytes,
    path: Path | StorePath | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
) -> Picture:
    """Decode an image file of one of ``formats``; ``path`` is for messages. See `open_image`."""
    name = str(path or "image")
    too_large = f"more than {max_pixels / 1e6:.0f} million pixels; scale it down first"
    try:
        with warnings.catch_warnings():
            # PIL's own limit comes first for the largest images, and only as a warning.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=formats) as image:
                if image.width * image.height > max_pixels:
                    raise ImageError(f"{name}: {image.width} x {image.height}: {too_large}")
                _mark_reduced(image)
                image.load()
                if image.format == "TIFF":
                    # Only after loading, which turns a TIFF upright and takes all its tags for
                    # EXIF.
                    _keep_tiff_tags(image)
                return picture_from_pil(ImageOps.exif_transpose(image), path)
    except UnidentifiedImageError:
        kinds = ", ".join(sorted(formats)).lower()
        raise ImageError(
            f"{name}: not an image, or a damaged one; known kinds are {kinds}"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name}: {too_large}") from None
    except ImageError:
        raise
    except MemoryError:
        # If the machine is short of memory this raises again: the image may be good, and must not
        # be skipped.
        bytearray(4 * max_pixels)
        raise ImageError(f"{name}: {too_large}") from None
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if not isinstance(error, _DECODER_ERRORS) and module not in ("struct", "zlib", "PIL"):
            raise
        raise ImageError(f"{name}: damaged: {error}") from error


def encode_png(pixels: Pixels, *, quick: bool = False) -> bytes:
    """Return uint8 [H, W, C] (or uint16 [H, W, 1]) as a PNG; equal pixels give equal bytes.

    ``quick`` encodes runs only (zlib's Z_RLE): in half the time, equally small on photographs, a
    fifth larger on drawings.
    """
    flat = np.ascontiguousarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    buffer = io.BytesIO()
    options = {"compress_type": zlib.Z_RLE} if quick else {}
    Image.fromarray(flat).save(buffer, "PNG", compress_level=6, **options)
    return buffer.getvalue()


def png_bytes(picture: Picture) -> bytes:
    """Return a picture as a PNG with its metadata; CMYK is converted to RGB."""
    buffer = io.BytesIO()
    image, info = picture.to_pil(), dict(picture.info)
    if image.mode == "CMYK":
        info.pop("icc_profile", None)  # it describes inks
        image = image.convert("RGB")
        image.info.pop("icc_profile", None)
    image.save(buffer, "PNG", **info)
    return buffer.getvalue()


def lossless_suffix(suffix: str, mode: str) -> str:
    """Return the suffix to save a picture of ``mode`` exactly: its own if possible.

    A WebP file stores no fully opaque alpha: it opens as RGB, with equal pixels.
    """
    kind = suffix.lower()
    if mode == "CMYK":
        return suffix if kind in _TIFF else ".tif"
    lossless = kind in (".png", *_TIFF) or mode in _LOSSLESS_MODES.get(kind, ())
    return suffix if lossless else ".png"


def save_image(picture: Picture, path: Path) -> None:
    """Write the file of `image_bytes` atomically."""
    with atomic_write(path) as file:
        file.write(image_bytes(picture, path.suffix))


def image_bytes(picture: Picture, suffix: str) -> bytes:
    """Return a picture and its metadata as a file; lossless for a `lossless_suffix`."""
    kind = suffix.lower()
    options: dict[str, Any] = dict(picture.info)
    if kind == ".webp":
        options |= {"lossless": True, "exact": True}
    elif kind in _TIFF:
        # PIL's compressing writer fails on EXIF groups (camera, GPS); the raw one does not.
        options |= {"compression": "raw" if "exif" in options else "tiff_adobe_deflate"}
    elif kind == ".bmp":
        options = {key: value for key, value in options.items() if key == "dpi"}
    name = "TIFF" if kind in _TIFF else kind[1:].upper()
    buffer = io.BytesIO()
    picture.to_pil().save(buffer, name, **options)
    return buffer.getvalue()


def _read(place: StorePath) -> bytes:
    try:
        return place.read_bytes(limit=MAX_BYTES)
    except InputError as error:
        raise ImageError(str(error)) from error


def _mark_reduced(image: Image.Image) -> None:
    """Mark 16-bit colour in ``info``: PIL cuts its samples to 8 bits in silence."""
    tiles = getattr(image, "tile", None)
    tile: tuple[Any, ...] = tiles[0] if tiles else ()
    raw_mode = tile[3] if len(tile) > 3 else ""
    raw_mode = raw_mode[0] if isinstance(raw_mode, tuple) and raw_mode else raw_mode
    if isinstance(raw_mode, str) and ";16" in raw_mode and image.mode[0] not in "IF":
        image.info["reduced"] = True


def _keep_tiff_tags(image: Image.Image) -> None:
    """Move a TIFF's tags about the image to ``info``, where PIL keeps the EXIF of other kinds."""
    tags, kept = image.getexif(), Image.Exif()
    for tag in _TIFF_TAGS:
        if tag in tags:
            kept[tag] = tags[tag]
    for group in _EXIF_GROUPS:
        if group in tags:
            kept.get_ifd(group).update(tags.get_ifd(group))
    if any(key in tags for key in (*_TIFF_TAGS, *_EXIF_GROUPS)):
        image.info["exif"] = kept.tobytes()
