"""Image files: find, open within limits, and save without loss."""

import io
import math
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pixmend.errors import ImageError, InputError
from pixmend.images.decoder_process import decode_apart
from pixmend.images.decoding import decode, explain, is_light, png_chunks, too_large, upright
from pixmend.images.picture import Limits, Picture, check_limits, picture_from_array
from pixmend.images.pixels import Pixels
from pixmend.storage import StorePath, atomic_write

KNOWN_KINDS = "avif bmp dib gif jfif jpe jpeg jpg npy pbm pgm png pnm ppm tif tiff webp"
EXTENSIONS = frozenset(f".{kind}" for kind in KNOWN_KINDS.split())
MAX_PIXELS = 64_000_000  # 8,000 x 8,000: more is refused as a decompression bomb
MAX_BYTES = 512 * 2**20
# Decoders that run other programs or follow links in the file (EPS, MPO sidecars ...) stay off.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "DIB", "PPM", "NPY")
_TIFF = (".tif", ".tiff")
_LOSSLESS_MODES = {
    ".webp": ("RGB", "RGBA"),
    ".bmp": ("1", "L", "RGB"),
    ".npy": ("L", "I;16", "RGB", "RGBA"),
}
_NPY = b"\x93NUMPY"


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
        if name.endswith("/") or is_image(PurePosixPath(name)):
            yield name


def is_image(name: PurePath) -> bool:
    """Whether a name is that of an image file that can be opened."""
    return name.suffix.lower() in EXTENSIONS


def passed_over(
    folder: StorePath, outside: StorePath, is_input: Callable[[PurePath], bool] = is_image
) -> str:
    """Return how many visible files of a folder are no inputs, by suffix; nothing if all are.

    Those in the folder ``outside`` are not counted.
    """
    if not folder.is_folder():
        return ""
    files = (name for name, *_ in folder.files(hidden=False) if not name.endswith("/"))
    names = (PurePosixPath(n) for n in files if not f"{folder / n}".startswith(f"{outside}/"))
    others = [name.suffix.lower() for name in names if not is_input(name)]
    counts = Counter(each if each[1:].isalnum() else "other" for each in others).most_common(6)
    many = "file of another kind" if len(others) == 1 else "files of other kinds"
    kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in counts)
    return f"{len(others):,} {many} passed over ({kinds})" if others else ""


def open_image(
    source: Any,  # noqa: ANN401 - a path, a URL, a PIL image or an array
    limits: Limits | None = None,
) -> Picture:
    """Open a path or URL, a PIL image or an array [H, W] or [H, W, C] as an upright `Picture`.

    EXIF rotation is applied and its tag removed; of an animation the first frame is used.
    ``limits`` are the values of black and white, if not the ends of its type.
    ImageError if it is missing, damaged, over the limits, or of a mode that cannot be kept.
    """
    limits = None if limits is None else check_limits(limits)
    if isinstance(source, Picture):
        return source
    if isinstance(source, np.ndarray):
        return picture_from_array(source, limits=limits)
    if isinstance(source, Image.Image):
        try:
            image, facts = upright(source)
        except MemoryError:
            raise
        except Exception as error:  # a file that is closed or cut, which PIL reads only now
            raise ImageError(f"image: {explain(error)}") from error
        return _picture(np.array(image), image.mode, None, facts, limits)
    if not isinstance(source, str | os.PathLike | StorePath):
        raise ImageError(
            f"image: a {type(source).__name__} is no image; "
            "give a path, a PIL image or an array, or a list of them"
        )
    place = StorePath.of(source if isinstance(source, str | StorePath) else Path(source))
    return decode_image(_read(place), place.local or place, limits=limits)


def decode_image(
    content: bytes,
    path: Path | StorePath | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] = FORMATS,
    limits: Limits | None = None,
) -> Picture:
    """Decode an image file of one of ``formats``; ``path`` is for messages. See `open_image`."""
    name = str(path or "image")
    if content.startswith(_NPY) and "NPY" in formats:
        return picture_from_array(_decode_array(content, name, max_pixels), path, limits)
    formats = tuple(each for each in formats if each != "NPY")
    try:
        if is_light(content):
            image, facts = decode(content, max_pixels, formats)
            samples, mode = np.array(image), image.mode
        else:
            samples, mode, facts = decode_apart(content, max_pixels, formats)
    except MemoryError:
        # If the machine is short of memory this raises again: the image may be good, and must not
        # be skipped.
        bytearray(4 * max_pixels)
        raise ImageError(f"{name}: {too_large(max_pixels)}") from None
    except Exception as error:
        raise ImageError(f"{name}: {explain(error)}") from error
    return _picture(samples, mode, path, facts, limits)


