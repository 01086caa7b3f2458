"""Masks: shares, sides, and white = hole wherever a mask comes from."""

import hashlib
import tempfile
import unicodedata
from pathlib import Path, PurePath

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pixmend.completion import Task, mask_file, open_mask
from pixmend.errors import ImageError, MaskError
from pixmend.images import open_image
from pixmend.masks import SHAPES, SPECS, Mask, check_spec, is_spec, make_mask
from pixmend.storage import StorePath


def hole(spec, height=24, width=40, seed=0):
    return make_mask(spec, height, width, seed=seed).hole


def test_shares_are_what_their_names_say():
    assert hole("center").mean() == 0.25
    assert hole("center:0.25").mean() == 1 / 16
    assert hole("half").mean() == 0.5
    assert hole("random").mean() == 0.8
    assert hole("random:0.3").mean() == pytest.approx(0.3)
    assert hole("grid", 64, 64).mean() == 0.25
    assert hole("lowres").mean() == 1 - 1 / 16
    assert 0.25 <= hole("strokes").mean() < 0.4


@pytest.mark.parametrize(
    ("side", "inside", "outside"),
    [
        ("left", (12, 0), (12, 39)), ("right", (12, 39), (12, 0)),
        ("top", (0, 20), (23, 20)), ("bottom", (23, 20), (0, 20)),
    ],
)  # fmt: skip
def test_half_hides_the_side_it_names(side, inside, outside):
    assert hole(f"half:{side}")[inside]
    assert not hole(f"half:{side}")[outside]


def test_center_is_centred_in_images_that_are_not_square():
    mask = hole("center")
    assert np.array_equal(mask, mask[::-1])
    assert np.array_equal(mask, mask[:, ::-1])


@pytest.mark.parametrize("spec", ["random", "strokes"])
def test_drawn_masks_are_a_function_of_the_seed(spec):
    assert np.array_equal(hole(spec, seed=1), hole(spec, seed=1))
    assert not np.array_equal(hole(spec, seed=1), hole(spec, seed=2))


@pytest.mark.parametrize(
    "spec",
    [
        "center:0",
        "center:1",
        "center:x",
        "half:up",
        "random:-1",
        "random:nan",
        "lowres:1",
        "lowres:x",
        "lowres:65",
        "lowres:\n",
        "center:\r0",
        "lowres:\u0664",
        "lowres:" + "9" * 5000,
        "grid:3",
        "strokes:2",
        "alpha:1",
        "auto:\n",
        "color",
        "color:\n",
        "color:octarine",
        "color:#ff00ff:256",
        "color:#ff00ff:-1",
        "color:#ff00ff:" + "9" * 5000,
    ],
)
def test_options_out_of_range_are_refused_in_one_line(spec):
    for check in (hole, check_spec):
        with pytest.raises(MaskError) as caught:
            check(spec)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [*[spec for spec in SPECS if spec != "color"], "color:#ff00ff", "color:red:255", "half:top"],
)
def test_a_spec_is_known_without_an_image(spec):
    assert is_spec(spec)
    check_spec(spec)
    if spec.partition(":")[0] not in SHAPES:
        with pytest.raises(MaskError, match="is read from an image"):
            hole(spec)


CLEAR = np.arange(30).reshape(5, 6) % 4 == 0
RGBA = np.dstack([np.arange(90, dtype=np.uint8).reshape(5, 6, 3), np.where(CLEAR, 0, 1)]).astype(
    np.uint8
)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PNG with a transparent grey"])
@pytest.mark.parametrize("spec", ["alpha", "auto"])
def test_alpha_takes_the_fully_transparent_pixels_of_the_image(spec, mode, tmp_path):
    if mode in ("RGBA", "LA"):
        Image.fromarray(RGBA).convert(mode).save(tmp_path / "a.png")
    else:
        grey = Image.fromarray(CLEAR.astype(np.uint8) * 7)
        (grey.convert("P") if mode == "P" else grey).save(tmp_path / "a.png", transparency=7)
    picture = open_image(tmp_path / "a.png")
    assert np.array_equal(open_mask(spec, picture).hole, CLEAR)


