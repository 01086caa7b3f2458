"""Searching for a time, and until somebody wants an answer; the clock is a counter, so that nothing here waits."""

import sys
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import numpy as np
import pytest

from pixmend.api import Model
from pixmend.completion import (
    METHODS,
    CompletionOptions,
    Task,
    complete,
    complete_batch,
    find_method,
)
from pixmend.completion.observer import Observer
from pixmend.errors import SettingsError
from pixmend.images import open_image
from pixmend.masks import make_mask

QUICK = {
    name: replace(method, steps=6, init_pool=min(method.init_pool, 32))
    for name, method in METHODS.items()
    if method.inpainter != "always"
}


def jobs(number=3):
    pixels = np.random.default_rng(2).integers(0, 256, (number, 16, 16, 3), np.uint8)
    mask = make_mask("center", 16, 16)
    return [Task(open_image(each), mask, str(index)) for index, each in enumerate(pixels)]


def z_of(result):
    return result.candidates[0].z.tobytes()


@pytest.fixture
def clock(monkeypatch):
    """Let a second go by at each look at the clock."""
    seconds = count()
    time = SimpleNamespace(perf_counter=lambda: next(seconds))
    for function in (complete_batch, Observer):
        monkeypatch.setattr(sys.modules[function.__module__], "time", time)


@pytest.mark.parametrize("name", QUICK)
def test_a_budget_takes_as_many_steps_as_fit_whatever_the_methods_number(lively, clock, name):
    for seconds, steps in ((0.5, 0), (4.5, 3), (12.5, 11)):
        options = CompletionOptions(replace(QUICK[name], patience=0), seconds=seconds)
        (result,) = complete_batch(lively(), jobs(1), options)
        # A look at the start, then one after each step; the last one leaves no time for another.
        assert (result.steps, len(result.history)) == (steps, steps + 1)
        assert (np.diff(result.history) <= 0).all()


def test_a_budget_shorter_than_the_search_gives_what_the_search_had_by_then(lively, clock):
    for name in ("yeh", "default", "surgery"):
        method = replace(QUICK[name], steps=40)
        (whole,) = complete_batch(lively(), jobs(1), CompletionOptions(method, snapshots=(3,)))
        (cut,) = complete_batch(
            lively(), jobs(1), CompletionOptions(method, snapshots=(3,), seconds=4.5)
        )
        assert cut.steps == 3
        assert np.array_equal(cut.history, whole.history[:4])
        assert np.array_equal(cut.snapshots[3], whole.snapshots[3])


def test_no_time_is_spent_where_there_is_nothing_to_search(lively, clock):
    method = replace(QUICK["yeh"], steps=0)
    (result,) = complete_batch(lively(), jobs(1), CompletionOptions(method, seconds=1e6))
    assert result.steps == 0


def test_who_wants_an_answer_gets_the_best_so_far_and_no_further_batch_is_begun(lively):
    options, asked, read = CompletionOptions(QUICK["classic"], batch=2), count(), []

    def given():
        for job in jobs(6):
            read.append(job.name)
            yield job

    # Asked before each batch, after each of the 7 states of a search and before each answer is blended: yes at the
    # second batch's third state.
    results = list(complete(lively(), given(), options, should_stop=lambda: next(asked) >= 13))
    assert [result.name for result in results] == ["0", "1", "2", "3"]
    assert [result.steps for result in results] == [6, 6, 2, 2]
    assert read == ["0", "1", "2", "3"]
    shorter = complete_batch(
        lively(), jobs(6)[2:4], CompletionOptions(replace(QUICK["classic"], steps=2))
    )
    assert [z_of(each) for each in results[2:]] == [z_of(each) for each in shorter]


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_seconds_that_are_no_time_are_refused_in_words(lively, seconds):
    with pytest.raises(SettingsError, match=r"seconds = .* above 0"):
        Model(lively(), "cpu").complete(jobs(1)[0].picture.to_pil(), "center", seconds=seconds)


def test_no_steps_are_refused_and_unknown_methods_are_told_the_names():
    for name in METHODS:
        with pytest.raises(SettingsError, match="steps = 0"):
            find_method(name, steps=0)
    with pytest.raises(SettingsError, match="bamos, chengbinjin, moodoki") as told:
        find_method("surgry")
    assert "did you mean surgery?" in str(told.value)
    assert all(name in str(told.value) for name in METHODS)
