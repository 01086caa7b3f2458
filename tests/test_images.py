"""Images: exact levels, every odd file, and errors that name the file."""

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixmend.errors import ImageError, OutputError, SettingsError
from pixmend.images import (
    EXTENSIONS,
    Picture,
    check_limits,
    contact_sheet,
    decode_image,
    encode_png,
    find_images,
    fit_square,
    grid,
    images_at,
    lossless_suffix,
    open_image,
    parse_colour,
    png_bytes,
    save_image,
    to_channels,
    to_eight_bits,
    to_pixels,
    to_tensor,
    write_animation,
)
from pixmend.storage import StorePath

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


def test_alpha_that_colours_are_multiplied_by_is_taken_out_again():
    rgba = Image.fromarray(NOISE)
    for image, mode in ((rgba.convert("RGBa"), "RGBA"), (rgba.convert("LA").convert("La"), "LA")):
        picture = open_image(image)
        assert picture.mode == mode
        assert np.array_equal(picture.native, np.asarray(image.convert(mode)))


def test_a_part_is_cut_out_and_put_back_where_it_should():
    picture, rows, columns = open_image(Image.fromarray(NOISE)), slice(3, 9), slice(5, 25)
    part = picture.part(rows, columns)
    assert (part.mode, part.height, part.width) == ("RGBA", 6, 20)
    assert np.array_equal(part.native, NOISE[3:9, 5:25])
    where = np.zeros((6, 20), bool)
    where[2, 4] = True
    changed = Picture(255 - part.native, "RGBA")
    whole = picture.with_parts([changed], [(rows, columns, where)])
    expected = NOISE.copy()
    expected[5, 9] = 255 - expected[5, 9]
    assert np.array_equal(whole.native, expected)
    assert np.array_equal(picture.native, NOISE)


def test_black_and_white_is_cut_in_the_middle():
    picture = Picture(np.zeros((1, 3), bool), "1")
    levels = np.array([[[127], [128], [129]]], np.uint8)
    filled = picture.replace_where(np.ones((1, 3), bool), levels)
    assert filled.native.tolist() == [[False, True, True]]


def test_a_picture_is_named_by_its_path(tmp_path):
    assert open_image(Image.fromarray(NOISE)).name == "image"
    assert saved(tmp_path, Image.fromarray(NOISE), "a.png").name == str(tmp_path / "a.png")


def test_sixteen_bits_are_displayed_in_eight():
    deep = np.array([[[0x0000], [0x00FF], [0x1234], [0xFFFF]]], np.uint16)
    assert to_eight_bits(deep).tolist() == [[[0x00], [0x00], [0x12], [0xFF]]]
    assert to_eight_bits(deep).dtype == np.uint8
    assert to_eight_bits(NOISE) is NOISE


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_the_centre_is_cropped_and_padding_is_around_it(bands):
    pixels = NOISE[..., :bands]
    pixels = np.where(pixels[..., -1:] == 0, 255, pixels).astype(np.uint8)  # nothing is hidden
    assert np.array_equal(fit_square(pixels, 31, "crop"), pixels[3:34])
    padded = fit_square(pixels, 37, "pad", (255, 0, 0))
    assert np.array_equal(padded[:, 3:34], pixels)
    corner = {1: [76], 3: [255, 0, 0], 4: [0, 0, 0, 0]}[bands]
    assert padded[0, 0].tolist() == padded[-1, -1].tolist() == corner


def test_hidden_colours_become_the_background_where_alpha_is_kept():
    pixels = np.array([[[9, 8, 7, 0], [9, 8, 7, 1]]], np.uint8)
    assert to_channels(pixels, "RGBA", (1, 2, 3)).tolist() == [[[1, 2, 3, 0], [9, 8, 7, 1]]]


