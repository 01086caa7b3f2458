"""Files of strangers: decoded in a child of bounded memory and time; what is kept of them and what is named."""

import contextlib
import io
import itertools
import os
import re
import resource
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from pixmend.errors import ImageError
from pixmend.images import (
    decode_image,
    find_images,
    image_bytes,
    lossless_suffix,
    open_image,
    passed_over,
    png_bytes,
)
from pixmend.images import decoder_process as processes
from pixmend.images.decoding import decode, is_light, png_chunks, upright
from pixmend.images.image_files import FORMATS
from pixmend.models import save_model
from pixmend.storage import StorePath
from tools.prove.bombs import empty_segments, exif_bomb, tile_bomb, with_chunks

PIL_FORMATS = tuple(name for name in FORMATS if name != "NPY")
SHAPE = (13, 11)


def pil(mode="RGB", seed=0):
    generator = np.random.default_rng(seed)
    if mode in ("I;16", "F"):
        levels = generator.integers(0, 2**16, SHAPE, np.uint16)
        return Image.fromarray(levels if mode == "I;16" else (levels / 2**16).astype(np.float32))
    return Image.fromarray(generator.integers(0, 256, (*SHAPE, 4), np.uint8)).convert(mode)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_child_decodes_what_this_process_does(mode, kind):
    try:
        content = saved(pil(mode), kind)
    except (OSError, KeyError, ValueError):
        pytest.skip(f"no {kind} of mode {mode}")
    image, facts = decode(content, 10**6, PIL_FORMATS)
    samples, apart_mode, apart_facts = processes.decode_apart(content, 10**6, PIL_FORMATS)
    expected = np.array(image)
    assert (apart_mode, samples.dtype, samples.shape) == (
        image.mode,
        expected.dtype,
        expected.shape,
    )
    assert np.array_equal(samples, expected)
    assert samples.flags.writeable
    facts["info"] = {
        key: list(v) if isinstance(v, tuple) else v for key, v in facts["info"].items()
    }
    assert apart_facts == facts


def test_what_is_decoded_in_this_process_is_small_and_plain():
    exif = Image.Exif()
    exif[0x013B] = "the artist"
    plain = pil()
    assert is_light(saved(plain, "PNG"))
    assert is_light(saved(plain, "JPEG"))
    for content in (
        saved(plain, "JPEG", progressive=True), saved(plain, "JPEG", exif=exif), saved(plain, "PNG", exif=exif),
        saved(plain, "WEBP"), saved(plain, "BMP"), saved(plain, "GIF"), saved(plain, "TIFF"),
        saved(plain, "JPEG") + bytes(2**20), saved(plain, "PNG") + bytes(2**24), exif_bomb(), tile_bomb(), b"",
    ):  # fmt: skip
        assert not is_light(content)


@pytest.mark.parametrize(
    "content",
    [tile_bomb(), exif_bomb(), empty_segments("GIF", 1), empty_segments("JPEG", 2)],
    ids=["tile", "exif", "gif", "jpeg"],
)
def test_a_bomb_takes_no_memory_of_this_process(content):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.suppress(ImageError):
        decode_image(content)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50 * 2**10


def test_a_bomb_is_an_image_error_and_the_next_image_opens():
    with pytest.raises(ImageError, match=r"^image: (damaged|its decoding)"):
        decode_image(tile_bomb())
    assert decode_image(saved(pil(), "BMP")).mode == "RGB"


def test_a_file_that_takes_too_long_is_refused_in_a_line_and_the_next_image_opens(monkeypatch):
    monkeypatch.setattr(processes, "SECONDS", 0.3)
    with pytest.raises(ImageError, match=r"^image: its decoding takes over 0\.3 s.* save it anew$"):
        decode_image(empty_segments("GIF", 40))
    monkeypatch.setattr(processes, "SECONDS", 60)
    assert decode_image(saved(pil(), "BMP")).mode == "RGB"


def idle():
    return processes._pools[os.getpid()][1]


def test_children_are_warm_and_one_that_died_is_replaced():
    content = saved(pil(), "BMP")
    decode_image(content)
    (first,) = idle()
    decode_image(content)
    assert idle() == [first]
    first.process.kill()
    first.process.wait()
    decode_image(content)
    assert first not in idle()
    assert first.process.stdin.closed


