"""The laws of blends: known pixels are sacred, seams close, and each is the equation it cites."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import distance_transform_edt

from pixmend.completion import METHODS, CompletionOptions, Task, complete_batch, find_method
from pixmend.completion.blend import BLENDS, feather, paste, poisson
from pixmend.errors import SettingsError
from pixmend.images import open_image
from pixmend.masks import make_mask

HOLES = {
    "inside": np.s_[6:15, 7:19],
    "at the edge": np.s_[0:9, :8],
    "a whole side": np.s_[:, 12:],
    "pixels apart": np.s_[::2, ::3],
}


def draw(*shape, seed=0):
    # Cosines, as sums and differences of uniform draws, multiples of 2^-24, are exact: roundings would not show.
    return torch.cos(3 * torch.rand(*shape, generator=torch.Generator().manual_seed(seed)))


def known_but(hole, shape=(21, 26)):
    known = torch.ones(shape, dtype=torch.bool)
    known[hole] = False
    return known


def membrane(values, known):
    """Solve for the harmonic extension with a dense matrix."""
    height, width = known.shape
    places = {(i, j): n for n, (i, j) in enumerate(np.argwhere(~known.numpy()).tolist())}
    matrix, right = np.zeros((len(places),) * 2), np.zeros((len(places), len(values)))
    for (i, j), n in places.items():
        for at in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= at[0] < height and 0 <= at[1] < width:
                matrix[n, n] += 1
                if at in places:
                    matrix[n, places[at]] -= 1
                else:
                    right[n] += values[:, at[0], at[1]].numpy()
    result = values.clone()
    result[:, ~known] = torch.from_numpy(np.linalg.solve(matrix, right).T).float()
    return result


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_known_pixels_keep_their_bits_and_missing_ones_stay_in_range(blend, hole, channels):
    image, drawn, known = draw(channels, 21, 26), draw(channels, 21, 26, seed=1), known_but(hole)
    before = image.clone()
    joined = BLENDS[blend](image, drawn, known)
    assert torch.equal(joined[:, known], before[:, known])
    assert torch.equal(image, before)
    assert joined.abs().max() <= 1
    assert joined.dtype == torch.float32


@pytest.mark.parametrize("blend", BLENDS)
def test_what_lies_in_the_hole_of_the_image_does_not_matter(blend):
    image, drawn, known = draw(3, 21, 26), draw(3, 21, 26, seed=1), known_but(np.s_[3:12, 5:])
    other = torch.where(known, image, draw(3, 21, 26, seed=2))
    assert torch.equal(BLENDS[blend](image, drawn, known), BLENDS[blend](other, drawn, known))


@pytest.mark.parametrize("blend", BLENDS)
def test_with_nothing_missing_the_image_comes_back(blend):
    image, known = draw(3, 8, 9), torch.ones(8, 9, dtype=torch.bool)
    assert torch.equal(BLENDS[blend](image, -image, known), image)


@pytest.mark.parametrize("hole", HOLES.values(), ids=HOLES)
def test_feather_is_the_weighted_mean_it_says(hole):
    image, drawn, known = draw(2, 21, 26), draw(2, 21, 26, seed=1), known_but(hole)
    weight = torch.from_numpy(1 - distance_transform_edt(~known) / 3).clamp(0, 1).float()
    expected = weight * membrane(image, known) + (1 - weight) * drawn
    found = feather(image, drawn, known, width=3)
    torch.testing.assert_close(found[:, ~known], expected[:, ~known], atol=1e-5, rtol=0)


def test_feather_leaves_what_lies_deeper_than_its_width_to_the_generator():
    image, drawn, known = (
        draw(1, 40, 44),
        draw(1, 40, 44, seed=1),
        known_but(np.s_[8:32, 6:36], (40, 44)),
    )
    deep = torch.from_numpy(distance_transform_edt(~known) >= 4)
    found = feather(image, drawn, known)
    assert torch.equal(found[:, deep], drawn[:, deep])
    assert not torch.isclose(found, drawn)[:, ~known & ~deep].any()


def test_feather_closes_the_seam_of_a_constant_offset_step_by_step():
    image, known = torch.zeros(1, 30, 30), known_but(np.s_[8:22, 8:22], (30, 30))
    row = feather(image, torch.full_like(image, 0.8), known)[0, 15, 7:15]
    torch.testing.assert_close(row, torch.tensor([0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8]))


@pytest.mark.parametrize("shape", [(24, 31), (150, 170)], ids=["by factors", "by multigrid"])
@pytest.mark.parametrize("channels", [1, 4])
def test_poisson_takes_a_constant_offset_out_of_small_and_large_holes(shape, channels):
    height, width = shape
    image = draw(channels, height, width) * 0.6
    known = known_but(np.s_[height // 8 :, 3 : width - 4], shape)  # it reaches the lower edge
    offset = torch.linspace(-0.3, 0.3, channels + 1)[:channels, None, None]
    torch.testing.assert_close(poisson(image, image + offset, known), image, atol=1e-5, rtol=0)


def test_multigrid_and_factors_solve_the_same_equations(monkeypatch):
    image, drawn, known = (
        draw(2, 60, 70),
        draw(2, 60, 70, seed=1),
        known_but(np.s_[5:50, 9:], (60, 70)),
    )
    state = np.random.get_state()[1].tolist()
    factored = poisson(image, drawn, known)
    monkeypatch.setattr("pixmend.completion.blend._FEW", 0)
    torch.testing.assert_close(poisson(image, drawn, known), factored, atol=1e-5, rtol=0)
    assert torch.equal(poisson(image, drawn, known), poisson(image, drawn, known))
    assert np.random.get_state()[1].tolist() == state


def test_poisson_adds_a_harmonic_correction_to_the_generator():
    image, drawn, known = (
        draw(1, 21, 26) * 0.2,
        draw(1, 21, 26, seed=1) * 0.2,
        known_but(np.s_[4:15, 6:20]),
    )
    added = (poisson(image, drawn, known) - drawn)[0]
    mean = (added[:-2, 1:-1] + added[2:, 1:-1] + added[1:-1, :-2] + added[1:-1, 2:]) / 4
    hole = ~known[1:-1, 1:-1]
    torch.testing.assert_close(added[1:-1, 1:-1][hole], mean[hole], atol=1e-5, rtol=0)
    assert not torch.equal(added, torch.zeros_like(added))


# On stored images


def stored(mode):
    """A noisy picture of 37 x 31 in a mode, 16-bit grey and palettes among them."""
    generator = np.random.default_rng(7)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 65536, (37, 31), np.uint16))
    if mode == "P":
        return Image.fromarray(generator.integers(0, 256, (37, 31, 3), np.uint8)).quantize(16)
    bands = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode]
    return Image.frombytes(mode, (31, 37), generator.bytes(31 * 37 * bands))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("spec", ["center", "half:bottom", "random:0.5"])
def test_known_samples_of_every_mode_come_back_bit_for_bit(lively, blend, mode, spec):
    job = Task(open_image(stored(mode)), make_mask(spec, 37, 31))
    method = replace(find_method("default", steps=1, blend=blend), init_pool=8, restarts=1)
    (result,) = complete_batch(lively("RGBA"), [job], CompletionOptions(method))
    before, after = job.picture.native, result.candidates[0].picture.native
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    assert np.array_equal(after[job.mask.known], before[job.mask.known])
    changed = (after != before)[job.mask.hole]
    assert changed.reshape(len(changed), -1).any(0).all(), "every channel, alpha too, is completed"


@pytest.mark.parametrize("blend", ["feather", "poisson"])
def test_blends_close_the_seam_of_16_bit_grey_and_of_alpha(lively, blend):
    for image in (np.full((32, 32), 20_000, np.uint16), np.full((32, 32, 4), 90, np.uint8)):
        job = Task(open_image(image), make_mask("center", 32, 32))
        steps = {}
        for name in ("paste", blend):
            method = replace(find_method("classic", steps=1, blend=name))
            (result,) = complete_batch(lively("RGBA"), [job], CompletionOptions(method))
            after = result.candidates[0].picture.native.astype(float).reshape(32, 32, -1)
            steps[name] = np.abs(after[8, 8:24] - after[7, 8:24]).mean(
                0
            )  # across the border, per channel
        assert (steps[blend] < 0.6 * steps["paste"]).all()


def test_16_bit_grey_is_filled_in_16_bits(lively):
    ramp = np.linspace(0, 65535, 37 * 31).reshape(37, 31).astype(np.uint16)
    job = Task(open_image(ramp), make_mask("center", 37, 31))
    method = replace(METHODS["yeh"], steps=1)
    (result,) = complete_batch(lively("L"), [job], CompletionOptions(method))
    filled = result.candidates[0].picture.native[job.mask.hole].astype(int)
    assert len(set((filled % 257).tolist())) > 20, "8 bits stretched to 16 are multiples of 257"


def test_an_unknown_blend_is_refused_with_the_blends_there_are():
    with pytest.raises(SettingsError, match="paste, feather, poisson"):
        find_method("default", blend="fether")


def test_paste_is_the_mask_times_each():
    image, drawn, known = draw(3, 5, 7), draw(3, 5, 7, seed=1), known_but(np.s_[1:3], (5, 7))
    assert torch.equal(paste(image, drawn, known), image * known + drawn * ~known)


def test_factors_kept_for_one_hole_serve_no_other():
    image, drawn = draw(3, 20, 20), draw(3, 20, 20, seed=1)
    holes = [draw(20, 20, seed=turn) < 0.1 for turn in (2, 3)]
    holes.append(holes[0].T)
    for known in [*holes, *holes]:
        expected = drawn + membrane(image - drawn, known)
        found = poisson(image, drawn, known)
        torch.testing.assert_close(
            found[:, ~known], expected.clamp(-1, 1)[:, ~known], atol=1e-5, rtol=0
        )