def test_an_array_with_one_band_is_grey_and_a_known_pixel_is_not_nan():
    assert open_image(NOISE[..., :1]).mode == "L"
    assert np.array_equal(open_image(NOISE[..., :1]).native, NOISE[..., 0])
    floats = NOISE[..., :3] / 255
    floats[0, 0, 0] = np.nan
    picture = open_image(floats)
    with pytest.raises(ImageError, match=r"no value .* in 1 known pixel;"):
        picture.check_known()
    assert picture.check_known(~picture.missing) is picture
    floats[0, 0, 0] = np.inf
    with pytest.raises(ImageError, match=r"reach from 0 to inf"):
        open_image(floats)


def test_the_images_of_a_place_that_is_one_file_are_that_file(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(NOISE).save(path)
    (found,) = images_at(StorePath.of(path))
    assert isinstance(found, Path)
    assert found == path


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


def test_a_webp_holds_no_alpha_that_hides_nothing_and_loses_no_pixel_by_it(tmp_path):
    pixels = NOISE.copy()
    pixels[..., 3] = 255
    save_image(Picture(pixels, "RGBA"), tmp_path / "a.webp")
    again = open_image(tmp_path / "a.webp")
    assert again.mode == "RGB"
    assert np.array_equal(again.native, pixels[..., :3])


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


def test_lack_of_memory_is_not_a_fault_of_the_image(monkeypatch):
    def starved(self):
        raise MemoryError

    content = encode_png(np.zeros((3, 4, 1), np.uint8))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", starved)
    with pytest.raises(
        ImageError, match="pixels"
    ):  # there is room for the largest: it is the image
        decode_image(content)
    with pytest.raises(MemoryError):
        decode_image(content, max_pixels=2**60)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(ImageError, match="Is a directory"):
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


def test_hidden_pixels_become_the_background():
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


# Every mode, kind and level; 37 x 31, never square


HEIGHT, WIDTH = 37, 31
MODES = ("1", "L", "LA", "I;16", "RGB", "RGBA", "CMYK")


@pytest.fixture
def noise():
    """Return a maker of noise, uint8 or uint16 [H, W, bands]."""

    def make(number=0, height=HEIGHT, width=WIDTH, bands=3, dtype=np.uint8):
        top = int(np.iinfo(dtype).max)
        shape = (height, width, bands)
        return np.random.default_rng(number).integers(0, top, shape, dtype, endpoint=True)

    return make


def pil(mode: str, number: int = 0) -> Image.Image:
    """An image of noise of any mode."""
    rng = np.random.default_rng(number)
    if mode == "1":
        return Image.fromarray(rng.integers(0, 2, (HEIGHT, WIDTH)).astype(bool))
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16))
    bands = len(Image.new(mode, (1, 1)).getbands())
    return Image.frombytes(mode, (WIDTH, HEIGHT), rng.bytes(HEIGHT * WIDTH * bands))


def test_a_batch_converts_like_its_images(noise):
    batch = np.stack([noise(number) for number in range(3)])
    assert torch.equal(to_tensor(batch)[1], to_tensor(batch[1]))
    assert np.array_equal(to_pixels(to_tensor(batch)), batch)


def test_values_between_levels_go_to_the_nearest_and_beyond_the_range_to_its_end():
    values = torch.tensor([-9.0, -1.0, -1 + 0.4 / 127.5, -1 + 0.6 / 127.5, 1.0, 9.0]).view(1, 1, 6)
    assert to_pixels(values).ravel().tolist() == [0, 0, 0, 1, 255, 255]


def test_converting_neither_turns_nor_flips():
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[3, 20, 1] = 255
    assert torch.nonzero(to_tensor(pixels) == 1).tolist() == [[1, 3, 20]]


def test_partial_transparency_of_a_palette_is_kept(tmp_path):
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([0, 0, 255, 255, 0, 0])
    image.save(tmp_path / "a.png", transparency=bytes([0, 77]))
    assert open_image(tmp_path / "a.png").native[0, 0].tolist() == [255, 0, 0, 77]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", ["file", "memory"])
