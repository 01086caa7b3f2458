"""Masks: shares, sides, and white = hole wherever a mask comes from."""

import numpy as np
import pytest
from PIL import Image

from pixmend.api import open_mask
from pixmend.errors import MaskError
from pixmend.images import open_image
from pixmend.masks import Mask, make_mask


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
        "grid:3",
        "strokes:2",
    ],
)
def test_options_out_of_range_are_refused_in_one_line(spec):
    with pytest.raises(MaskError) as caught:
        hole(spec)
    assert "\n" not in str(caught.value)


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


def test_a_float_mask_is_refused():
    with pytest.raises(MaskError, match="uint8"):
        Mask.from_pixels(np.zeros((3, 3)))
