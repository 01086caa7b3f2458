"""Each kind of image file gives the right pixels: 23 x 15, never square."""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixmend.images import Picture, decode_image, fit_square, to_channels
from pixmend.records import Manifest, PackSettings, Records, pack
from pixmend.records.shards import square_of

from .helpers import every, noise, pack_one

WHITE = (255, 255, 255)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    return path


def smooth(channels: int = 3) -> np.ndarray:
    """A 23 x 15 gradient whose four quarters differ, so that turns and flips show."""
    y, x = np.mgrid[:23, :15]
    planes = [y * 11, x * 17, (y + x) * 6, 255 - y * 3]
    return np.stack(planes[:channels], axis=-1).astype(np.uint8)


def expected(pixels: np.ndarray, channels: str, size: int = 8) -> np.ndarray:
    return to_channels(fit_square(pixels, size, "crop", WHITE), channels, WHITE)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.PNG", "PNG"), ("a.Bmp", "BMP"), ("a.TIF", "TIFF"), ("a.tiff", "TIFF"), ("a.gif", "GIF")],
)
def test_lossless_kinds_in_any_case(folder: Path, name: str, kind: str) -> None:
    image = Image.fromarray(smooth()).quantize(200) if kind == "GIF" else Image.fromarray(smooth())
    image.save(folder / name, kind)
    colours = np.asarray(image.convert("RGB"))
    assert np.array_equal(pack_one(folder)[0], expected(colours, "RGB"))


@pytest.mark.parametrize(
    ("name", "kind"), [("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.WebP", "WEBP")]
)
def test_lossy_kinds(folder: Path, name: str, kind: str) -> None:
    Image.fromarray(smooth()).save(folder / name, kind, quality=95)
    difference = pack_one(folder)[0].astype(int) - expected(smooth(), "RGB")
    assert np.abs(difference).max() < 16


def test_the_kind_is_told_by_content_not_by_name(folder: Path) -> None:
    Image.fromarray(smooth()).save(folder / "really-a.jpg", "PNG")
    assert np.array_equal(pack_one(folder)[0], expected(smooth(), "RGB"))


def test_animated_gif_gives_its_first_frame(folder: Path) -> None:
    frames = [Image.new("RGB", (15, 23), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    assert np.all(pack_one(folder) == (255, 0, 0))


def test_palette_with_transparency_is_composited_or_kept(folder: Path) -> None:
    image = Image.new("P", (15, 23), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.paste(0, (0, 0, 15, 11))  # the upper half is clear, the lower red
    image.save(folder / "a.png", transparency=0)
    kept = pack_one(folder)[0]
    assert kept.shape == (8, 8, 4)  # seen without being asked for
    assert (kept[0, 0, 3], *kept[7, 7]) == (0, 255, 0, 0, 255)
    (folder.parent / "in-records").rename(folder.parent / "kept")
    shown = pack_one(folder, channels="RGB", background="#00ff00")[0]
    assert (tuple(shown[0, 0]), tuple(shown[7, 7])) == ((0, 255, 0), (255, 0, 0))


def test_grey_with_alpha(folder: Path) -> None:
    values = np.zeros((23, 15, 2), np.uint8)
    values[..., 0], values[:11, :, 1], values[11:, :, 1] = 100, 0, 255
    Image.fromarray(values).save(folder / "a.png")
    grey = pack_one(folder, channels="L", background="black")[0]
    assert (grey.shape, grey[0, 0, 0], grey[7, 7, 0]) == ((8, 8, 1), 0, 100)


def test_half_alpha_mixes_with_the_background(folder: Path) -> None:
    Image.new("RGBA", (15, 23), (200, 100, 0, 128)).save(folder / "a.png")
    shown = pack_one(folder, channels="RGB", background="white")[0, 4, 4].astype(int)
    share = 128 / 255
    assert np.abs(shown - [255 + (c - 255) * share for c in (200, 100, 0)]).max() <= 1


def test_cmyk_jpeg_is_not_inverted(folder: Path) -> None:
    Image.new("RGB", (15, 23), (220, 30, 40)).convert("CMYK").save(folder / "a.jpg", quality=95)
    assert np.abs(pack_one(folder, channels="RGB")[0].astype(int) - (220, 30, 40)).max() < 12


def test_16_bit_grey_keeps_its_range(folder: Path) -> None:
    levels = np.linspace(0, 65535, 23 * 15).reshape(23, 15).astype(np.uint16)
    Image.fromarray(levels).save(folder / "a.png")
    grey = pack_one(folder)[0]
    eight = np.rint(levels / 257).astype(np.uint8)[..., None]
    assert np.array_equal(grey, expected(eight, "L"))
    assert int(grey.max()) - int(grey.min()) > 100


def test_bilevel_becomes_black_and_white(folder: Path) -> None:
    Image.fromarray(smooth(1)[..., 0] > 128).save(folder / "a.png")
    assert pack_one(folder, fit="stretch", size=64)[0].max() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(folder: Path, orientation: int) -> None:
    upright = Image.fromarray(smooth())
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(folder / "a.jpg", quality=100, subsampling=0, exif=exif)
    difference = pack_one(folder, fit="stretch")[0].astype(int)
    difference -= fit_square(smooth(), 8, "stretch", WHITE)
    assert np.abs(difference).max() < 6
    line = json.loads((folder.parent / "in-records" / "inputs.jsonl").read_text())
    assert (line["height"], line["width"]) == (23, 15)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_fits(folder: Path, fit: str) -> None:
    picture = np.zeros((16, 8, 3), np.uint8)
    picture[4:12] = (0, 0, 255)
    Image.fromarray(picture).save(folder / "a.png")
    got = pack_one(folder, fit=fit, background="red", size=16 if fit == "pad" else 8)[0]
    if fit == "crop":
        assert np.all(got == (0, 0, 255))
    elif fit == "pad":
        assert np.array_equal(got[:, 4:12], picture)
        assert np.all(got[:, :4] == (255, 0, 0))
    else:
        assert tuple(got[0, 0]) != tuple(got[4, 4])


def test_padding_a_grey_image_for_colour_has_the_colour() -> None:
    settings = PackSettings(size=8, fit="pad", background="red", channels="RGB")
    got = square_of(np.full((8, 4, 1), 9, np.uint8), settings, "RGB")
    assert (tuple(got[0, 0]), tuple(got[0, 4])) == ((255, 0, 0), (9, 9, 9))
    clear = square_of(np.full((8, 4, 3), 9, np.uint8), settings, "RGBA")
    assert (clear[0, 0, 3], clear[0, 4, 3]) == (0, 255)


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(["L", "L"], "L"), (["L", "RGB"], "RGB"), (["RGB", "RGBA"], "RGBA"), (["grey RGB"], "L")],
)
def test_channels_are_those_of_the_images(folder: Path, modes: list[str], channels: str) -> None:
    for number, mode in enumerate(modes):
        count = {"L": 1, "RGB": 3, "RGBA": 4, "grey RGB": 3}[mode]
        pixels = noise(number, channels=count)
        if mode == "grey RGB":
            pixels[:] = pixels[..., :1]
        Image.fromarray(pixels).save(folder / f"{number}.png")
    pack_one(folder)
    assert Manifest.read(folder.parent / "in-records").settings.channels == channels


def test_opaque_alpha_is_no_alpha(folder: Path) -> None:
    pixels = noise(0, channels=4)
    pixels[..., 3] = 255
    Image.fromarray(pixels).save(folder / "a.png")
    assert pack_one(folder).shape[-1] == 3


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk
        + struct.pack(">I", len(data) - 4)
        + data
        + struct.pack(">I", zlib.crc32(data))
    )