def test_a_child_keeps_no_image_beyond_its_turn():
    large = saved(Image.new("RGBA", (6000, 5000), "red"), "TIFF", compression="raw")  # 114 MiB
    for _ in range(2):
        assert decode_image(large).mode == "RGBA"
    decode_image(saved(pil(), "BMP"))
    (decoder,) = idle()
    status = Path(f"/proc/{decoder.process.pid}/status").read_text()
    resident, peak = (int(re.search(rf"{key}:\s+(\d+)", status)[1]) for key in ("VmRSS", "VmHWM"))
    assert resident < 100 * 2**10
    assert peak < 400 * 2**10


def test_a_child_that_dies_over_an_image_is_told_with_its_exit_code(monkeypatch):
    decode_image(saved(pil(), "BMP"))
    (decoder,) = idle()
    monkeypatch.setattr(decoder.process, "poll", lambda: None)
    decoder.process.kill()
    with pytest.raises(ImageError, match="ended with exit code -9"):
        decode_image(saved(pil(), "BMP"))
    assert idle() == []


def test_a_child_that_was_interrupted_answers_nobody_else(monkeypatch):
    monkeypatch.setattr(np, "empty", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        decode_image(saved(pil(), "BMP"))
    monkeypatch.undo()
    assert idle() == []
    assert np.array_equal(decode_image(saved(pil("L", 1), "BMP")).native, np.asarray(pil("L", 1)))


def test_a_fork_shares_no_child_with_its_parent(monkeypatch):
    decode_image(saved(pil(), "BMP"))
    (ours,) = idle()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    decode_image(saved(pil(), "BMP"))
    (theirs,) = processes._pools.pop(-1)[1]
    theirs.close()
    assert theirs is not ours


@pytest.mark.parametrize("state", ["cut", "closed"])
def test_a_pil_image_that_cannot_be_read_is_an_image_error(state, tmp_path):
    content = saved(pil(), "TIFF")
    (tmp_path / "a.tif").write_bytes(content[:-50] if state == "cut" else content)
    image = Image.open(tmp_path / "a.tif")
    if state == "closed":
        image.load()
        image.close()
    with pytest.raises(ImageError, match=r"^image: damaged: ") as told:
        open_image(image)
    assert "\n" not in str(told.value)
    image.close()


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_frames_beyond_the_first_are_named_and_a_single_one_is_not(kind):
    frames = [pil(seed=seed) for seed in range(3)]
    content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert decode_image(content).warnings == ["only frame 1 of 3 is used"]
    if kind != "MPO":
        assert decode_image(saved(frames[0], kind)).warnings == []


def again(picture, suffix):
    """Return the PIL image of the file that a completion of a picture is saved as."""
    image = Image.open(io.BytesIO(image_bytes(picture, lossless_suffix(suffix, picture.mode))))
    image.load()
    return image


def test_chunks_of_colour_and_text_of_a_png_come_back():
    text = PngInfo()
    text.add_text("Title", "a stone")
    text.add_text("Author", "an author", zip=True)
    text.add_itxt("Comment", "ein Grüß Gott", "de", "Kommentar")
    chunks = [
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", struct.pack(">8I", *range(31270, 31278))),
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"sRGB", b"\0"),
    ]
    content = with_chunks(saved(pil(), "PNG", pnginfo=text), *chunks)
    picture = decode_image(content)
    assert picture.warnings == []
    kinds = {b"gAMA", b"cHRM", b"cICP", b"sRGB", b"tEXt", b"zTXt", b"iTXt"}
    before, after = (
        sorted(each for each in png_chunks(png) if each[0] in kinds)
        for png in (content, image_bytes(picture, ".png"))
    )
    assert before == after
    assert len(before) == 7
    assert sorted(each for each in png_chunks(png_bytes(picture)) if each[0] in kinds) == before


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:title="t"/></x:xmpmeta>'


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_xmp_comes_back_without_the_rotation_that_was_applied(kind, suffix):
    options = {"xmp": XMP}
    if kind == "PNG":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", XMP.decode())
    if kind == "TIFF":
        exif = Image.Exif()
        exif[700] = XMP
        options = {"exif": exif}
    picture = decode_image(saved(pil(), kind, **options))
    image = again(picture, suffix)
    assert b'dc:title="t"' in image.info["xmp"]
    if kind != "TIFF":  # whose own tag says how it is turned
        assert (picture.width, picture.height) == SHAPE
    assert (image.width, image.height) == (picture.width, picture.height)
    twice = decode_image(image_bytes(picture, suffix))
    assert np.array_equal(twice.native, picture.native)


