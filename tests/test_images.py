"""Images: exact levels, every odd file, and errors that name the file."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pixmend.errors import ImageError, SettingsError
from pixmend.images import (
    Picture,
    encode_png,
    find_images,
    fit_square,
    lossless_suffix,
    open_image,
    parse_colour,
    save_image,
    to_channels,
    to_pixels,
    to_tensor,
)

NOISE = np.random.default_rng(0).integers(0, 256, (37, 31, 4), np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_comes_back_as_itself(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16, 1)
    values = to_tensor(levels)
    assert values.shape == (1, len(levels), 16)
    assert (values.min(), values.max()) == (-1, 1)
    assert np.array_equal(to_pixels(values, dtype), levels)


def test_an_image_keeps_its_height_and_width():
    assert to_tensor(NOISE).shape == (4, 37, 31)
    assert open_image(Image.fromarray(NOISE)).height == 37


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return open_image(tmp_path / name)


def test_odd_files_give_the_pixels_that_pil_shows(tmp_path):
    rgba, rgb, grey = (
        Image.fromarray(NOISE),
        Image.fromarray(NOISE[..., :3]),
        Image.fromarray(NOISE[..., 0]),
    )
    la = rgba.convert("LA")
    palette = rgb.quantize(16)
    for image, name, mode in [
        (rgba, "a.PNG", "RGBA"), (rgb, "b.bmp", "RGB"), (grey, "c.TIF", "L"), (la, "d.png", "LA"),
        (palette, "e.gif", "RGB"), (palette, "f.png", "RGB"), (grey.convert("1"), "g.png", "1"),
        (rgb.convert("CMYK"), "h.tiff", "CMYK"),
    ]:  # fmt: skip
        picture = saved(tmp_path, image, name)
        assert picture.mode == mode
        expected = np.asarray(image if mode == image.mode else image.convert(mode))
        assert np.array_equal(picture.native, expected), name
    picture = saved(tmp_path, rgba, "i.webp", lossless=True, exact=True)
    assert np.array_equal(picture.native, NOISE)


def test_transparency_of_palettes_and_of_single_colours_becomes_alpha(tmp_path):
    palette = Image.fromarray((np.arange(64, dtype=np.uint8) % 4).reshape(8, 8), "L").convert("P")
    picture = saved(tmp_path, palette, "p.png", transparency=2)
    assert picture.mode == "RGBA"
    assert (picture.pixels[..., 3] == 0).sum() == 16
    picture = saved(tmp_path, Image.fromarray(NOISE[..., 0] % 4), "l.png", transparency=1)
    assert picture.mode == "LA"
    assert ((picture.native[..., 1] == 0) == (NOISE[..., 0] % 4 == 1)).all()


def test_sixteen_bit_grey_keeps_all_its_bits(tmp_path):
    levels = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
    for name in ("a.png", "b.tif"):
        picture = saved(tmp_path, Image.fromarray(levels), name)
        assert picture.mode == "I;16"
        assert np.array_equal(picture.native, levels)
        save_image(picture, tmp_path / f"again-{name}")
        assert np.array_equal(open_image(tmp_path / f"again-{name}").native, levels)


def test_sixteen_bit_colour_is_not_cut_in_silence(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress((b"\0" + bytes(2 * 3 * 4)) * 5)
    header = struct.pack(">IIBBBBB", 4, 5, 16, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    (tmp_path / "deep.png").write_bytes(content)
    assert open_image(tmp_path / "deep.png").reduced
    assert not open_image(Image.fromarray(NOISE)).reduced


def test_exif_rotation_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a stone"
    picture = saved(tmp_path, Image.fromarray(NOISE[..., :3]), "turned.jpg", exif=exif, quality=100)
    assert (picture.height, picture.width) == (31, 37)
    save_image(picture, tmp_path / "again.png")
    again = open_image(tmp_path / "again.png")
    assert (again.height, again.width) == (31, 37)
    with Image.open(tmp_path / "again.png") as image:
        assert image.getexif().get(0x0112, 1) == 1
        assert image.getexif()[0x010E] == "a stone"


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.png"), ("RGBA", "a.webp"), ("CMYK", "a.tif"), ("LA", "a.png"), ("1", "a.bmp")],
)
def test_pixels_mode_and_profile_survive_saving(tmp_path, mode, name):
    image = Image.fromarray(NOISE).convert(mode)
    picture = open_image(image)
    picture = Picture(picture.native, picture.mode, None, {"icc_profile": b"profile" * 20})
    assert lossless_suffix(name[1:], mode) == name[1:]
    save_image(picture, tmp_path / name)
    again = open_image(tmp_path / name)
    assert again.mode == mode
    assert np.array_equal(again.native, picture.native)
    if name != "a.bmp":
        assert again.info["icc_profile"] == b"profile" * 20


def test_what_a_format_cannot_hold_becomes_png_and_cmyk_becomes_tiff():
    assert [lossless_suffix(s, "RGB") for s in (".jpg", ".JPEG", ".gif", ".png", ".PNG")] == [
        ".png", ".png", ".png", ".png", ".PNG",
    ]  # fmt: skip
    assert lossless_suffix(".bmp", "RGBA") == ".png"
    assert lossless_suffix(".webp", "L") == ".png"
    assert lossless_suffix(".jpg", "CMYK") == ".tif"


def png():
    buffer = io.BytesIO()
    Image.fromarray(NOISE).save(buffer, "PNG")
    return buffer.getvalue()


def bomb():
    content = bytearray(png())
    content[16:24] = struct.pack(">II", 20_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"only text",
        png()[:300],
        png()[:40],
        bomb(),
        b"GIF89a",
        b"\xff\xd8\xff\xe0" + bytes(20),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.png") as caught:
        open_image(tmp_path / "bad.png")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    (tmp_path / "bomb.png").write_bytes(bomb())
    with pytest.raises(ImageError, match="million pixels"):
        open_image(tmp_path / "bomb.png")


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="not a file"):
        open_image(tmp_path)


def test_alpha_is_composited_on_the_background_named():
    pixels = np.array([[[100, 50, 0, 255], [100, 50, 0, 0], [100, 50, 0, 51]]], np.uint8)
    found = to_channels(pixels, "RGB", parse_colour("#0000ff"))
    assert found.tolist() == [[[100, 50, 0], [0, 0, 255], [20, 10, 204]]]
    with pytest.raises(SettingsError, match="no colour"):
        parse_colour("wihte")


def test_grey_is_pils_grey():
    ours = to_channels(NOISE[..., :3], "L")[..., 0].astype(int)
    theirs = np.asarray(Image.fromarray(NOISE[..., :3]).convert("L")).astype(int)
    assert np.abs(ours - theirs).max() <= 1
    assert to_channels(np.array([[[255, 0, 0]]], np.uint8), "L").tolist() == [[[76]]]


def test_the_colour_of_hidden_pixels_is_settled():
    pixels = np.array([[[1, 2, 3, 0], [1, 2, 3, 1]]], np.uint8)
    assert to_channels(pixels, "RGBA").tolist() == [[[255, 255, 255, 0], [1, 2, 3, 1]]]


def test_fits_of_an_image_that_is_not_square():
    pixels = NOISE[..., :1]
    assert np.array_equal(fit_square(pixels, 31, "crop"), pixels[3:34])
    padded = fit_square(pixels, 37, "pad", (255, 255, 255))
    assert np.array_equal(padded[:, 3:34], pixels)
    assert (padded[:, :3] == 255).all()
    assert fit_square(pixels, 16, "stretch").shape == (16, 16, 1)


def test_hidden_colours_do_not_bleed_when_an_image_shrinks():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[..., 0] = 255  # hidden red
    pixels[:, 16:] = [0, 0, 255, 255]
    small = fit_square(pixels, 8, "crop")
    assert small[small[..., 3] > 0][:, 0].max() <= 1


def test_equal_pixels_give_equal_bytes():
    assert encode_png(NOISE) == encode_png(NOISE.copy())


def test_images_are_found_in_any_case_in_sub_folders_but_not_hidden(tmp_path):
    for name in ("b/x.JPG", "a.Png", "b/c/d.tiff", ".hidden.png", ".git/e.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    names = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)]
    assert names == ["a.Png", "b/c/d.tiff", "b/x.JPG"]