def test_every_kept_mode_opens_with_its_own_samples(mode, source, tmp_path):
    image = pil(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    picture = open_image(path if source == "file" else image)
    assert (picture.mode, picture.height, picture.width) == (mode, HEIGHT, WIDTH)
    assert np.array_equal(picture.native, np.asarray(image))
    assert picture.pixels.shape == (
        HEIGHT,
        WIDTH,
        1 if mode in ("1", "L", "I;16") else 3 if mode in ("RGB", "CMYK") else 4,
    )
    assert picture.pixels.dtype == (np.uint16 if mode == "I;16" else np.uint8)
    back = picture.to_pil()
    assert (back.mode, back.size) == (mode, image.size)
    assert np.array_equal(np.asarray(back), np.asarray(image))


def test_cmyk_jpeg_keeps_its_inks_and_shows_its_colours(tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT), (220, 30, 40)).convert("CMYK").save(
        tmp_path / "a.jpg", quality=95
    )
    picture = open_image(tmp_path / "a.jpg")
    assert picture.mode == "CMYK"
    assert np.abs(picture.pixels.astype(int) - (220, 30, 40)).max() < 8


@pytest.mark.parametrize(("mode", "clear"), [("L", 7), ("RGB", (7, 8, 9)), ("1", 0)])
def test_one_clear_colour_is_alpha_by_another_name(mode, clear, tmp_path):
    image = Image.new(mode, (WIDTH, HEIGHT), 1 if mode == "1" else "white")
    image.paste(clear, (0, 0, WIDTH, 5))
    image.save(tmp_path / "a.png", transparency=clear)
    picture = open_image(tmp_path / "a.png")
    assert picture.mode == ("RGBA" if mode == "RGB" else "LA")
    assert np.array_equal(
        picture.native[..., -1] == 0, np.arange(HEIGHT)[:, None] < np.full(WIDTH, 5)
    )