@pytest.mark.parametrize("kind", ["JPEG", "GIF"])
def test_a_comment_comes_back_as_text_of_a_png(kind):
    picture = decode_image(saved(pil(), kind, comment=b"a comment"))
    assert again(picture, ".jpg").text["Comment"] == "a comment"


def test_places_on_earth_come_back_unless_the_image_was_turned():
    tags = {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 4.5e5, 5e6, 0.0), 34735: (1, 1, 0, 1, 1024, 0, 1, 1), 42113: "-99"}  # fmt: skip
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    picture = decode_image(saved(pil(), "TIFF", exif=exif))
    image = again(picture, ".tif")
    assert {tag: image.tag_v2[tag] for tag in tags} == tags
    assert picture.warnings == []
    exif[0x0112] = 6
    turned = decode_image(saved(pil(), "TIFF", exif=exif))
    assert "TIFF tag 33550, TIFF tag 33922" in turned.warnings[0]
    assert 33550 not in again(turned, ".tif").tag_v2


def test_what_cannot_be_kept_is_named():
    private = with_chunks(
        saved(pil(), "PNG"), (b"bKGD", bytes(6)), (b"prVt", b"x"), (b"prVt", b"y")
    )
    assert decode_image(private).warnings == ["not kept: bKGD, prVt"]
    jpeg = saved(pil(), "JPEG")
    iptc = b"\xff\xed" + struct.pack(">H", 16) + b"Photoshop 3.0\0" + b"\xff\xeb\0\x04hi"
    assert decode_image(jpeg[:2] + iptc + jpeg[2:]).warnings == ["not kept: APP11, IPTC (APP13)"]
    exif = Image.Exif()
    exif[33723] = b"IPTC"
    exif[50000] = "mine"
    assert decode_image(saved(pil(), "TIFF", exif=exif)).warnings == [
        "not kept: TIFF tag 33723, TIFF tag 50000"
    ]


def test_a_profile_goes_only_with_pixels_of_its_space():
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = decode_image(saved(pil().convert("LAB"), "TIFF", icc_profile=lab))
    assert picture.mode == "RGB"
    assert "icc_profile" not in picture.info
    assert picture.warnings == ["not kept: the profile of Lab colours"]
    assert "icc_profile" not in again(picture, ".tif").info
    assert decode_image(saved(pil("L"), "PNG", icc_profile=srgb)).warnings == [
        "not kept: the profile of RGB colours"
    ]
    for mode in ("RGB", "RGBA", "P"):
        assert decode_image(saved(pil(mode), "PNG", icc_profile=srgb)).info["icc_profile"] == srgb


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_no_resolution_is_invented(kind):
    exif = Image.Exif()
    exif[0x013B] = "the artist"
    options = {"exif": exif} if kind in ("PNG", "JPEG", "TIFF", "WEBP") else {}
    picture = decode_image(saved(pil(), kind, **options))
    if kind != "BMP":  # whose header always has one
        assert "dpi" not in picture.info
        assert "dpi" not in again(picture, ".png").info
        assert 0x011A not in again(picture, ".tif").tag_v2


def test_the_size_in_exif_is_that_of_the_turned_image():
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769).update({0xA002: SHAPE[1], 0xA003: SHAPE[0]})
    for kind, suffix in (("JPEG", ".png"), ("PNG", ".png"), ("WEBP", ".webp")):
        image = again(decode_image(saved(pil(), kind, exif=exif)), suffix)
        camera = image.getexif().get_ifd(0x8769)
        assert (camera[0xA002], camera[0xA003]) == image.size == SHAPE