def test_color_takes_one_colour_within_a_tolerance_of_each_channel():
    pixels = np.array([[[255, 0, 255], [250, 5, 255], [250, 6, 255], [0, 255, 0]]], np.uint8)
    for spec, expected in {
        "color:#ff00ff": [1, 0, 0, 0], "color:magenta:5": [1, 1, 0, 0], "color:#f0f:6": [1, 1, 1, 0],
        "color:lime": [0, 0, 0, 1],
    }.items():  # fmt: skip
        assert open_mask(spec, open_image(pixels)).hole[0].tolist() == [bool(n) for n in expected]
    grey = np.array([[7, 8, 99]], np.uint8)
    assert open_mask("color:#080808:1", open_image(grey)).hole[0].tolist() == [True, True, False]


@pytest.mark.parametrize("kind", ["nan", "masked", "npy", "tif"])
@pytest.mark.parametrize("spec", ["nan", "auto"])
def test_nan_takes_the_pixels_without_a_value_and_no_other_mask_may_miss_one(spec, kind, tmp_path):
    floats = np.where(CLEAR, np.nan, np.linspace(0, 1, 30).reshape(5, 6)).astype(np.float32)
    np.save(tmp_path / "a.npy", floats)
    Image.fromarray(floats).save(tmp_path / "a.tif")
    sources = {"nan": floats, "npy": tmp_path / "a.npy", "tif": tmp_path / "a.tif"}
    picture = open_image(sources.get(kind, np.ma.masked_array(np.zeros((5, 6), np.uint8), CLEAR)))
    mask = open_mask(spec, picture)
    assert np.array_equal(mask.hole, CLEAR)
    Task(picture, mask).check()
    Task(picture, Mask(mask.known & (np.arange(6) < 5))).check()  # NaN under the mask is fine
    with pytest.raises(ImageError, match=r"in 8 known pixels; .*nan does"):
        Task(picture, Mask(np.eye(5, 6, dtype=bool) | CLEAR)).check()


@pytest.mark.parametrize("spec", ["alpha", "nan", "auto", "color:#123456"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_image_without_the_marks_of_a_spec_is_refused_by_its_name(spec, mode, tmp_path):
    Image.new(mode, (4, 4), 1).convert(mode).putalpha(9)
    Image.new(mode, (4, 4), "white").save(tmp_path / "a.png")
    given = (
        "give as mask center" if spec == "auto" else rf"mask {spec}; give .*a mask image or a shape"
    )
    with pytest.raises(MaskError, match=rf"a\.png: .*{given}"):
        open_mask(spec, open_image(tmp_path / "a.png"))


def test_strokes_cost_what_their_own_pixels_cost(monkeypatch):
    sizes = []
    clip = np.clip

    def counting(values, *bounds):
        sizes.append(values.size)
        return clip(values, *bounds)

    monkeypatch.setattr(np, "clip", counting)
    for height, width in ((300, 400), (2, 3000)):
        sizes.clear()
        make_mask("strokes", height, width)
        assert len(sizes) > 10
        assert sum(sizes) < 20 * height * width


def drawn(tmp_path, pixels, name="m.png"):
    Image.fromarray(pixels).save(tmp_path / name)
    return open_mask(tmp_path / name, open_image(np.zeros(pixels.shape[:2], np.uint8)))


SQUARE = np.zeros((8, 8), np.uint8)
SQUARE[2:5, 3:7] = 1


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (SQUARE, r"brightest value is 1; white is >= 128"),
        (SQUARE * np.uint8(20), r"brightest value is 20; white is >= 128"),
        (np.dstack([SQUARE * 255, 0 * SQUARE, 0 * SQUARE]), r"brightest value is \(255, 0, 0\); white"),
        (np.dstack([0 * SQUARE] * 3 + [SQUARE * 255]), r"its alpha holds a shape .* mark no pixel"),
        (np.dstack([0 * SQUARE + 255] * 3 + [SQUARE * 255]), r"alpha holds a shape .* mark every pixel"),
        (SQUARE.astype(np.int32) * 255, r"brightest value is 255; white is >= 32768"),
    ],
    ids=["labels", "dark", "red", "alpha", "white on a clear layer", "32 bits"],
)  # fmt: skip
def test_a_drawn_mask_that_would_be_read_as_empty_or_full_is_refused_with_the_reason(
    pixels, words, tmp_path
):
    name = "m.tif" if pixels.dtype == np.int32 else "m.png"
    with pytest.raises(MaskError, match=rf"^mask .*m\.\w+: .*{words}"):
        drawn(tmp_path, pixels, name)