def damaged() -> dict[str, bytes]:
    buffer = io.BytesIO()
    Image.fromarray(noise(1, 200, 170)).save(buffer, "JPEG")
    png = io.BytesIO()
    Image.fromarray(noise(2, 100, 70)).save(png, "PNG")
    flipped = bytearray(png.getvalue())
    flipped[len(flipped) // 2] ^= 0xFF
    return {
        "text.png": b"hello, I am no image",
        "empty.png": b"",
        "cut.jpg": buffer.getvalue()[: len(buffer.getvalue()) // 2],
        "cut.png": png.getvalue()[:500],
        "flipped.png": bytes(flipped),
        "bomb.png": png_header(20_000, 10_000),
        "bomb-too-large-for-the-warning.png": png_header(60_000, 60_000),
        "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    }


def test_damaged_files_are_reported_and_never_fatal(folder: Path) -> None:
    for name, content in damaged().items():
        (folder / name).write_bytes(content)
    Image.fromarray(smooth()).save(folder / "good.png")
    (folder / "to-nothing.png").symlink_to(folder / "nowhere.png")
    assert len(pack_one(folder)) == 1
    out = folder.parent / "in-records"
    lines = [json.loads(line) for line in (out / "inputs.jsonl").read_text().splitlines()]
    reasons = {line["name"]: line["reason"] for line in lines if "reason" in line}
    assert set(reasons) == {*damaged(), "to-nothing.png"}
    assert all(reasons.values())
    assert "million pixels" in reasons["bomb.png"]
    assert "not an image" in reasons["text.png"]
    assert Manifest.read(out).left_out == len(reasons)


def test_the_png_in_a_record_is_the_image(folder: Path) -> None:
    pixels = noise(5, 8, 8)
    Image.fromarray(pixels).save(folder / "a.png")
    assert np.array_equal(pack_one(folder)[0], pixels)
    picture = decode_image((folder / "a.png").read_bytes())
    assert isinstance(picture, Picture)


def test_a_single_image_is_a_source(folder: Path) -> None:
    pixels = noise(5, 8, 8)
    Image.fromarray(pixels).save(folder / "a.png")
    out = folder.parent / "records"
    pack(folder / "a.png", out, PackSettings(size=8))
    assert np.array_equal(every(Records(out))[0], pixels)