@pytest.mark.parametrize("name", ["a.jpg", "a.tif", "a.webp", "a.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotation_in_exif_is_applied_and_its_tag_taken_out(name, orientation, tmp_path):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    stored = np.stack([y * 6, x * 8, (x + y) * 3], axis=-1).astype(np.uint8)
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = orientation, "the artist"
    exact = {"quality": 100, "subsampling": 0} if name == "a.jpg" else {}
    exact |= {"lossless": True} if name == "a.webp" else {}
    Image.fromarray(stored).save(tmp_path / name, exif=exif, **exact)
    picture = open_image(tmp_path / name)
    difference = picture.native.astype(int) - turn(stored)
    assert np.abs(difference).max() <= (6 if name == "a.jpg" else 0)
    save_image(picture, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        written = image.getexif()
    assert written.get(0x0112, 1) == 1
    assert written[0x013B] == "the artist"
    save_image(picture, tmp_path / "out.tif")  # a TIFF once took the size before the turn along
    assert np.array_equal(open_image(tmp_path / "out.tif").native, picture.native)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert np.all(open_image(tmp_path / name).native == (255, 0, 0))


@pytest.mark.parametrize(("colour", "inks"), [(2, 3), (5, 4)])
def test_colour_tiffs_of_16_bits_are_marked_as_reduced(colour, inks):
    samples = np.arange(2 * 3 * inks, dtype="<u2") * 1111
    tags = [(256, 3), (257, 2), (259, 1), (262, colour), (277, inks), (278, 2)]
    fields = [(tag, 3, 1, value) for tag, value in tags]
    data_at = 8 + 2 + 12 * (len(fields) + 3) + 4
    fields += [
        (258, 3, inks, data_at),
        (273, 4, 1, data_at + 2 * inks),
        (279, 4, 1, samples.nbytes),
    ]
    content = b"II*\0" + struct.pack("<IH", 8, len(fields))
    for tag, kind, count, value in sorted(fields):
        content += struct.pack("<HHII", tag, kind, count, value)
    content += struct.pack("<I", 0) + struct.pack("<H", 16) * inks + samples.tobytes()
    assert decode_image(content).reduced


def test_every_truncation_of_every_kind_is_an_image_error(tmp_path):
    for suffix in ("png", "jpg", "webp", "bmp", "gif", "tif"):
        whole = io.BytesIO()
        pil("RGB").save(whole, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
        content = whole.getvalue()
        for length in np.linspace(0, len(content) * 0.9, 25).astype(int):
            with pytest.raises(ImageError):
                decode_image(content[:length], tmp_path / f"a.{suffix}")


def complaint(content):
    try:
        decode_image(content)
    except ImageError as error:
        return str(error)
    return ""


def test_a_flipped_byte_is_an_image_error_of_one_line_or_harmless():
    rng, told = np.random.default_rng(0), []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        whole = io.BytesIO()
        pil("RGB").save(whole, kind)
        for position in rng.integers(0, min(400, len(whole.getvalue())), 60):
            content = bytearray(whole.getvalue())
            content[position] ^= int(rng.integers(1, 256))
            told.append(complaint(bytes(content)))
    assert any(told)
    assert not any("\n" in message for message in told)


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4), 255.0),
        np.zeros((4, 4, 2)),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((4, 4, 3), np.uint16),
        np.zeros((0, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)
def test_an_array_that_is_no_image_is_refused_with_what_would_be(array):
    with pytest.raises(ImageError, match="give uint8"):
        open_image(array)


@pytest.mark.parametrize("thing", [None, 7, [1, 2]])
def test_other_objects_are_refused(thing):
    with pytest.raises(ImageError, match="give a path"):
        open_image(thing)


def test_pixels_that_cannot_be_kept_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), -1, np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="cannot be kept"):
        open_image(tmp_path / "a.tif")


ARRAYS = {
    "L": np.uint8, "RGB": np.uint8, "RGBA": np.uint8, "I;16": np.uint16,
    "F": np.float32, "LF": np.float64, "RGBF": np.float32, "RGBAF": np.float16,
}  # fmt: skip


@pytest.mark.parametrize("mode", list(ARRAYS))
@pytest.mark.parametrize("suffix", [".npy", ".tif", ".png"])
def test_arrays_and_their_files_come_back_exactly(mode, suffix, tmp_path, noise):
    dtype = ARRAYS[mode]
    array = noise(bands=4 if "A" in mode else 3 if "RGB" in mode else 1)
    array = (
        (array / 255).astype(dtype) if np.issubdtype(dtype, np.floating) else array.astype(dtype)
    )
    array = array[..., 0] if array.shape[-1] == 1 else array
    np.save(tmp_path / "a.npy", array)
    picture = open_image(tmp_path / "a.npy")
    assert picture.mode == mode
    path = tmp_path / f"b{lossless_suffix(suffix, mode)}"
    save_image(picture, path)
    back = open_image(path)
    assert (back.mode, back.native.dtype) == (mode, array.dtype)
    assert np.array_equal(back.native, array)


def test_nan_and_masked_values_are_missing_pixels(tmp_path):
    floats = np.linspace(0, 1, 60, dtype=np.float32).reshape(4, 5, 3)
    floats[1, 2, 0] = floats[3, 4] = np.nan
    expected = np.isnan(floats).any(axis=2)
    np.save(tmp_path / "a.npy", floats)
    Image.fromarray(floats[..., 0]).save(tmp_path / "a.tif")
    masked = np.ma.masked_array(np.full((4, 5, 3), 9, np.uint8), np.isnan(floats))
    for picture in (
        open_image(tmp_path / "a.npy"),
        open_image(masked),
        open_image(tmp_path / "a.tif"),
    ):
        assert np.array_equal(picture.missing, expected)
        assert np.isfinite(picture.native).all()
        filled = picture.replace_where(expected, np.zeros_like(picture.pixels))
        assert filled.missing is None
    assert open_image(np.ma.masked_array(np.zeros((4, 5), np.uint8))).missing is None


RANGES = {
    "f4": (-1500, 1500), "f8": (1e-3, 2e-3), "f2": (-1, 1), ">f4": (0, 5), "i1": (-128, 127),
    "i2": (-1000, 3000), "i8": (0, 10**6), "u4": (7, 9), "u2": (0, 4095), "u1": (50, 60),
}  # fmt: skip


@pytest.mark.parametrize("dtype", list(RANGES))
@pytest.mark.parametrize("bands", [1, 3, 4])
def test_numbers_of_a_range_keep_their_type_and_every_known_value(dtype, bands, tmp_path):
    low, high = RANGES[dtype]
    values = np.random.default_rng(0).uniform(low, high, (5, 7, bands))
    values[0, 0], values[0, 1] = low, high
    values[..., 3:] = high  # hidden colours are not kept
    values = values.astype(dtype)[..., 0] if bands == 1 else values.astype(dtype)
    picture = open_image(values, (low, high))
    assert picture.pixels.dtype == np.uint16
    assert (picture.pixels[0, 0, :3] == 0).all()
    assert (picture.pixels[0, 1] == 65535).all()

    hole = np.arange(35).reshape(5, 7) % 3 == 0
    done = picture.replace_where(hole, picture.pixels[::-1, ::-1]).native
    assert done.dtype == values.dtype
    assert done[~hole].tobytes() == values[~hole].tobytes()
    rounding = 0.5 if done.dtype.kind in "iu" else 2e-3 * max(abs(low), abs(high))
    far = np.abs(done.astype(float) - values[::-1, ::-1].astype(float))[hole].max()
    assert far <= (high - low) / 65535 + rounding
    assert low <= done.min() <= done.max() <= high

    path = tmp_path / f"a{lossless_suffix('.png', picture.mode)}"
    save_image(picture, path)
    back = open_image(path, (low, high))
    assert np.array_equal(back.native, values)
    assert np.array_equal(back.pixels, picture.pixels)


def test_a_range_is_told_where_it_is_needed_wrong_or_exceeded(tmp_path):
    floats = np.array([[0, 2, np.nan], [4, 5, 6]], np.float32)
    Image.fromarray(floats).save(tmp_path / "a.tif")
    np.save(tmp_path / "a.npy", np.nan_to_num(floats).astype(np.int16))
    Image.new("1", (3, 2)).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match=r"a\.tif: .* from 0 to 6.*--range MIN:MAX, or range=\("):
        open_image(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"array of int16.*--range MIN:MAX, or range=\("):
        open_image(tmp_path / "a.npy")
    picture = open_image(tmp_path / "a.tif", (1, 5))
    assert picture.warnings == ["beyond the range, seen by the model as its ends: 2 values"]
    assert picture.missing.tolist() == [[False, False, True], [False, False, False]]
    with pytest.raises(ImageError, match="int16 has no values from 0 to 40000"):
        open_image(tmp_path / "a.npy", (0, 40000))
    for source in (tmp_path / "a.png", Image.new("CMYK", (3, 2))):
        with pytest.raises(ImageError, match="leave it out"):
            open_image(source, (0, 1))