def test_a_float_tiff_of_0_to_255_is_no_mask_and_one_of_0_to_1_is(tmp_path):
    with pytest.raises(MaskError, match=r"^mask .*m\.tif: floats must be in \[0, 1\]"):
        drawn(tmp_path, SQUARE.astype(np.float32) * 255, "m.tif")
    assert np.array_equal(drawn(tmp_path, SQUARE.astype(np.float32), "m.tif").hole, SQUARE == 1)


def test_a_black_mask_is_empty_and_a_white_one_full(tmp_path):
    assert drawn(tmp_path, 0 * SQUARE).missing == 0
    assert drawn(tmp_path, 0 * SQUARE + 255).missing == 1
    assert Mask.from_pixels(0 * SQUARE).missing == 0


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.uint8, np.int16, np.uint16, np.int64, np.uint64]
)
def test_arrays_of_0_and_1_are_labels_and_those_of_0_and_255_are_levels(dtype, tmp_path):
    np.save(tmp_path / "m.npy", SQUARE.astype(dtype))
    for mask in (SQUARE.astype(dtype), np.dstack([SQUARE] * 3).astype(dtype), tmp_path / "m.npy"):
        assert np.array_equal(open_mask(mask, open_image(SQUARE)).hole, SQUARE == 1)
    if np.dtype(dtype).itemsize > 1 and dtype != np.uint16:
        levels = (SQUARE * np.int64(255)).astype(dtype)
        assert np.array_equal(Mask.from_pixels(levels).hole, SQUARE == 1)
        with pytest.raises(MaskError, match=r"from 0 to 256; give 0 to 255"):
            Mask.from_pixels((SQUARE * np.int64(256)).astype(dtype))


def test_an_unknown_shape_lists_what_there_is():
    with pytest.raises(MaskError, match="center, half, random, grid, lowres, strokes"):
        hole("centre")


def test_white_is_hole_whatever_the_mask_image_is(tmp_path):
    levels = np.array([[0, 127, 128, 255]], np.uint8)
    expected = [[False, False, True, True]]
    for number, image in enumerate([
        Image.fromarray(levels),
        Image.fromarray(np.repeat(levels[..., None], 3, 2)),
        Image.merge("LA", [Image.fromarray(levels), Image.fromarray(255 - levels)]),
        Image.merge("RGBA", [Image.fromarray(levels)] * 3 + [Image.fromarray(255 - levels)]),
        Image.fromarray(levels.astype(np.uint16) * 257),
        Image.fromarray(levels).convert("P"),
    ]):  # fmt: skip
        path = tmp_path / f"{number}.png"
        image.save(path)
        picture = open_image(path)
        assert open_mask(path, picture).hole.tolist() == expected
        assert open_mask(str(path), picture).hole.tolist() == expected
        assert open_mask(image, picture).hole.tolist() == expected
    assert Mask.from_pixels(levels).hole.tolist() == expected
    assert Mask.from_pixels(levels >= 128).hole.tolist() == expected
    assert Mask.from_pixels(Mask.from_pixels(levels).to_pixels()).hole.tolist() == expected


def test_masks_in_a_folder_are_matched_by_stem(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "masks" / "a.bmp")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "b.png")
    assert open_mask(tmp_path / "masks", open_image(tmp_path / "a.png")).missing == 1
    with pytest.raises(MaskError, match=r"b\.png"):
        open_mask(tmp_path / "masks", open_image(tmp_path / "b.png"))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_a_mask_and_others_are_refused(dtype):
    levels = np.array([[0, 0.004, 0.49], [0.5, 0.51, 1]], dtype)
    expected = [[False] * 3, [True] * 3]
    opaque = np.dstack([levels] * 3 + [np.ones_like(levels)])
    for mask in (levels, levels[..., None], opaque):
        assert Mask.from_pixels(mask).hole.tolist() == expected
    for other in (levels * 255, levels - 0.1, levels + np.nan):
        with pytest.raises(MaskError, match=r"uint8 .* or floats from 0 to 1"):
            Mask.from_pixels(other)


