"""A server at rest: what a busy hour took is given back."""

import ctypes
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from pixmend.completion import METHODS, Options
from pixmend.serve import Limits
from pixmend.serve.memory import give_back
from pixmend.serve.metrics import Metrics
from pixmend.serve.work import Work, Worker


def resident():
    """Return resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim"
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
    before = resident()
    give_back()
    assert before - resident() > 50e6
    library.free(blocks[-1])


def test_a_worker_gives_back_once_when_nobody_asks_and_goes_on(monkeypatch):
    given, rested = [], threading.Event()

    def count():
        if threading.current_thread() is worker._thread:
            given.append(1)
            rested.set()

    monkeypatch.setattr("pixmend.serve.work.give_back", count)
    monkeypatch.setattr("pixmend.serve.work._REST_SECONDS", 0.05)
    model = SimpleNamespace(complete_jobs=lambda jobs, options, **more: iter(["done"] * len(jobs)))
    worker = Worker({"any": model}, Limits(), Metrics())
    worker.start()
    for turn in (1, 2):
        assert rested.wait(30)
        assert not threading.Event().wait(0.3)
        assert len(given) == turn  # once is enough
        rested.clear()
        work = Work(job=None, options=Options(METHODS["seed"]), model="any", deadline=float("inf"))
        worker.submit(work)
        assert work.answer.result(30) == "done"
    worker.close()