@pytest.mark.parametrize(
    "given",
    [(1, 0), (1, 1), (0, math.nan), (0, math.inf), (-1e308, 1e308), (1,), "ab", 5, ["", ""]],
)
def test_what_is_no_range_is_refused(given):
    with pytest.raises(SettingsError, match=r"^range .*such as --range -1000:3000"):
        check_limits(given)


def npy(header, samples=b""):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text + samples


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (60000, 60000)}"), "damaged"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 2)}", b"cos\nsystem\n."), "numbers"),
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3, -1)}", b"1234"), "array"),
        (npy("{'descr': '|u1', 'fortran_order': " + "-" * 9000), "damaged"),
        (npy("{'descr': '|u1'"), "damaged"),
        (npy("{'descr': '|u1', 'fortran_order': False, 'shape': (9000, 9000)}", bytes(81_000_000)), "million"),
        (b"\x93NUMPY", "damaged"),
        (b"\x93NUMPY\7\0", "damaged"),
    ],
    ids=["larger than it is", "objects", "negative", "deep", "cut", "too large", "empty", "version"],
)  # fmt: skip
def test_an_array_file_that_lies_is_refused_in_a_line(content, words):
    with pytest.raises(ImageError, match=words) as told:
        decode_image(content, Path("a.npy"))
    assert str(told.value).startswith("a.npy: ")
    assert "\n" not in str(told.value)


