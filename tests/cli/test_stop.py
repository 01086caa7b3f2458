"""Ctrl-C and a time budget on the command line."""

import json
import os
import signal

import numpy as np
import pytest
from PIL import Image
from rich.progress import Progress

from pixmend.models import save_model


@pytest.fixture
def model(untrained, tmp_path):
    save_model(untrained("RGB"), tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def inputs(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    (tmp_path / "in").mkdir()
    for name, image in zip("abc", pixels, strict=True):
        Image.fromarray(image).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def facts(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_ctrl_c_writes_the_best_so_far_and_says_so(program, model, inputs, tmp_path, monkeypatch):
    told, update = [], Progress.update

    def interrupt(self, *arguments, **values):
        told.append(values)
        if len(told) == 60:  # in the second image's search
            os.kill(os.getpid(), signal.SIGINT)
        update(self, *arguments, **values)

    monkeypatch.setattr(Progress, "update", interrupt)
    before, out = signal.getsignal(signal.SIGINT), tmp_path / "out"
    options = ("--out", out, "--method", "classic", "--steps", 50, "--batch", 1)
    ran = program("complete", "--mask", "center", model, inputs, *options)
    assert ran.code == 130
    assert "2 completed" in ran.out
    assert "stopped: kept the best results so far; 1 not started" in ran.err
    assert "Traceback" not in ran.err
    assert signal.getsignal(signal.SIGINT) == before
    first, second = facts(out)
    assert first["steps"] == 50
    assert 1 <= second["steps"] < 15
    with Image.open(inputs / "b.png") as given, Image.open(out / "b.png") as found:
        assert np.array_equal(np.asarray(given)[:4], np.asarray(found)[:4])
        assert not np.array_equal(np.asarray(given), np.asarray(found))
    assert not (out / "c.png").exists()


def test_a_time_budget_completes_all_images(program, model, inputs, tmp_path):
    options = ("--out", tmp_path / "out", "--seconds", 0.05, "--batch", 2, "--method", "surgery")
    assert program("complete", "--mask", "center", model, inputs, *options).code == 0
    assert len(facts(tmp_path / "out")) == 3


@pytest.mark.parametrize("seconds", ["0", "-2", "nan"])
def test_an_invalid_time_budget_is_refused_in_one_line(program, model, inputs, tmp_path, seconds):
    ran = program(
        "complete",
        "--mask",
        "center",
        model,
        inputs,
        "--out",
        tmp_path / "out",
        f"--seconds={seconds}",
    )
    assert ran.code == 2
    assert ran.err.startswith("error: seconds = ")
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