def read_array(place: StorePath) -> NDArray[Any]:
    """Return the array of a .npy file; ImageError if it is damaged or over the limits."""
    return _decode_array(_read(place), str(place), MAX_PIXELS)


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
    """Return a picture as a PNG with its metadata; CMYK becomes RGB, grey floats 16 bits."""
    image, info = picture.to_pil(), picture.info
    if image.mode == "CMYK":
        info = {key: value for key, value in info.items() if key != "icc_profile"}  # of inks
        image = image.convert("RGB")
    elif image.mode == "F":
        image = Image.fromarray(picture.pixels[..., 0])
    return _save(image, "PNG", info)


def lossless_suffix(suffix: str, mode: str) -> str:
    """Return the suffix to save a picture of ``mode`` exactly: its own if possible.

    A WebP file stores no fully opaque alpha: it opens as RGB, with equal pixels.
    """
    kind = suffix.lower()
    if mode == "CMYK" or (mode == "F" and kind != ".npy"):
        return suffix if kind in _TIFF else ".tif"
    if mode.endswith("F"):
        return suffix if kind == ".npy" else ".npy"
    lossless = kind in (".png", *_TIFF) or mode in _LOSSLESS_MODES.get(kind, ())
    return suffix if lossless else ".png"


def save_image(picture: Picture, path: Path) -> None:
    """Write the file of `image_bytes` atomically."""
    with atomic_write(path) as file:
        file.write(image_bytes(picture, path.suffix))


def image_bytes(picture: Picture, suffix: str) -> bytes:
    """Return a picture and its metadata as a file; lossless for a `lossless_suffix`."""
    kind = suffix.lower()
    if kind == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, picture.native, allow_pickle=False)
        return buffer.getvalue()
    return _save(picture.to_pil(), "TIFF" if kind in _TIFF else kind[1:].upper(), picture.info)


def _save(image: Image.Image, kind: str, info: dict[str, Any]) -> bytes:
    image.info.clear()  # else PIL writes some of it too
    options = {key: value for key, value in info.items() if key != "png"}
    if kind == "PNG":
        options["pnginfo"] = text = PngInfo()
        for name, body in png_chunks(info.get("png", b""), 0):
            text.add(name, body)
        if xmp := options.pop("xmp", None):
            text.add_itxt("XML:com.adobe.xmp", xmp.decode(errors="replace"))
    elif kind == "WEBP":
        options |= {"lossless": True, "exact": True}
    elif kind == "TIFF":
        # PIL's compressing writer fails on EXIF groups (camera, GPS); the raw one does not.
        if xmp := options.pop("xmp", None):
            tags = Image.Exif()
            tags.load(options.get("exif", b""))
            tags[700] = xmp
            options["exif"] = tags.tobytes()
        options |= {"compression": "raw" if "exif" in options else "tiff_adobe_deflate"}
    elif kind == "BMP":
        options = {key: value for key, value in options.items() if key == "dpi"}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _read(place: StorePath) -> bytes:
    try:
        return place.read_bytes(limit=MAX_BYTES)
    except InputError as error:
        raise ImageError(str(error)) from error


def _decode_array(content: bytes, name: str, max_pixels: int) -> NDArray[Any]:
    file = io.BytesIO(content)
    try:
        # Not numpy.load: it makes room for the size of the header before it reads the samples.
        formats = np.lib.format
        major, _ = formats.read_magic(file)
        read_header = formats.read_array_header_1_0 if major == 1 else formats.read_array_header_2_0
        shape, columns_first, dtype = read_header(file)
        samples = np.frombuffer(content, dtype, math.prod(shape), file.tell())
        array = samples.reshape(shape, order="F" if columns_first else "C")
    except Exception as error:  # numpy lets any error of its parser through
        raise ImageError(f"{name}: damaged, or no array of numbers: save it again") from error
    if math.prod(array.shape[:2]) > max_pixels:
        raise ImageError(f"{name}: {too_large(max_pixels)}")
    return array.astype(dtype.newbyteorder("="))


def _picture(
    samples: NDArray[Any],
    mode: str,
    path: Path | StorePath | None,
    facts: dict[str, Any],
    limits: Limits | None,
) -> Picture:
    if mode == "F" or (limits and mode in ("L", "I;16", "RGB", "RGBA")):  # floats may be NaN
        picture = picture_from_array(samples, path, limits)
        return replace(picture, **facts | {"warnings": [*picture.warnings, *facts["warnings"]]})
    if limits:
        raise ImageError(f"{path or 'image'}: pixels of mode {mode} have no range; leave it out")
    return Picture(samples, mode, path, **facts)
