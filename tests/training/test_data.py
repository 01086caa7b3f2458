"""Streaming: read ahead, in the order that position gives, within bounds."""

import threading

import numpy as np
import pytest

from pixmend.errors import RecordError
from pixmend.records import Records
from pixmend.training.data import ReadAhead, Shuffle
from pixmend.training.loop import train
from tests.training.test_run import assert_same_end


def reader(asked=None):
    def read(indices):
        if asked is not None:
            asked.append((threading.current_thread(), tuple(indices)))
        return np.stack([np.full((2, 3, 1), index, np.uint8) for index in indices])

    return read


@pytest.mark.parametrize("places", [range(0, 70, 7), [35, 42, 0, 7, 7, 14, 63]])
def test_a_batch_read_ahead_is_the_batch_of_its_position(places):
    order = Shuffle(20, seed=3)
    ahead = ReadAhead(reader(), Shuffle(20, seed=3).positions)
    for first in places:
        assert np.array_equal(ahead.batch(first, 7)[:, 0, 0, 0], order.positions(first, 7))


def test_reading_goes_on_in_a_thread_but_only_a_few_batches_ahead():
    asked, gate = [], threading.Event()

    def read(indices):
        pixels = reader(asked)(indices)
        if len(asked) == 4:
            gate.set()
        return pixels

    ahead = ReadAhead(read, Shuffle(1000, seed=0).positions)
    ahead.batch(0, 5)
    assert gate.wait(10), "three more batches come unasked"
    ahead.batch(5, 5)
    ahead.batch(10, 5)
    ahead.batch(500, 5)
    assert len(asked) <= 4 + 2 + 4
    assert len({indices for _, indices in asked}) == len(asked), "nothing is read twice"
    assert threading.main_thread() not in {thread for thread, _ in asked}


def test_a_broken_record_is_an_error_of_its_own_batch():
    def read(indices):
        if indices[0] == 10:
            raise RecordError("broken")
        return reader()(indices)

    ahead = ReadAhead(read, lambda first, count: np.arange(first, first + count))
    ahead.batch(0, 5)
    ahead.batch(5, 5)
    with pytest.raises(RecordError, match="broken"):
        ahead.batch(10, 5)


def test_a_streamed_run_cut_short_and_resumed_is_the_run_from_memory(
    records, tiny, tmp_path, monkeypatch
):
    list(train(records, tmp_path / "whole", tiny()))
    monkeypatch.setattr(Records, "load_all", lambda *_, **__: None)
    done = []
    for now in train(records, tmp_path / "cut", tiny(), should_stop=lambda: len(done) >= 4):
        done.append(now)  # noqa: PERF402 - should_stop reads it as it grows
    assert done[-1].event == "stopped"
    list(train(records, tmp_path / "cut", tiny()))
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_reading_many_images_gives_their_pages_back(records, monkeypatch):
    given = []
    monkeypatch.setattr(Records, "_release_pages", lambda self: given.append(self._reads))
    records.images([0, 1] * 600)
    assert len(given) in (2, 3)
    assert np.diff(given).tolist() == [512] * (len(given) - 1)
    monkeypatch.undo()
    before = records.images([3])
    records._release_pages()
    assert np.array_equal(records.images([3]), before)
