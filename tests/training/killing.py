"""Kill a training process again and again, and say in JSON what became of it.

Each sitting is a fork of a process that has imported torch, and what its optimisers import when first used, so that thirty of them
start in no time.
"""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch._dynamo

from pixmend.records import Records
from pixmend.storage import local as local_storage
from pixmend.training import export, resolve, train
from tests.training.conftest import TINY

STEPS = 12
SETTINGS = resolve({**TINY, "steps": STEPS, "checkpoint_every": 2, "log_every": 1})


def fork(work):
    """Do ``work`` in a child and return its process id; the child ends with 0 if all went well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child, seconds=None):
    """Kill a child after ``seconds``; return whether it was still at work."""
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def sitting(records, run):
    return lambda: list(train(records, run, SETTINGS))


def at_line(number, work):
    """Return ``work`` with a kill before the ``number``-th line that `atomic_write` comes to."""
    code, passed = local_storage.atomic_write.__wrapped__.__code__, [0]

    def local(frame, event, arg):
        del frame, arg
        if event == "line":
            passed[0] += 1
            if passed[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    def traced():
        sys.settrace(lambda frame, event, arg: local if frame.f_code is code else None)
        work()

    return traced


def main(records_folder, out, kills):
    torch.set_num_threads(1)
    # Most of a tiny run would be spent in these.
    export.recompute_batchnorm = partial(export.recompute_batchnorm, batches=1, batch_size=8)
    records, out = Records(records_folder), Path(out)
    begun = time.monotonic()
    assert not ended(fork(sitting(records, out / "whole")))
    whole_seconds = time.monotonic() - begun
    print(f"a whole run takes {whole_seconds:.2f} s", file=sys.stderr)
    generator = np.random.default_rng(7)
    random, in_saves, runs = 0, 0, 0
    while random < kills:
        run = out / f"run-{runs}"
        alive = True
        while alive:
            child = fork(sitting(records, run))
            if random < kills:
                alive = ended(child, generator.uniform(0, whole_seconds / 2))
                random += alive
                in_saves += alive and bool(list(run.rglob("*.tmp")))
            else:
                alive = ended(child)
        runs += 1
    # A write of the run has about 20 lines, so these reach into settings, checkpoint, grid, animation and model.
    lines = range(1, 131, 10)
    for number in lines:
        run = out / f"line-{number}"
        assert ended(fork(at_line(number, sitting(records, run))))
        assert not ended(fork(sitting(records, run)))
    print(json.dumps({"kills": random, "in_saves": in_saves, "runs": runs, "lines": len(lines)}))