def ppm(maximum, depth):
    levels = (np.arange(36).reshape(3, 4, 3) * 1700 % (maximum + 1)).astype(f">u{depth}")
    return b"P6 4 3 %d\n" % maximum + levels.tobytes()


def test_deep_colours_of_other_kinds_are_not_cut_in_silence():
    assert decode_image(ppm(65535, 2)).reduced
    assert decode_image(ppm(1023, 2)).reduced
    assert not decode_image(ppm(255, 1)).reduced
    assert not decode_image(saved(pil("I;16"), "PPM")).reduced
    avif = saved(pil(), "AVIF")
    assert not decode_image(avif).reduced
    start = avif.index(b"av1C") + 6
    with Image.open(io.BytesIO(avif)) as image:  # PIL writes 8 bits a sample only
        assert upright(image, avif[:start] + b"\x4c" + avif[start + 1 :])[1]["reduced"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.avif", "AVIF"), ("b.jfif", "JPEG"), ("c.JPE", "JPEG"), ("d.dib", "DIB"), ("e.ppm", "PPM"), ("f.pgm", "PPM"), ("g.jpg", "PNG")],
)  # fmt: skip
def test_other_kinds_are_found_opened_by_their_content_and_saved_exactly(name, kind, tmp_path):
    pil("L" if name == "f.pgm" else "RGB").save(tmp_path / name, kind)
    (path,) = find_images(tmp_path)
    picture = open_image(path)
    suffix = lossless_suffix(path.suffix, picture.mode)
    assert suffix == ".png"
    assert np.array_equal(decode_image(image_bytes(picture, suffix)).native, picture.native)


def test_files_of_other_kinds_are_counted_by_suffix(tmp_path):
    for name in (
        "a.heic",
        "b.HEIC",
        "sub/c.heic",
        "d.txt",
        "e.p\ng",
        ".hidden",
        "sub/.git/x.txt",
        "out/r.jsonl",
        "f.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    place = StorePath(tmp_path)
    expected = "5 files of other kinds passed over (3 .heic, 1 .txt, 1 other)"
    assert passed_over(place, place / "out") == expected
    assert (
        passed_over(place / "sub", place / "out") == "1 file of another kind passed over (1 .heic)"
    )
    assert passed_over(place, place / "out", lambda name: name.suffix.lower() != ".txt").startswith(
        "1 file of"
    )
    assert passed_over(place / "f.png", place) == passed_over(place / "nowhere", place) == ""


def test_complete_and_pack_tell_of_what_they_pass_over(tmp_path, program, untrained):
    save_model(untrained(), tmp_path / "model")
    pil().save(tmp_path / "a.png")
    folder = tmp_path / "in"
    folder.mkdir()
    for name, kind in (("a.avif", "AVIF"), ("b.jfif", "JPEG"), ("c.png", "PNG")):
        pil().save(folder / name, kind)
    (folder / "d.heic").touch()
    ran = program(
        "complete",
        tmp_path / "model",
        folder,
        "--mask",
        "center",
        "--out",
        tmp_path / "out",
        "--method",
        "classic",
        "--steps",
        1,
    )
    assert ran.code == 0
    assert "3 completed" in ran.out
    assert "1 file of another kind passed over (1 .heic)" in ran.err
    ran = program("pack", folder, tmp_path / "records", "--size", 16, "--workers", 1)
    assert "3 images" in ran.out
    assert "1 file of another kind passed over (1 .heic)" in ran.err


def test_a_bomb_among_good_images_is_left_out_with_the_reason(tmp_path, program):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "bomb.tif").write_bytes(tile_bomb())
    for seed in range(3):
        pil(seed=seed).save(folder / f"{seed}.bmp")
    ran = program("pack", folder, tmp_path / "records", "--size", 16, "--workers", 1)
    assert "3 images" in ran.out
    assert "left out 1: bomb.tif: damaged" in ran.out


def test_chunks_of_a_million_kinds_are_named_in_a_moment():
    kinds = (bytes(map(ord, kind)) for kind in itertools.product("abcdefghijklmnopqrs", repeat=4))
    content = with_chunks(saved(pil(), "PNG"), *((kind, b"") for kind in kinds))
    assert is_light(content)
    (warning,) = decode_image(content).warnings
    assert len(warning) < 100