@pytest.mark.parametrize(("height", "width"), [(37, 31), (31, 37), (5, 9), (64, 64)])
def test_shares_are_exact_in_images_of_any_shape(height, width):
    def missing(spec):
        return int(hole(spec, height, width).sum())

    for share in (0.1, 0.5, 0.8):
        assert missing(f"random:{share}") == round(height * width * share)
        assert missing(f"center:{share}") == max(1, round(height * share)) * max(
            1, round(width * share)
        )
    for side, rows, columns in (
        ("left", height, width // 2), ("right", height, width // 2),
        ("top", height // 2, width), ("bottom", height // 2, width),
    ):  # fmt: skip
        assert missing(f"half:{side}") == rows * columns
    for factor in (2, 4):
        known = hole(f"lowres:{factor}", height, width) == 0
        rows, columns = np.nonzero(known)
        assert set(np.diff(np.unique(rows))) | set(np.diff(np.unique(columns))) <= {factor}
        assert known.sum() == len(np.unique(rows)) * len(np.unique(columns))
    assert hole("strokes:0.3", height, width).mean() >= 0.3
    squares = hole("grid", height, width)
    assert not (squares[:, 1:] & squares[:, :-1]).all()
    assert hole("grid", height, width).mean() == pytest.approx(0.25, abs=0.12)


@pytest.mark.parametrize("shape", ["center", "half", "random", "grid", "lowres", "strokes"])
def test_every_shape_has_a_hole_and_known_pixels_and_the_size_asked_for(shape):
    for height, width in ((16, 16), (37, 31), (200, 20)):
        mask = make_mask(shape, height, width)
        mask.check(height, width, "image")
        assert mask.known.shape == (height, width)
        assert mask.missing == pytest.approx(1 - mask.known.mean())


def test_the_two_halves_are_the_whole():
    for one, other in (("left", "right"), ("top", "bottom")):
        assert (hole(f"half:{one}") ^ hole(f"half:{other}")).all()


def test_a_mask_of_another_size_is_refused_with_both_sizes_and_the_image():
    with pytest.raises(MaskError, match=r"^a\.png: .*31 x 37.*20 x 24"):
        make_mask("center", 37, 31).check(24, 20, "a.png")


def test_an_image_without_a_name_cannot_be_matched_to_a_folder_of_masks(tmp_path):
    with pytest.raises(MaskError, match="no stem"):
        open_mask(tmp_path, open_image(np.zeros((4, 4), np.uint8)))


def test_several_masks_of_one_stem_are_refused_and_other_files_are_not_masks(tmp_path):
    (tmp_path / "masks").mkdir()
    picture = np.zeros((4, 4), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture).save(tmp_path / "masks" / "a.png")
    (tmp_path / "masks" / "a.txt").write_text("notes")
    image = open_image(tmp_path / "a.png")
    assert open_mask(tmp_path / "masks", image).missing == 0
    Image.fromarray(picture).save(tmp_path / "masks" / "a.bmp")
    with pytest.raises(MaskError, match="several masks"):
        open_mask(tmp_path / "masks", image)


def test_a_file_that_is_no_image_is_no_mask_and_is_named(tmp_path):
    (tmp_path / "m.png").write_text("a text")
    with pytest.raises(MaskError, match=r"m\.png"):
        open_mask(tmp_path / "m.png", open_image(np.zeros((4, 4), np.uint8)))


@pytest.mark.parametrize(
    ("spec", "missing", "digest"),
    [
        ("random:0.6", 428, "2916bf74b887f39c"),
        ("strokes", 179, "f45e0f746e3b1fad"),
        ("strokes:0.7", 500, "8edcaa3d9c167d23"),
        ("center:0.3", 63, "e6dc86bc9f79a1e0"),
        ("grid", 165, "1dc4fbb3e0246fac"),
        ("lowres:5", 683, "32ad9abaaef84630"),
    ],
)
def test_a_spec_and_a_seed_give_the_same_mask_in_every_version(spec, missing, digest):
    # Evaluations are compared by masks drawn from seeds: a mask that moves makes their figures another question's.
    found = hole(spec, 23, 31, seed=5)
    assert found.sum() == missing
    assert hashlib.sha256(found.tobytes()).hexdigest().startswith(digest)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (4, 0, 3), (2, 2, 2, 2), (4,)])
def test_an_array_of_no_pixels_or_of_another_shape_is_no_mask(shape):
    with pytest.raises(MaskError, match="is no mask"):
        Mask.from_pixels(np.zeros(shape, np.uint8))


