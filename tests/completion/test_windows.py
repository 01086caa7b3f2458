"""Windows around holes: each missing pixel is filled once, near holes share, far ones are seen close up."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixmend.api import Model
from pixmend.completion import METHODS, CompletionOptions, Task, complete, complete_batch
from pixmend.completion.view import frame_for, windows_around
from pixmend.errors import SettingsError
from pixmend.images import open_image
from pixmend.masks import Mask, make_mask

QUICK = replace(METHODS["default"], steps=4, init_pool=32, restarts=1, blend="paste")


def noise(seed, height=16, width=16, bands=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)


def holes(*places, shape=(90, 130)):
    hole = np.zeros(shape, bool)
    for place in places:
        hole[place] = True
    return hole


FAR = holes(np.s_[5:12, 8:14], np.s_[60:70, 100:118], np.s_[80:83, 3:6])


def box(window):
    return window.rows.start, window.rows.stop, window.columns.start, window.columns.stop


def finish(model, image, hole, **options):
    options = {"method": QUICK, "view": "window", "snapshots": (), **options}
    job = Task(open_image(image), Mask(~hole))
    return complete_batch(model, [job], CompletionOptions(**options))[0]


# Which windows


@pytest.mark.parametrize("spec", ["center:0.1", "half:left", "random:0.3", "random:0.9", "grid", "strokes:0.1", "lowres:3"])  # fmt: skip
@pytest.mark.parametrize("shape", [(64, 64), (90, 41), (12, 130), (9, 7)])
def test_each_missing_pixel_is_filled_from_one_window_that_knows_something(spec, shape):
    hole = make_mask(spec, *shape).hole
    filled = np.zeros(shape, int)
    for window in windows_around(hole, 16):
        rows, columns = window.rows, window.columns
        assert 0 <= rows.start < rows.stop <= shape[0]
        assert 0 <= columns.start < columns.stop <= shape[1]
        assert not hole[rows, columns].all()
        filled[rows, columns] += window.own
    assert np.array_equal(filled, hole.astype(int))


def test_holes_far_apart_have_windows_of_twice_their_size_and_no_less_than_the_models():
    windows = windows_around(FAR, 16)
    assert [box(window) for window in windows] == [
        (47, 83, 91, 127),  # 10 x 18 missing, twice 18 around it
        (0, 16, 3, 19),  # 7 x 6, the model's 16 around it, moved inside
        (73, 89, 0, 16),
    ]


def test_holes_share_a_window_where_it_is_no_larger_than_the_largest_needs():
    near = holes(np.s_[40:43, 40:43], np.s_[44:46, 45:47], np.s_[41:42, 60:62])
    (first, second) = windows_around(near, 16)
    assert first.own.sum() == 9 + 4
    assert second.own.sum() == 2
    assert len(windows_around(near, 64)) == 1


def test_pixels_that_touch_by_a_corner_are_one_hole():
    assert len(windows_around(np.eye(40, dtype=bool), 8)) == 1
    assert len(windows_around(np.eye(40, dtype=bool)[:, ::-1], 8)) == 1


def test_an_image_no_larger_than_the_model_is_one_window():
    for shape in ((16, 16), (9, 16), (11, 5)):
        (window,) = windows_around(make_mask("random:0.3", *shape).hole, 16)
        assert box(window) == (0, shape[0], 0, shape[1])


def test_many_small_holes_make_no_more_windows_than_tiles_of_half_the_model():
    hole = make_mask("random:0.05", 256, 256).hole
    windows = windows_around(hole, 32)
    assert 20 < len(windows) < 2 * (256 / 16) ** 2
    assert {window.own.shape for window in windows} == {(32, 32)}


def test_turned_images_have_turned_windows():
    straight = {box(window) for window in windows_around(FAR, 16)}
    turned = {box(window) for window in windows_around(FAR.T, 16)}
    assert turned == {(left, right, top, bottom) for top, bottom, left, right in straight}


# What comes of them


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("blend", ["paste", "feather", "poisson"])
def test_only_the_holes_change_and_all_of_them_do(lively, fit, blend):
    image = noise(0, 90, 130)
    result = finish(lively(fit=fit), image, FAR, method=replace(QUICK, blend=blend), candidates=2)
    assert len(result.windows) == 3
    for answer in result.candidates:
        after = answer.picture.native
        assert np.array_equal(after[~FAR], image[~FAR])
        for window in result.windows:
            here = np.s_[window.rows, window.columns]
            assert (after[here] != image[here])[window.own].any(1).mean() > 0.9


def test_a_window_is_completed_as_the_image_it_cuts_out(lively):
    model, image, method = lively(), noise(0, 90, 130), replace(QUICK, restarts=3)
    result = finish(model, image, FAR, method=method)
    assert result.uncertainty.max() > 1
    for number, window in enumerate(result.windows):
        here = np.s_[window.rows, window.columns]
        alone = finish(model, image[here], FAR[here], method=method, view="whole")
        assert np.array_equal(
            result.candidates[0].picture.native[here][window.own],
            alone.candidates[0].picture.native[window.own],
        )
        assert np.array_equal(result.candidates[0].z[number], alone.candidates[0].z)
        assert np.array_equal(result.uncertainty[here][window.own], alone.uncertainty[window.own])
    assert not result.uncertainty[~FAR].any()


def test_what_lies_in_another_hole_does_not_matter(lively):
    image, other = noise(0, 90, 130), noise(1, 90, 130)
    first, second = (
        finish(lively(), each, FAR) for each in (image, np.where(FAR[..., None], other, image))
    )
    assert np.array_equal(np.asarray(first.best), np.asarray(second.best))


def test_losses_histories_and_snapshots_are_those_of_all_windows(lively):
    result = finish(lively(), noise(0, 90, 130), FAR, candidates=2, snapshots=(0, 4))
    assert result.history[-1] == pytest.approx(result.candidates[0].loss)
    assert (np.diff(result.history) <= 0).all()
    assert result.snapshots[4].shape == (16, 3 * 16, 3)
    assert result.candidates[0].z.shape == (3, 8)
    assert result.record()["windows"] == 3
    assert result.seconds > 0


def test_batches_of_any_size_give_windows_the_same_answers(lively):
    model = lively()
    jobs = [Task(open_image(noise(n, 90, 130)), Mask(~hole), str(n)) for n, hole in enumerate((FAR, FAR[::-1]))]  # fmt: skip
    together = complete_batch(model, jobs, CompletionOptions(QUICK, view="window"))
    for batch in (1, 2, 5):
        apart = complete(model, jobs, CompletionOptions(QUICK, view="window", batch=batch))
        for ours, theirs in zip(together, apart, strict=True):
            assert np.array_equal(np.asarray(ours.best), np.asarray(theirs.best))
            assert ours.candidates[0].loss == theirs.candidates[0].loss


def test_no_search_is_larger_than_the_batch_and_each_says_whose_it_is(lively):
    seen = []
    job = Task(open_image(noise(0, 90, 130)), Mask(~FAR), "a")
    options = CompletionOptions(QUICK, view="window", batch=2)
    list(complete(lively(), [job], options, on_preview=lambda preview: seen.append([each.name for each in preview.tasks])))  # fmt: skip
    assert seen == [["a", "a"]] * 5 + [["a"]] * 5


def test_a_window_sees_a_small_hole_that_the_whole_image_hides(lively):
    """One model pixel covers 8 x 8 here: whole, the model sees a shade; in a window, the hole itself."""
    hole = holes(np.s_[60:68, 60:68], shape=(128, 128))
    model = lively()
    whole, window = (
        finish(model, noise(0, 128, 128), hole, view=view) for view in ("whole", "window")
    )
    filled = [np.asarray(result.best, float)[60:68, 60:68] for result in (whole, window)]
    steps = [np.abs(np.diff(each, axis=1)).mean() for each in filled]
    assert steps[1] > 3 * steps[0]
    assert [len(set(map(tuple, each.reshape(-1, 3)))) for each in filled][1] == 64


def test_the_whole_image_is_the_default_and_other_words_are_refused(lively):
    image = noise(0, 40, 24)
    mask = make_mask("center:0.2", 40, 24)
    assert box(Model(lively(), "cpu").complete(image, mask, steps=1).windows[0]) == (0, 40, 0, 24)
    (window,) = Model(lively(), "cpu").complete(image, mask, steps=1, view="window").windows
    assert box(window) == (12, 28, 3, 19)
    with pytest.raises(SettingsError, match="whole and window"):
        Model(lively(), "cpu").complete(image, mask, view="windows")


@pytest.mark.parametrize(("shape", "spec"), [((20, 50), "half:left"), ((200, 30), "half:top"), ((64, 20), "center:0.9")])  # fmt: skip
def test_a_frame_always_shows_what_is_known(shape, spec):
    known = torch.from_numpy(make_mask(spec, *shape).known)
    for fit in ("crop", "pad", "stretch"):
        _, seen = frame_for(known, fit).view(torch.zeros(1, *shape), known, 16, torch.zeros(1))
        assert seen.sum() > 0.1 * 256 * known.float().mean()
