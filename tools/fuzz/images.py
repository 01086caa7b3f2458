"""Fuzz targets of images with metadata, mask images and mask specs."""

import contextlib
import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from pixmend.errors import ImageError, MaskError
from pixmend.images import decode_image, image_bytes, lossless_suffix, png_bytes
from pixmend.masks import Mask, make_mask

__all__ = [
    "check_image",
    "check_mask_image",
    "check_mask_spec",
    "image_seeds",
    "mask_image_seeds",
    "mask_spec_seeds",
]

_MOST = 16_384  # pixels: larger images are slower without adding coverage
_SUFFIXES = (".png", ".tif", ".webp", ".bmp")


def check_image(content: bytes) -> None:
    """An image is refused with a message, or survives every lossless format with its metadata."""
    try:
        picture = decode_image(content, max_pixels=_MOST)
    except ImageError as error:
        assert "\n" not in str(error)
        return
    assert picture.height * picture.width <= _MOST
    assert picture.pixels.shape[:2] == (picture.height, picture.width)
    assert picture.pixels.shape[2] in (1, 3, 4)
    for suffix in sorted({lossless_suffix(each, picture.mode) for each in _SUFFIXES}):
        again = decode_image(image_bytes(picture, suffix))
        if (suffix, again.mode) == (
            ".webp",
            "RGB",
        ):  # WebP stores no alpha that is opaque everywhere
            assert picture.mode == "RGB" or (picture.native[..., 3] == 255).all()
            assert np.array_equal(again.native, picture.native[..., :3])
            continue
        assert again.mode == picture.mode, (suffix, again.mode, picture.mode)
        assert np.array_equal(again.native, picture.native), suffix
        if suffix == ".png":
            assert again.info.get("icc_profile") == picture.info.get("icc_profile")
    shown = decode_image(png_bytes(picture))
    assert (shown.height, shown.width) == (picture.height, picture.width)


def check_mask_image(content: bytes) -> None:
    """A mask image is refused with a message, or gives a mask of its size that round-trips."""
    with contextlib.suppress(ImageError, MaskError):
        picture = decode_image(content, max_pixels=_MOST)
        mask = Mask.from_pixels(picture.pixels)
        assert mask.known.shape == (picture.height, picture.width)
        assert np.array_equal(Mask.from_pixels(mask.to_pixels()).known, mask.known)
        assert 0 <= mask.missing <= 1
        mask.check(picture.height, picture.width, "image")


def check_mask_spec(content: bytes) -> None:
    """A spec is refused with a message, or gives a deterministic mask of the requested size."""
    spec = content[2:].decode("utf-8", "replace")
    height, width = (1 + byte % 24 for byte in (content + b"\x17\x0f")[:2])
    try:
        mask = make_mask(spec, height, width, seed=3)
    except MaskError as error:
        assert "\n" not in str(error)
        return
    assert mask.known.shape == (height, width)
    assert mask.known.dtype == np.bool_
    assert np.array_equal(make_mask(spec, height, width, seed=3).known, mask.known)


def mask_spec_seeds() -> Iterator[bytes]:
    """Yield the specs of the help text, and invalid numbers."""
    specs = (
        "center half:left random:0.8 grid lowres:4 strokes:0.25 center:nan lowres:\u0664 half:up"
    )
    for spec in specs.split(" "):
        yield b"\x0c\x09" + spec.encode()


@cache
def image_seeds() -> tuple[bytes, ...]:
    """Yield a file of each format and mode, some with EXIF, ICC profile, resolution or alpha."""
    generator = np.random.default_rng(1)
    colour = Image.fromarray(generator.integers(0, 256, (5, 7, 4), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a picture"
    exif.get_ifd(0x8825)[1] = "N"
    carried: dict[str, Any] = {"exif": exif.tobytes(), "dpi": (72, 72), "icc_profile": b"p" * 40}
    deep = Image.fromarray(generator.integers(0, 65536, (5, 7), np.uint16))
    grey, palette = colour.convert("L"), colour.convert("RGB").quantize(5)
    return (
        _file(colour.convert("RGB"), "PNG", **carried),
        _file(colour, "PNG"),
        _file(grey.convert("1"), "PNG"),
        _file(grey, "PNG", transparency=7),
        _file(colour.convert("LA"), "PNG"),
        _file(deep, "PNG"),
        _file(palette, "PNG", transparency=1),
        _file(colour.convert("RGB"), "JPEG", **carried),
        _file(grey, "JPEG", progressive=True),
        _file(colour.convert("CMYK"), "JPEG"),
        _file(colour, "WEBP", lossless=True, **carried),
        _file(colour.convert("RGB"), "BMP"),
        _file(palette, "BMP"),
        _file(palette, "GIF", transparency=0),
        _file(palette, "GIF", save_all=True, append_images=[palette]),
        _file(colour, "TIFF", compression="tiff_adobe_deflate", dpi=(72, 72)),
        _file(colour.convert("CMYK"), "TIFF"),
        _file(colour.convert("LAB"), "TIFF"),
        _file(deep, "TIFF", compression="tiff_lzw"),
        _file(grey, "TIFF", exif=exif),
        _file(grey.convert("F"), "TIFF"),
    )


mask_image_seeds = image_seeds


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - options differ by format
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