def test_big_endian_and_column_order_arrays_are_read_as_they_are_meant(tmp_path):
    levels = np.arange(12, dtype=np.uint16).reshape(3, 4)
    for array in (levels.astype(">u2"), np.asfortranarray(levels)):
        np.save(tmp_path / "a.npy", array)
        assert np.array_equal(open_image(tmp_path / "a.npy").native, levels)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suffix", [*sorted(EXTENSIONS), ".PNG", ".JPG"])
def test_under_its_lossless_suffix_every_picture_comes_back_exactly(mode, suffix, tmp_path):
    picture = open_image(pil(mode))
    path = tmp_path / f"a{lossless_suffix(suffix, mode)}"
    save_image(picture, path)
    back = open_image(path)
    assert back.mode == mode
    assert np.array_equal(back.native, picture.native)


@pytest.mark.parametrize("dpi", [(0, 0), (0, 1), (2**32 - 1, 1), (1, 2**32 - 1)])
@pytest.mark.parametrize("after", ["b.png", "b.tif", "b.bmp", "b.webp"])
def test_a_resolution_that_is_no_number_stops_no_saving(dpi, after, tmp_path):
    buffer = io.BytesIO()
    pil("RGB").save(buffer, "TIFF", resolution=300)
    content = buffer.getvalue()
    as_written = struct.pack("<II", 300, 1)
    assert as_written in content
    picture = decode_image(content.replace(as_written, struct.pack("<II", *dpi)))
    save_image(picture, tmp_path / after)
    assert np.array_equal(open_image(tmp_path / after).native, picture.native)


@pytest.mark.parametrize("before", ["a.png", "a.jpg", "a.webp", "a.tif"])
@pytest.mark.parametrize("after", ["b.png", "b.webp", "b.tif"])
def test_metadata_survive(before, after, tmp_path):
    exif = Image.Exif()
    exif[0x013B], exif[0x8298], exif[0x0112] = "the artist", "the owner", 1
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    pil("RGB").save(
        tmp_path / before, icc_profile=b"a profile" * 20, exif=exif.tobytes(), dpi=(300, 300)
    )
    picture = open_image(tmp_path / before)
    save_image(picture, tmp_path / after)
    written = Image.open(tmp_path / after)
    written.load()
    assert written.info["icc_profile"] == b"a profile" * 20
    kept = written.getexif()
    assert (kept[0x013B], kept[0x8298]) == ("the artist", "the owner")
    assert kept.get_ifd(0x8769)[0x9286] == b"ASCII\0\0\0a comment"
    if "webp" not in before + after:  # a WebP file has no resolution
        assert np.abs(np.subtract(written.info["dpi"], 300)).max() < 0.1
    assert np.array_equal(np.asarray(written), picture.native)


def test_the_layout_of_one_tiff_is_not_forced_on_another_file(tmp_path):
    pil("RGB").save(tmp_path / "a.tif", compression="raw")
    picture = open_image(tmp_path / "a.tif")
    small = Picture(picture.native[:5, :7], "RGB", info=picture.info)
    save_image(small, tmp_path / "b.tif")
    assert np.array_equal(open_image(tmp_path / "b.tif").native, picture.native[:5, :7])