def test_no_secret_of_a_url_is_shown_where_there_is_no_such_mask():
    with pytest.raises(MaskError, match=r"'https://host/m\.png' is neither a shape") as told:
        make_mask("https://me:s3cr3t@host/m.png?X-Amz-Signature=s3cr3t", 8, 8)
    assert "s3cr3t" not in str(told.value)


@pytest.mark.parametrize(
    "spec", ["str::/..://", "s3://me:s3cr3t@bucket/m.png", "cache::https://me:s3cr3t@host/m.png"]
)
def test_what_is_not_even_a_url_is_no_mask_either(spec):
    with pytest.raises(MaskError, match="is neither a shape") as told:
        make_mask(spec, 8, 8)
    assert "s3cr3t" not in str(told.value)
    assert "\n" not in str(told.value)


def test_the_squares_of_a_grid_are_an_eighth_of_the_shorter_side_but_a_pixel_at_least():
    for side, cell in ((64, 8), (16, 2), (8, 1), (4, 1)):
        hole = make_mask("grid", side, side).hole
        assert hole.any()
        corners = np.argwhere(hole)
        first = corners[0]
        square = hole[first[0] : first[0] + cell, first[1] : first[1] + cell]
        assert square.all()
        assert hole.mean() == pytest.approx(0.25)


def test_without_a_seed_the_draw_is_that_of_seed_0():
    for spec in ("random:0.5", "strokes:0.3"):
        ours, theirs = make_mask(spec, 16, 16), make_mask(spec, 16, 16, seed=0)
        assert np.array_equal(ours.known, theirs.known)
        assert not np.array_equal(ours.known, make_mask(spec, 16, 16, seed=1).known)


def test_every_second_to_every_sixty_fourth_pixel_of_lowres_is_accepted_and_no_other():
    for step in (2, 3, 64):
        known = make_mask(f"lowres:{step}", 192, 192).known
        assert known.mean() == pytest.approx(1 / step**2)
    for step in (0, 1, 65, 100):
        with pytest.raises(MaskError, match="lowres"):
            make_mask(f"lowres:{step}", 128, 128)


def test_of_a_boolean_array_with_channels_a_pixel_is_missing_if_any_channel_is():
    pixels = np.zeros((4, 4, 3), bool)
    pixels[1, 2, 1] = True
    hole = Mask.from_pixels(pixels).hole
    assert hole.sum() == 1
    assert hole[1, 2]


NAMES = st.text(
    st.characters(categories=["L", "M", "N"], exclude_characters="\0"), min_size=1, max_size=12
)


@settings(deadline=None)
@given(NAMES, NAMES, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["NFC", "NFD"]))
def test_names_that_look_the_same_are_the_same(folder, stem, of_image, of_mask):
    path = unicodedata.normalize(of_mask, f"{folder}/{stem}.png")
    with tempfile.TemporaryDirectory() as name:
        mask = Path(name, path)
        mask.parent.mkdir()
        mask.touch()
        relative = PurePath(unicodedata.normalize(of_image, f"{folder}/{stem}.jpg"))
        found = mask_file(name, StorePath(Path("images") / relative), relative)
        assert found == StorePath(mask)


def test_a_mask_of_the_same_path_comes_before_one_of_the_same_name(tmp_path):
    image, relative = StorePath.of("img/a/x.png"), PurePath("img/a/x.png")
    for name in ("x.png", "a/x.png", "img/a/x.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        assert mask_file(str(tmp_path), image, relative) == StorePath(tmp_path / name)
    (tmp_path / "img" / "a" / "x.bmp").touch()
    with pytest.raises(MaskError, match=r"several masks of that stem: .*x\.bmp, .*x\.png"):
        mask_file(str(tmp_path), image, relative)


def test_a_stem_too_long_for_other_suffixes_has_its_mask(tmp_path):
    """No file can be named stem.jpeg, so there is none."""
    name = f"{'s' * 251}.png"
    (tmp_path / name).touch()
    found = mask_file(str(tmp_path), StorePath.of(name), PurePath(name))
    assert found == StorePath(tmp_path / name)
    with pytest.raises(MaskError, match="no mask of that stem"):
        mask_file(str(tmp_path), StorePath.of(f"o{name[1:]}"), PurePath(f"o{name[1:]}"))
