"""The laws of completion: known pixels are sacred, and an image's answer is its own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import pixmend
from pixmend.api import Model
from pixmend.completion import METHODS, CompletionOptions, Task, complete_batch, find_method
from pixmend.completion.blend import BLENDS
from pixmend.errors import ImageError, MaskError, SettingsError
from pixmend.images import open_image
from pixmend.masks import Mask, make_mask

# Those that need no inpainter; tests/completion/test_inpainted.py has the laws of the others.
SEARCHES = {name: method for name, method in METHODS.items() if method.inpainter != "always"}
QUICK = {
    name: replace(method, steps=6, init_pool=min(method.init_pool, 32))
    for name, method in SEARCHES.items()
}
MODES = ("1", "L", "LA", "I;16", "RGB", "RGBA", "CMYK")


def noise(mode, height, width, seed=0):
    generator = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 65536, (height, width), np.uint16))
    bands = {"1": 1, "L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4}[mode]
    pixels = generator.integers(0, 256, (height, width, bands), np.uint8)
    if mode == "1":
        return Image.fromarray(pixels[..., 0]).convert("1")
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def complete(model, images, masks, **options):
    jobs = [Task(open_image(image), mask) for image, mask in zip(images, masks, strict=True)]
    options = {"method": QUICK["default"], "snapshots": (), **options}
    return complete_batch(model, jobs, CompletionOptions(**options))


@pytest.mark.parametrize("channels", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("blend", ["paste", "poisson"])
def test_known_pixels_size_and_mode_come_back_as_they_were(untrained, channels, blend):
    images = [noise(mode, 37, 31) for mode in MODES]
    mask = make_mask("strokes:0.3", 37, 31)
    method = replace(QUICK["default"], blend=blend)
    results = complete(untrained(channels), images, [mask] * len(images), method=method)
    for image, result in zip(images, results, strict=True):
        best = result.best
        assert (best.mode, best.size) == (image.mode, (31, 37))
        before, after = np.asarray(image), np.asarray(best)
        assert np.array_equal(before[mask.known], after[mask.known])
        assert not np.array_equal(before[mask.hole], after[mask.hole])


@pytest.mark.parametrize("name", list(SEARCHES))
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_known_pixels_are_sacred_in_every_method_fit_and_size(untrained, name, fit):
    shapes = [(16, 16), (16, 40), (11, 9), (70, 33)]
    images = [noise("RGB", *shape) for shape in shapes]
    masks = [make_mask("half:right", *shape) for shape in shapes]
    results = complete(untrained("RGB", fit=fit), images, masks, method=QUICK[name])
    for image, mask, result in zip(images, masks, results, strict=True):
        before, after = np.asarray(image), np.asarray(result.best)
        assert np.array_equal(before[mask.known], after[mask.known])
        assert not np.array_equal(before, after)


@pytest.mark.parametrize("name", list(SEARCHES))
@pytest.mark.parametrize("blend", list(BLENDS))
def test_known_pixels_are_sacred_in_every_method_with_every_blend_in_every_mode(
    untrained, name, blend
):
    images = [noise(mode, 16, 16, seed) for seed, mode in enumerate(MODES)]
    masks = [make_mask("strokes:0.3", 16, 16, seed=seed) for seed in range(len(MODES))]
    method = replace(QUICK[name], steps=2, finetune=min(2, QUICK[name].finetune), blend=blend)
    found = complete(untrained("RGBA"), images, masks, method=method)
    for image, mask, result in zip(images, masks, found, strict=True):
        before, after = np.asarray(image), np.asarray(result.best)
        assert result.best.mode == image.mode
        assert np.array_equal(before[mask.known], after[mask.known])
        assert not np.array_equal(before, after)


@pytest.mark.parametrize("name", list(SEARCHES))
def test_an_image_alone_and_among_others_gets_the_same_answer(untrained, name):
    # The draws of an untrained residual G differ more than those of a DCGAN. In torch's gradient of a projection of 6 latents sums
    # depend on a row's place (tests/models/test_layers.py).
    model = untrained("RGB", size=32, latent_dim=6)
    images = [noise("RGB", 32, 32, seed) for seed in range(5)]
    masks = [make_mask("random:0.5", 32, 32, seed=seed) for seed in range(5)]
    together = complete(model, images, masks, method=QUICK[name], candidates=3)
    for index in (0, 3):
        (alone,) = complete(
            model, [images[index]], [masks[index]], method=QUICK[name], candidates=3
        )
        for ours, theirs in zip(alone.candidates, together[index].candidates, strict=True):
            assert np.array_equal(ours.picture.native, theirs.picture.native)
            assert ours.loss == theirs.loss


def test_permuting_inputs_permutes_outputs(untrained):
    model = untrained()
    images = [noise("L", 16, 16, seed) for seed in range(4)]
    masks = [make_mask("center", 16, 16)] * 4
    forwards = complete(model, images, masks)
    backwards = complete(model, images[::-1], masks)
    for ours, theirs in zip(forwards, backwards[::-1], strict=True):
        assert np.array_equal(np.asarray(ours.best), np.asarray(theirs.best))


def test_equal_seeds_repeat_exactly_and_others_do_not(untrained):
    image, mask = noise("L", 16, 16), make_mask("center", 16, 16)
    first, second, other = (
        complete(untrained(), [image], [mask], seed=seed)[0] for seed in (1, 1, 2)
    )
    assert np.array_equal(first.candidates[0].z, second.candidates[0].z)
    assert not np.array_equal(first.candidates[0].z, other.candidates[0].z)


@pytest.mark.parametrize("name", list(SEARCHES))
def test_the_best_iterate_is_kept_so_more_steps_are_never_worse(untrained, name):
    model, image, mask = untrained(), noise("L", 16, 16), make_mask("center", 16, 16)
    # A rate far too large, so that later iterates are worse than earlier ones.
    wild = replace(QUICK[name], steps=20, learning_rate=5.0, scheduled=False, restarts=1)
    (result,) = complete(model, [image], [mask], method=wild)
    assert (np.diff(result.history) <= 0).all()
    assert result.candidates[0].loss == pytest.approx(float(result.history[-1]))
    (shorter,) = complete(model, [image], [mask], method=replace(wild, steps=10))
    assert result.candidates[0].loss <= shorter.candidates[0].loss


@pytest.mark.parametrize("kind", ["nan", "masked"])
def test_an_array_with_missing_values_is_completed_where_they_are(untrained, kind):
    values = np.random.default_rng(0).uniform(size=(20, 24, 3)).astype(np.float32)
    hole = make_mask("strokes:0.3", 20, 24).hole
    image = np.ma.masked_array(values, np.dstack([hole] * 3))
    if kind == "nan":
        image = image.filled(np.nan)
    model = Model(untrained("RGB"))
    result = model.complete(image, "auto", method="classic", steps=2)
    assert np.isfinite(result.best).all()
    assert np.array_equal(result.best[~hole], values[~hole])
    assert np.array_equal(result.mask.hole, hole)
    plain = model.complete(np.where(hole[..., None], np.float32(0), values), Mask(~hole), method="classic", steps=2)  # fmt: skip
    assert np.array_equal(result.best, plain.best)


def test_completing_a_completed_image_changes_nothing_outside_the_hole(untrained):
    model, mask = untrained(), make_mask("center", 16, 16)
    (once,) = complete(model, [noise("L", 16, 16)], [mask])
    (twice,) = complete(model, [once.best], [mask])
    assert np.array_equal(np.asarray(once.best)[mask.known], np.asarray(twice.best)[mask.known])


def test_completion_changes_no_statistic_of_the_networks(untrained):
    model = untrained()
    before = {name: value.clone() for name, value in model.discriminator.state_dict().items()}
    complete(model, [noise("L", 16, 16)], [make_mask("center", 16, 16)])
    assert all(
        torch.equal(before[name], value) for name, value in model.discriminator.state_dict().items()
    )


def test_what_lies_in_the_hole_does_not_matter(untrained):
    mask = make_mask("center", 16, 16)
    image = np.asarray(noise("L", 16, 16))
    other = np.where(mask.hole, 255 - image, image)
    first, second = (complete(untrained(), [each], [mask])[0] for each in (image, other))
    assert np.array_equal(np.asarray(first.best), np.asarray(second.best))


def test_snapshots_are_kept_at_the_steps_asked_for(untrained):
    (result,) = complete(
        untrained(), [noise("L", 16, 16)], [make_mask("center", 16, 16)], snapshots=(0, 3, 6, 99)
    )
    assert list(result.snapshots) == [0, 3, 6]
    assert result.captions() == ["original", "masked", "after 0", "after 3", "after 6", "completed"]
    assert len(result.row()) == 6


def test_candidates_are_ranked_and_as_many_as_asked(untrained):
    (result,) = complete(
        untrained(), [noise("L", 16, 16)], [make_mask("half", 16, 16)], candidates=5
    )
    assert len(result.candidates) == 5
    assert len({candidate.z.tobytes() for candidate in result.candidates}) == 5


def test_the_answer_has_the_type_it_was_given(untrained, tmp_path):
    model = Model(untrained(), "cpu")
    image = noise("L", 16, 16)
    image.save(tmp_path / "a.PNG")
    array = np.asarray(image)
    assert isinstance(model.complete(image, "center", method="classic", steps=2).best, Image.Image)
    assert isinstance(
        model.complete(tmp_path / "a.PNG", "center", method="classic", steps=2).best, Image.Image
    )
    for given in (array, array[..., None], array.astype(np.uint16) * 257):
        best = model.complete(given, "center", method="classic", steps=2).best
        assert (best.shape, best.dtype) == (given.shape, given.dtype)
    assert (
        model.complete(image, "center", method="classic", steps=2)
        ._repr_png_()
        .startswith(b"\x89PNG")
    )


def test_the_published_methods_keep_their_published_numbers():
    yeh, seed = METHODS["yeh"], METHODS["classic"]
    assert (yeh.steps, yeh.solver, yeh.latent_clip, yeh.init_pool, yeh.restarts) == (
        1500,
        "adam",
        1.0,
        0,
        1,
    )
    assert (yeh.contextual.__name__, yeh.weight_window, yeh.min_weight) == ("contextual_l1", 7, 0)
    assert (yeh.perceptual.__name__, yeh.lambda_perceptual, yeh.blend) == (
        "yeh_prior",
        0.003,
        "poisson",
    )
    assert (seed.steps, seed.solver, seed.learning_rate, seed.latent_clip) == (
        1000,
        "nesterov",
        0.01,
        1.0,
    )
    assert (seed.contextual.__name__, seed.weight_window, seed.min_weight) == (
        "contextual_squared",
        0,
        1,
    )
    assert (seed.contextual_weight, seed.lambda_perceptual, seed.blend) == (0.999, 0.001, "paste")
    assert (seed.init_pool, seed.restarts, yeh.contextual_weight) == (0, 1, 1)


@pytest.mark.parametrize(
    ("name", "solver", "rate", "steps", "contextual", "prior", "window", "blend", "draw", "clip"),
    [
        ("bamos", "adam", 0.01, 1000, "contextual_l1", 0.1, 0, "paste", "uniform", 1),
        ("moodoki", "nesterov", 3e-4, 3000, "contextual_l1", 0.2, 15, "poisson", "normal", 1),
        ("chengbinjin", "nesterov", 0.01, 1500, "contextual_l1", 3, 7, "poisson", "normal", 1),
        ("csgm", "adam", 0.1, 500, "contextual_mean_squared", 0, 0, "paste", "normal", np.inf),
        ("surgery", "lbfgs", 0.1, 500, "contextual_mean_squared", 0, 0, "paste", "clamped normal", np.inf),
    ],
)  # fmt: skip
def test_the_other_published_methods_do_too(
    name, solver, rate, steps, contextual, prior, window, blend, draw, clip
):
    method = METHODS[name]
    assert (method.solver, method.learning_rate, method.steps) == (solver, rate, steps)
    assert (method.contextual.__name__, method.lambda_perceptual) == (contextual, prior)
    assert (method.weight_window, method.blend, method.init_distribution) == (window, blend, draw)
    assert (method.latent_clip, method.init_pool, method.inpainter) == (clip, 0, "never")
    if prior:
        assert method.perceptual.__name__ == "nonsaturating_prior"
    assert method.restarts == {"csgm": 2, "surgery": 3}.get(name, 1)
    assert method.decay == (0.95 if name == "chengbinjin" else 1)
    terms = [(term.__name__, weight) for term, weight in method.terms]
    assert terms == ([("latent_norm", 0.001)] if name == "csgm" else [])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Mask(np.zeros((16, 16), bool)), "no known pixel"),
        (make_mask("center", 16, 17), "17 x 16"),
    ],
)
def test_masks_that_do_not_fit_are_refused(untrained, mask, message):
    with pytest.raises(MaskError, match=message):
        complete(untrained(), [noise("L", 16, 16)], [mask])


@pytest.mark.parametrize("view", ["whole", "window"])
def test_an_image_of_which_nothing_is_missing_comes_back_as_it_is_and_stops_no_other(
    untrained, view
):
    images = [noise("LA", 16, 20), noise("RGB", 37, 31), noise("L", 16, 16)]
    whole = Mask(np.ones((37, 31), bool))
    masks = [make_mask("center", 16, 20), whole, make_mask("center", 16, 16)]
    results = complete(untrained(), images, masks, view=view, candidates=2)
    assert np.array_equal(np.asarray(results[1].best), np.asarray(images[1]))
    assert results[1].warnings == ("nothing is missing",)
    assert results[1].record()["loss"] == 0
    assert results[1].sheet().width > 0
    for number in (0, 2):
        (alone,) = complete(untrained(), [images[number]], [masks[number]], view=view, candidates=2)
        assert np.array_equal(np.asarray(results[number].best), np.asarray(alone.best))
    (only,) = complete(untrained(), [images[1]], [whole], view=view)
    assert np.array_equal(np.asarray(only.best), np.asarray(images[1]))


@pytest.mark.parametrize("view", ["whole", "window"])
def test_a_batch_mixes_modes_and_sizes_and_depths(untrained, view):
    shapes = [(16, 16), (37, 31), (20, 50), (64, 64), (9, 12), (32, 32), (70, 24)]
    images = [noise(mode, *shape) for mode, shape in zip(MODES, shapes, strict=True)]
    masks = [make_mask("strokes:0.3", *shape) for shape in shapes]
    for result, image, mask in zip(complete(untrained("RGBA"), images, masks, view=view), images, masks, strict=True):  # fmt: skip
        assert (result.best.mode, result.best.size) == (image.mode, image.size)
        before, after = np.asarray(image), np.asarray(result.best)
        assert np.array_equal(before[mask.known], after[mask.known])
        assert not np.array_equal(before, after)


def test_a_mask_of_more_than_95_percent_warns_and_goes_on(untrained):
    shape = (16, 16)
    images = [noise("L", *shape)] * 2
    much, little = complete(untrained(), images, [make_mask("random:0.96", *shape), make_mask("random:0.94", *shape)])  # fmt: skip
    assert much.warnings == ("96.1% is missing: there is little to go by",)
    assert much.record()["warnings"] == list(much.warnings)
    assert not np.array_equal(np.asarray(much.best), np.asarray(images[0]))
    assert little.warnings == ()


def test_a_hole_finer_than_the_models_pixels_warns_where_it_is_not_looked_at_closely(untrained):
    image, hole = noise("L", 160, 160), np.zeros((160, 160), bool)
    hole[34:38, 71:75] = True
    for view, count in (("whole", 1), ("window", 0)):
        (result,) = complete(untrained(), [image], [Mask(~hole)], view=view)
        assert len([words for words in result.warnings if "finer" in words]) == count


@pytest.mark.parametrize("knobs", [{"candidates": 0}, {"seconds": 0}, {"batch": 0}])
def test_none_of_what_there_must_be_one_of_is_refused_by_its_name(knobs):
    with pytest.raises(SettingsError, match=rf"^{next(iter(knobs))} = 0"):
        CompletionOptions(METHODS["default"], **knobs)


def test_unknown_methods_are_refused_with_the_names_there_are():
    with pytest.raises(SettingsError, match="did you mean yeh"):
        find_method("yhe")


@pytest.mark.parametrize(
    ("dtype", "shape", "view"),
    [
        (np.float16, (20, 24), "whole"),
        (np.float32, (20, 24), "window"),
        (np.float64, (20, 24, 1), "whole"),
        (np.float16, (20, 24, 3), "window"),
        (np.float32, (20, 24, 3), "whole"),
        (np.float64, (20, 24, 4), "window"),
    ],
)
def test_floats_between_0_and_1_come_back_as_they_were_around_a_hole_filled_in_kind(untrained, dtype, shape, view):  # fmt: skip
    image = np.random.default_rng(0).random(shape).astype(dtype)
    image[0, 0], image[-1, -1] = 0, 1
    model = Model(untrained("RGBA"), "cpu")
    result = model.complete(image, "center", method="classic", steps=2, candidates=2, view=view)
    known = result.mask.known
    for answer in result.images:
        assert (answer.dtype, answer.shape) == (image.dtype, shape)
        assert np.array_equal(answer[known], image[known])
        assert answer.min() >= 0
        assert answer.max() <= 1
    levels = (image.astype(np.float64) * 65535).round().astype(np.uint16)
    if len(shape) == 2:  # as 16-bit grey, which it stands for
        options = {"method": "classic", "steps": 2, "candidates": 2, "view": view}
        twin = model.complete(levels, "center", **options).best
        tolerance = 1e-3 if dtype == np.float16 else 1e-6
        np.testing.assert_allclose(result.best[~known], twin[~known] / 65535, atol=tolerance)
    assert result.sheet().dtype == np.uint8
    assert result.candidates[0].picture.to_pil().size == (24, 20)
    assert np.array_equal(model.complete(image, np.zeros((20, 24), bool)).best, image)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 5, 3), np.inf, np.float32), r"in \[0, 1\], and these reach from inf to inf"),
        (np.linspace(0, 255, 16).reshape(4, 4), r"in \[0, 1\], and these reach from 0 to 255"),
        (np.linspace(-1, 1, 16).reshape(4, 4), r"in \[0, 1\], and these reach from -1 to 1"),
        (np.zeros((4, 4), np.int64), "floats in"),
        (np.zeros((4, 4), complex), "floats in"),
    ],
)
def test_arrays_of_other_ranges_and_kinds_are_refused_in_words(array, words):
    with pytest.raises(ImageError, match=words):
        open_image(array)


def test_all_names_of_the_public_face_resolve():
    assert all(getattr(pixmend, name) is not None for name in pixmend.__all__)
