"""The worker alone: queue bounds, batches, and memory when idle."""

import ctypes
import math
import threading
import time
import weakref
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from pixmend.completion import METHODS, CompletionOptions
from pixmend.serve import Limits
from pixmend.serve.catalogue import ServedModel
from pixmend.serve.prometheus import Metrics
from pixmend.serve.requests import CompletionRequest
from pixmend.serve.security import Problem
from pixmend.serve.worker import _IS_GLIBC, Work, Worker, release_memory
from tests.serve.test_api import until


def resident_memory():
    """Return resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not _IS_GLIBC,
    reason="only glibc keeps freed memory, and only there is it asked to give it back",
)
def test_memory_freed_inside_goes_back_to_the_system():
    library = ctypes.CDLL(None)
    library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    # Small enough to come from the heap; the last one stays and holds the heap's end up.
    blocks = [library.malloc(64_000) for _ in range(1_600)]
    for block in blocks:
        ctypes.memset(block, 1, 64_000)
    for block in blocks[:-1]:
        library.free(block)
    before = resident_memory()
    release_memory()
    assert before - resident_memory() > 50e6
    library.free(blocks[-1])


class Model:
    """Returns its tasks, and records them and whether it was asked to stop."""

    def __init__(self):
        self.asked, self.stopped = [], []

    def complete_tasks(self, jobs, options, *, on_preview, should_stop):
        self.asked.append((jobs, options))
        self.stopped.append(should_stop())
        return iter(jobs)


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def worker():
    """Return a factory of workers that are not started."""
    made = []

    def make(**limits):
        made.append(Worker(Limits(**limits), Metrics()))
        return made[-1]

    yield make
    for each in made:
        if each.alive:
            each.close()


def work_of(model, number, *, deadline=math.inf, **options):
    options = CompletionOptions(METHODS["classic"], **options)
    return Work(
        CompletionRequest(ServedModel("any", model), number, options, False, "", 0), deadline
    )


def test_only_what_is_asked_alike_is_completed_together(worker, model):
    busy = worker()
    kinds = ({"seed": 0}, {"seed": 1}, {"seed": 0}, {"seconds": 1.0}, {"seconds": 1.0})
    works = [work_of(model, number, **kind) for number, kind in enumerate(kinds)]
    for each in works:
        busy.submit(each)
    busy.start()
    assert [each.answer.result(30) for each in works] == [0, 1, 2, 3, 4]
    assert [jobs for jobs, _ in model.asked] == [[0, 2], [1], [3], [4]]
    assert [options for _, options in model.asked] == [
        works[n].request.options for n in (0, 1, 3, 4)
    ]


def test_what_waited_past_its_deadline_is_refused_and_never_begun(worker, model):
    busy, late, other = (
        worker(),
        work_of(model, 0, deadline=time.monotonic() - 1),
        work_of(model, 1),
    )
    for each in (late, other):
        busy.submit(each)
    busy.start()
    assert other.answer.result(30) == 1
    with pytest.raises(Problem, match="too busy") as told:
        late.answer.result(30)
    assert told.value.status == 503
    assert [jobs for jobs, _ in model.asked] == [[1]]


@pytest.mark.parametrize("why", ["deadline", "cancelled", "leaving", None])
def test_a_search_is_told_to_stop_when_nobody_wants_more_of_it(worker, model, why):
    busy, work = worker(), work_of(model, 0)
    asked = model.complete_tasks

    def complete_tasks(jobs, options, **more):  # it happens while the search runs
        if why == "deadline":
            work.deadline = time.monotonic() - 1
        elif why == "leaving":
            busy.drain(-1)
        elif why is not None:
            work.cancelled = True
        return asked(jobs, options, **more)

    model.complete_tasks = complete_tasks
    busy.submit(work)
    busy.start()
    assert work.answer.result(30) == 0
    assert model.stopped == [why is not None]
    assert work.stopped == why


def test_an_answer_that_was_not_cut_is_not_told_as_one(worker, model):
    """One of a batch is late; the search goes on for the other, and both have its end."""
    busy, works = worker(), [work_of(model, number) for number in (0, 1)]
    asked = model.complete_tasks

    def complete_tasks(jobs, options, **more):
        works[0].deadline = time.monotonic() - 1
        return asked(jobs, options, **more)

    model.complete_tasks = complete_tasks
    for work in works:
        busy.submit(work)
    busy.start()
    assert [work.answer.result(30) for work in works] == [0, 1]
    assert model.stopped == [False]
    assert [work.stopped for work in works] == [None, None]


@pytest.mark.parametrize("end", [lambda work: work.expire(), lambda work: work.answer.cancel()])
def test_work_that_nobody_waits_for_is_left_at_the_next_chance(worker, model, end):
    busy, work, left = worker(), work_of(model, 0), []

    def complete_tasks(jobs, options, *, on_preview, should_stop):
        end(work)
        try:
            should_stop()
        except BaseException as error:
            left.append(error)
            raise
        return iter(jobs)

    complete, model.complete_tasks = model.complete_tasks, complete_tasks
    busy.submit(work)
    busy.start()
    until(lambda: left)
    model.complete_tasks = complete
    with pytest.raises((Problem, CancelledError)):
        work.answer.result(0)
    busy.submit(other := work_of(model, 2, seed=2))
    assert other.answer.result(30) == 2


def test_closing_does_not_wait_for_work_that_never_ends(worker, model, monkeypatch):
    monkeypatch.setattr("pixmend.serve.worker._CLOSE_SECONDS", 0.1)
    hanging, begun, end = worker(), threading.Event(), threading.Event()

    def complete_tasks(jobs, options, **more):
        begun.set()
        end.wait(60)
        return iter(jobs)

    model.complete_tasks = complete_tasks
    hanging.submit(work := work_of(model, 0))
    hanging.start()
    assert begun.wait(30)
    hanging.close()
    assert hanging.alive
    end.set()
    assert work.answer.result(30) == 0


def test_only_so_many_wait(worker, model):
    waiting = worker(queue=3)  # it has not begun
    works = [work_of(model, number) for number in range(3)]
    for each in works:
        waiting.submit(each)
    with pytest.raises(Problem, match="busy") as told:
        waiting.submit(work_of(model, 3))
    assert told.value.status == 503
    waiting.start()
    assert [each.answer.result(30) for each in works] == [0, 1, 2]
    waiting.submit(last := work_of(model, 4))
    assert last.answer.result(30) == 4


def test_a_worker_at_rest_holds_no_answer(worker, model):
    class Answer:
        pass

    model.complete_tasks = lambda jobs, options, **more: (Answer() for _ in jobs)
    resting = worker()
    resting.start()
    resting.submit(work := work_of(model, 0))
    answer = weakref.ref(work.answer.result(30))
    del work
    until = time.monotonic() + 30
    while answer() is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert answer() is None


def test_a_worker_gives_back_once_when_nobody_asks_and_goes_on(worker, model, monkeypatch):
    given, rested = [], threading.Event()

    def count():
        if threading.current_thread() is resting._thread:
            given.append(1)
            rested.set()

    monkeypatch.setattr("pixmend.serve.worker.release_memory", count)
    monkeypatch.setattr("pixmend.serve.worker._IDLE_SECONDS", 0.05)
    resting = worker()
    resting.start()
    for turn in (1, 2):
        assert rested.wait(30)
        assert not threading.Event().wait(0.3)
        assert len(given) == turn  # once is enough
        rested.clear()
        resting.submit(work := work_of(model, turn))
        assert work.answer.result(30) == turn
