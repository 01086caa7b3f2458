"""The average answer and the uncertainty: what they are a mean and a variance of."""

from dataclasses import replace

import numpy as np
import pytest

from pixmend.completion import METHODS, CompletionOptions, Task, complete_batch
from pixmend.errors import SettingsError
from pixmend.images import open_image
from pixmend.masks import make_mask

SEARCH = replace(METHODS["default"], steps=5, init_pool=32, restarts=3, blend="paste")


def jobs(count=3):
    pixels = np.random.default_rng(2).integers(0, 256, (count, 16, 16, 3), np.uint8)
    return [
        Task(open_image(each), make_mask("strokes:0.4", 16, 16, seed=number), str(number))
        for number, each in enumerate(pixels)
    ]


def test_a_search_is_uncertain_where_its_restarts_differ(lively):
    (result,) = complete_batch(lively("RGB"), jobs(1), CompletionOptions(SEARCH, candidates=3))
    restarts = np.stack([each.picture.pixels.astype(float) for each in result.candidates])
    expected = restarts.std(0).mean(-1)
    hole = result.mask.hole
    # Root of the mean variance, against the mean of deviations: as near as channels are alike.
    assert np.corrcoef(result.uncertainty[hole], expected[hole])[0, 1] > 0.95


def test_the_average_of_a_search_is_the_mean_of_its_restarts(lively):
    model = lively("RGB")
    (sharp,) = complete_batch(model, jobs(1), CompletionOptions(SEARCH, candidates=3))
    (result,) = complete_batch(model, jobs(1), CompletionOptions(SEARCH, answer="average"))
    lanes = np.mean([each.picture.pixels.astype(float) for each in sharp.candidates], 0)
    assert np.abs(result.candidates[0].picture.pixels - lanes).max() <= 1
    assert [each.answer for each in result.candidates] == ["average"]
    assert {each.answer for each in sharp.candidates} == {"sharp"}
    assert np.array_equal(result.uncertainty, sharp.uncertainty)


def test_the_average_comes_first_and_draws_after_it(lively):
    (result,) = complete_batch(
        lively("RGB"), jobs(1), CompletionOptions(SEARCH, answer="average", candidates=3)
    )
    assert [each.answer for each in result.candidates] == ["average", "sharp", "sharp"]


def test_known_pixels_are_certain_and_missing_ones_are_not(lively):
    for result in complete_batch(lively("RGB"), jobs(), CompletionOptions(SEARCH)):
        assert result.uncertainty.shape == (16, 16)
        assert (result.uncertainty[result.mask.known] == 0).all()
        assert (result.uncertainty[result.mask.hole] > 0).all()
        picture = result.uncertainty_pixels()
        assert picture.dtype == np.uint8
        assert picture.shape == (16, 16, 1)


def test_an_unknown_answer_is_told():
    with pytest.raises(SettingsError, match="sharp or average"):
        CompletionOptions(SEARCH, answer="blurred")