def test_saving_does_not_change_what_is_saved_again(tmp_path):
    pil("RGBA").save(tmp_path / "a.png", icc_profile=b"profile", dpi=(72, 72))
    save_image(open_image(tmp_path / "a.png"), tmp_path / "b.png")
    save_image(open_image(tmp_path / "b.png"), tmp_path / "c.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_saving_over_a_folder_is_an_output_error(tmp_path):
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match=r"a\.png"):
        save_image(open_image(pil("L")), tmp_path / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_equal_pixels_give_equal_bytes_however_they_lie_in_memory(noise):
    for bands in (1, 3, 4):
        pixels = noise(bands=bands)
        fortran = np.asfortranarray(pixels)
        view = np.repeat(pixels, 2, axis=1)[:, ::2]
        assert encode_png(pixels) == encode_png(fortran) == encode_png(view)
        assert np.array_equal(decode_image(encode_png(pixels)).pixels, pixels)
    wide = noise(bands=1, dtype=np.uint16)
    assert np.array_equal(decode_image(encode_png(wide)).pixels, wide)


def test_a_cmyk_picture_is_shown_as_rgb_without_the_profile_of_its_inks():
    picture = Picture(np.asarray(pil("CMYK")), "CMYK", info={"icc_profile": b"of inks"})
    shown = Image.open(io.BytesIO(png_bytes(picture)))
    assert shown.mode == "RGB"
    assert "icc_profile" not in shown.info


@pytest.mark.parametrize("mode", MODES)
def test_replacing_changes_the_hole_and_nothing_else(mode, noise):
    picture = open_image(pil(mode))
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[5:20, 3:11] = True
    bands = picture.pixels.shape[-1]
    pixels = noise(9, bands=bands, dtype=picture.pixels.dtype)
    replaced = picture.replace_where(hole, pixels)
    assert (replaced.mode, replaced.native.dtype, replaced.native.shape) == (
        mode,
        picture.native.dtype,
        picture.native.shape,
    )
    assert np.array_equal(replaced.native[~hole], picture.native[~hole])
    if mode in ("L", "I;16", "RGB", "RGBA") or mode == "CMYK":
        assert np.array_equal(replaced.pixels[hole], pixels[hole])
    elif mode == "1":
        assert np.array_equal(replaced.pixels[hole] == 255, pixels[hole] >= 128)


def test_a_picture_does_not_share_memory_with_the_array_it_was_made_of(noise):
    array = noise()
    picture = open_image(array)
    array[:] = 0
    assert picture.native.any()


def test_alpha_is_composited_exactly_on_the_background():
    colours, background = [(0, 0, 0), (255, 255, 255), (200, 100, 7)], (10, 200, 255)
    pixels = np.array([[(*colour, alpha) for colour in colours] for alpha in range(256)], np.uint8)
    shown = to_channels(pixels, "RGB", background)
    for alpha in range(256):
        for column, colour in enumerate(colours):
            share = alpha / 255
            exact = [c * share + b * (1 - share) for c, b in zip(colour, background, strict=True)]
            assert np.abs(shown[alpha, column] - np.array(exact)).max() <= 0.5 + 1e-9
    assert shown[0, 2].tolist() == list(background)
    assert shown[255, 2].tolist() == [200, 100, 7]


def test_grey_to_colour_to_grey_is_the_same_grey(noise):
    for dtype in (np.uint8, np.uint16):
        grey = noise(bands=1, dtype=dtype)
        for channels in ("RGB", "RGBA"):
            assert np.array_equal(to_channels(to_channels(grey, channels), "L"), grey)


def test_an_opaque_image_looks_the_same_on_any_background(noise):
    opaque = to_channels(noise(), "RGBA")
    assert np.all(opaque[..., 3] == 255)
    assert np.array_equal(to_channels(opaque, "RGB", (9, 9, 9)), noise())


def test_stretch_brings_all_four_corners_along():
    pixels = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    pixels[:18, :15], pixels[:18, 15:], pixels[18:, :15], pixels[18:, 15:] = 10, 80, 160, 240
    small = fit_square(pixels, 8, "stretch")
    assert [int(small[row, column, 0]) for row in (0, 7) for column in (0, 7)] == [10, 80, 160, 240]


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("size", [16, 64])
def test_fitting_a_turned_image_is_turning_the_fitted_one(fit, bands, size):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = np.stack([y * 5 + 20, x * 6 + 30, x + y + 90, 255 - y], axis=-1).astype(np.uint8)
    pixels = smooth[..., :bands]
    straight = fit_square(pixels, size, fit).swapaxes(0, 1).astype(int)
    turned = fit_square(pixels.swapaxes(0, 1), size, fit)
    assert turned.shape == (size, size, bands)
    # PIL rounds between its two passes; at the edge of padding a step overshoots.
    assert np.abs(straight - turned).mean() < 0.5


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_one_colour_stays_that_colour(fit):
    pixels = np.full((HEIGHT, WIDTH, 3), (200, 30, 99), np.uint8)
    assert np.all(fit_square(pixels, 16, fit, (200, 30, 99)) == (200, 30, 99))


def test_a_grid_lays_images_out_row_by_row(noise):
    images = np.stack([noise(number, 5, 7) for number in range(5)])
    sheet = grid(images, columns=3, gap=2)
    assert sheet.shape == (2 * 7 + 2, 3 * 9 + 2, 3)
    for number in range(5):
        top, left = 2 + number // 3 * 7, 2 + number % 3 * 9
        assert np.array_equal(sheet[top : top + 5, left : left + 7], images[number])


def test_small_images_are_enlarged_by_a_whole_factor(noise):
    images = noise(0, 5, 7)[None]
    sheet = grid(images, min_cell=20, gap=0)
    assert np.array_equal(sheet, images[0].repeat(3, axis=0).repeat(3, axis=1))


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_a_contact_sheet_has_a_column_for_each_caption(bands, noise):
    rows = [[noise(1, 8, 4, bands), noise(2, 300, 200, bands)]] * 3
    sheet = contact_sheet(rows, ["left", "right"], cell=32)
    assert sheet.shape == (26 + 3 * 40 + 8, 8 + 2 * 40, 3)
    assert sheet.dtype == np.uint8


def test_an_animation_has_its_frames_in_order(tmp_path):
    frames = [np.full((6, 5, 3), level, np.uint8) for level in (0, 120, 255)]
    write_animation(frames, tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as animation:
        assert animation.n_frames == 3
        for number, frame in enumerate(frames):
            animation.seek(number)
            assert np.array_equal(np.asarray(animation.convert("RGB")), frame)


@pytest.mark.parametrize(
    "text",
    ["rgb(300,0,0)", "rgb(0%,0%,101%)", "hsl(0,900%,50%)", "rgb(9, 9)", f"hsv(0,0%,{'9' * 80}%)"],
)
def test_a_colour_out_of_range_is_none(text):
    with pytest.raises(SettingsError, match="is no colour"):
        parse_colour(text)


@pytest.mark.parametrize(("level", "kept"), [(0, True), (65535, True), (-1, False), (65536, False)])
def test_whole_numbers_of_32_bits_are_kept_where_16_hold_them(level, kept):
    image = Image.fromarray(np.full((2, 3), level, np.int32))
    if kept:
        assert np.array_equal(open_image(image).native, np.full((2, 3), level, np.uint16))
    else:
        with pytest.raises(ImageError, match="mode I cannot be kept exactly"):
            open_image(image)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 3), (2, 3, 4)])
def test_floats_are_shown_in_16_bits_as_they_lie(shape):
    values = np.linspace(0, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape)
    expected = np.rint(values.astype(np.float64) * 65535).reshape(2, 3, -1)
    assert np.array_equal(open_image(values).pixels, expected)


def test_the_transparent_value_of_16_bit_grey_is_told_as_lost(tmp_path):
    grey = Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4))
    grey.save(tmp_path / "plain.png")
    content = (tmp_path / "plain.png").read_bytes()
    chunk = b"tRNS\0\7"
    chunk = struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk))
    at = content.index(b"IDAT") - 4
    (tmp_path / "clear.png").write_bytes(content[:at] + chunk + content[at:])
    assert open_image(tmp_path / "plain.png").warnings == []
    (warning,) = open_image(tmp_path / "clear.png").warnings
    assert warning == "not kept: the transparent value of 16-bit grey"
