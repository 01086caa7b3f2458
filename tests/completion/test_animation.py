"""Watching: animations show the hole as it fills, and nothing else moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixmend.completion import (
    METHODS,
    CompletionOptions,
    Task,
    animation_frames,
    animation_steps,
    complete_batch,
)
from pixmend.images import open_image, to_pixels
from pixmend.masks import Mask, make_mask

QUICK = replace(METHODS["classic"], steps=12)


def noise(shape, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype)


def test_steps_go_from_the_first_to_the_last_further_and_further_apart():
    for steps in (0, 1, 7, 60, 1500):
        kept = animation_steps(steps)
        assert (kept[0], kept[-1]) == (0, steps)
        assert len(kept) == len(set(kept)) <= 48
    gaps = np.diff(animation_steps(1500))
    assert gaps[0] == 1
    assert gaps[-1] > 100
    assert list(animation_steps(7)) == list(range(8))


@pytest.mark.parametrize("view", ["whole", "window"])
@pytest.mark.parametrize("channels", ["L", "RGBA"])
@pytest.mark.parametrize(("shape", "dtype"), [((40, 60), np.uint16), ((40, 60, 3), np.uint8), ((40, 60, 4), np.uint8)])  # fmt: skip
def test_known_pixels_stay_and_the_hole_moves_to_the_answer(lively, view, channels, shape, dtype):
    image, hole = noise(shape, dtype), np.zeros((40, 60), bool)
    hole[3:9, 4:9] = hole[30:38, 40:55] = True
    options = CompletionOptions(
        replace(QUICK, blend="paste"), view=view, frames=(0, 3, 12), snapshots=(3,)
    )
    (result,) = complete_batch(lively(channels), [Task(open_image(image), Mask(~hole))], options)
    first, *between, last = animation_frames(result)
    assert len(between) == 3
    eight = image if dtype == np.uint8 else (image >> 8).astype(np.uint8)
    eight = eight.reshape(40, 60, -1)
    for frame in (*between, last):
        assert frame.shape == eight.shape
        assert np.array_equal(frame[~hole], eight[~hole])
    assert np.array_equal(first, result.masked)
    assert (between[0] != between[-1])[hole].mean() > 0.3
    for step, frame in zip((0, 3, 12), between, strict=True):
        stopped = replace(QUICK, blend="paste", steps=max(step, 1))
        options = CompletionOptions(stopped, view=view, frames=(step,))
        (shorter,) = complete_batch(
            lively(channels), [Task(open_image(image), Mask(~hole))], options
        )
        assert np.array_equal(list(animation_frames(shorter))[1], frame)
    # What is drawn last is the answer, but for the rounding of 8 bits.
    assert np.abs(between[-1].astype(int) - last)[hole].max() <= 1
    assert list(result.snapshots) == [3]


def test_no_frame_is_kept_where_none_is_asked_for(lively):
    job = Task(open_image(noise((16, 16))), make_mask("center", 16, 16))
    (result,) = complete_batch(lively("L"), [job], CompletionOptions(QUICK))
    assert result.frames == ()
    assert len(list(animation_frames(result))) == 2


def test_snapshots_frames_and_previews_show_the_best_of_several_searches(lively):
    model, last = lively("L"), []
    task = Task(open_image(noise((16, 16))), make_mask("center", 16, 16))
    method = replace(QUICK, restarts=4)
    options = CompletionOptions(method, snapshots=(12,), frames=(12,))
    (result,) = complete_batch(model, [task], options, on_preview=last.append)
    best = model.generator(torch.from_numpy(result.candidates[0].z)[None])
    (pixels,) = to_pixels(best)
    assert np.array_equal(result.snapshots[12], pixels)
    assert np.array_equal(result.frames[0].images[12], pixels)
    hole = task.mask.hole
    assert np.array_equal(last[-1].pictures()[0][hole], pixels[hole])
    losses = [each.loss for each in result.candidates]
    assert last[-1].losses[0] == pytest.approx(min(losses))
