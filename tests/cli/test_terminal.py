"""What reaches the terminal: lost output costs no work, names forge no lines, signals stop."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pixmend.cli.terminal import escape, progress_bar, stderr, stdout, stop_on_signal
from pixmend.models import save_model

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def world(untrained, tmp_path_factory):
    """Return a folder with a model and three images."""
    folder = tmp_path_factory.mktemp("world")
    save_model(untrained("RGB"), folder / "m.safetensors")
    (folder / "in").mkdir()
    for name in "abc":
        noise = np.random.default_rng(ord(name)).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(folder / "in" / f"{name}.png")
    return folder


def command(*arguments):
    return [sys.executable, "-m", "pixmend", *map(str, arguments)]


def completing(world, out):
    options = ("--mask", "center", "--method", "classic", "--steps", 2, "--batch", 1, "--json")
    return command("complete", world / "m.safetensors", world / "in", "--out", out, *options)


def completed(out):
    lines = (out / "results.jsonl").read_text().splitlines()
    return [json.loads(line)["output"] for line in lines]


# Lost output


@pytest.mark.parametrize("verb", ["--version", "--help", "complete"])
def test_a_full_disk_behind_stdout_is_one_line_and_the_work_is_done(world, tmp_path, verb):
    arguments = {"complete": completing(world, tmp_path)}
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            arguments.get(verb, command(verb)), env=ENVIRONMENT, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-1].startswith("error: standard output: cannot be written")
    assert "Traceback" not in ran.stderr
    if verb == "complete":
        assert completed(tmp_path) == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("verb", "joined"),
    [
        ("--help", False),
        ("--help", True),
        ("doctor", True),
        ("complete", False),
        ("complete", True),
    ],
)
def test_a_closed_pipe_is_no_error_and_the_work_goes_on(world, tmp_path, verb, joined):
    arguments = {"complete": completing(world, tmp_path)}
    reading, writing = os.pipe()
    os.close(reading)
    ran = subprocess.run(
        arguments.get(verb, command(verb)), env=ENVIRONMENT, stdout=writing,
        stderr=writing if joined else subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(writing)
    assert ran.returncode == 0
    assert not {"error:", "Traceback"} & set((ran.stderr or "").split())
    if verb == "complete":
        assert completed(tmp_path) == ["a.png", "b.png", "c.png"]


def test_records_reach_a_pipe_while_the_bar_is_on_a_terminal(world, tmp_path):
    main, terminal = pty.openpty()
    with subprocess.Popen(
        completing(world, tmp_path), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=terminal, text=True,
    ) as running:  # fmt: skip
        lines = running.stdout.read().splitlines()
    os.close(terminal)
    os.close(main)
    assert [json.loads(line)["output"] for line in lines] == completed(tmp_path)


@pytest.mark.parametrize("width", [80, 100, 149, 150, 240])
def test_a_bar_of_any_width_shows_its_count_its_times_and_all_of_its_note(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    note = "s, step 11,460, 1,205 images/s, loss of D 0.06, G 3.53"
    with stderr.capture() as captured, progress_bar() as bar:
        task = bar.add_task("training", total=12_000, note=note)
        bar.update(task, completed=11_000)
    shown = captured.get().split()
    words = ["training", "11000/12000", "elapsed", "0:00:00", "eta", *note.split()]
    assert [word for word in words if word not in shown] == []


# Names


@given(st.text())
def test_an_escaped_text_is_one_printable_line_and_printable_text_is_itself(text):
    escaped = escape(text)
    assert escaped.isprintable()
    assert escape(escaped) == escaped
    if text.isprintable():
        assert escaped == text


def test_names_neither_colour_the_terminal_nor_forge_a_line(program, world, tmp_path):
    name = "\x1b]0;title\x07\x1b[31mred\nerror: forged\u202egnp.png"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text("a text")
    bad = tmp_path / "in" / name
    options = ("--out", tmp_path / "out", "--mask", "center")
    for arguments in (
        ("complete", world / "m.safetensors", tmp_path / "in", *options),
        ("complete", bad, world / "in", *options),
        ("pack", tmp_path / "in", tmp_path / "records"),
        ("info", bad),
    ):
        ran = program(*arguments)
        assert ran.code == 2
        assert not set(ran.out + ran.err) & {"\x1b", "\x07", "\u202e"}
        assert not [line for line in ran.err.splitlines() if line.startswith("error: forged")]
    assert r"\x1b[31mred\nerror: forged" in ran.err


def test_both_consoles_escape(capsys):
    stdout.print("a\x1b[31mb\nc")
    stderr.print("a\x1b[31mb\nc")
    assert capsys.readouterr() == (r"a\x1b[31mb\nc" + "\n",) * 2


# Signals and memory


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_ask_to_stop_and_their_handlers_come_back(number):
    before = signal.getsignal(number)
    with stop_on_signal() as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), number)
        assert should_stop()
    assert signal.getsignal(number) == before


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as should_stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not should_stop()
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("size", [10**15, None])
def test_no_memory_is_one_line_and_other_errors_of_torch_are_bugs(program, monkeypatch, size):
    import torch

    monkeypatch.setattr("pixmend.api.load", lambda *_, **__: torch.empty(size or -1))
    arguments = ("sample", "characters", "--out", "grid.png")
    if size is None:
        with pytest.raises(RuntimeError, match="negative"):
            program(*arguments)
    else:
        ran = program(*arguments)
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        assert "out of memory" in ran.err


def test_a_current_folder_that_is_gone_is_told_in_a_line(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    program = "import os, sys; os.rmdir(os.getcwd()); from pixmend.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "info", "x"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: the current folder is gone; change to another one\n"
