"""A run loses nothing: it resumes to the same weights, bit for bit, however it ended."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from pixmend.errors import RunError
from pixmend.images import encode_png, open_image
from pixmend.models import load_model, read_tensors
from pixmend.records import PackSettings, Records, pack
from pixmend.training import RunDirectory, train
from tests.training.conftest import ALL_OPTIONS, INPAINTER, TINY

EVERYTHING = {**ALL_OPTIONS, **INPAINTER}


def final_tensors(run):
    newest = max(RunDirectory(run).checkpoints.glob("*.safetensors"))
    return read_tensors(newest, kind="checkpoint")


def assert_same_end(run, other):
    ours, header = final_tensors(run)
    theirs, other_header = final_tensors(other)
    assert (header["step"], header["images"]) == (other_header["step"], other_header["images"])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert RunDirectory(run).model.read_bytes() == RunDirectory(other).model.read_bytes()


def test_a_run_leaves_all_that_it_promises(whole):
    run = RunDirectory(whole)
    assert [path.name for path in sorted(run.checkpoints.iterdir())] == [
        "step-00000004.safetensors",
        "step-00000008.safetensors",
        "step-00000010.safetensors",
    ]
    assert [path.name for path in sorted(run.samples.iterdir())] == [
        "step-00000004.png",
        "step-00000008.png",
        "step-00000010.png",
    ]
    lines = [json.loads(line) for line in run.log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert {"images", "seconds", "images_per_second", "loss_d", "loss_g"} <= lines[0].keys()
    assert open_image(run.animation).width == open_image(run.samples / "step-00000010.png").width
    model = load_model(whole)
    assert model.card["steps"] == 10
    assert model.card["training_images"] == 20


@pytest.mark.parametrize(
    ("changes", "cuts"),
    [
        ({}, [1, 5, 8]),
        ({"n_critic": 2, "feature_matching": 0.05, "loss": "minimax"}, [5]),
        ({"precision": "bfloat16"}, [3]),
        (EVERYTHING, [1, 5, 8]),
        ({**INPAINTER, "retrieval_images": 0}, [5]),
        ({**INPAINTER, "inpainter_steps": 2, "gradient_accumulation": 2}, [5]),
    ],
)
def test_k_steps_and_a_resume_are_n_steps(records, tiny, tmp_path, changes, cuts):
    list(train(records, tmp_path / "whole", tiny(**changes)))
    for cut in cuts:
        run, done = tmp_path / f"{cut}", []
        for now in train(records, run, tiny(**changes), should_stop=lambda: len(done) + 1 == cut):  # noqa: B023 - called in this loop alone
            done.append(now)  # noqa: PERF402 - should_stop reads it as it grows
        assert done[-1].event == "stopped"
        events = [now.event for now in train(records, run, tiny(**changes))]
        assert events[0] == "resumed"
        assert_same_end(run, tmp_path / "whole")


def test_a_run_abandoned_between_checkpoints_goes_on_from_the_last_and_logs_each_step_once(
    records, tiny, tmp_path, whole
):
    steps = train(records, tmp_path / "cut", tiny())
    for _ in range(7):
        next(steps)
    steps.close()
    with RunDirectory(tmp_path / "cut").log.open("a") as file:
        file.write('{"step": 8, "ima')  # as a crash leaves it
    list(train(records, tmp_path / "cut", tiny()))
    assert_same_end(tmp_path / "cut", whole)
    lines = RunDirectory(tmp_path / "cut").log.read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8, 10]
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds), "seconds of training go on where they were"
    assert seconds[0] < 3600


def test_a_finished_run_is_left_as_it_is_and_can_be_lengthened(records, tiny, tmp_path, whole):
    before = RunDirectory(whole).model.read_bytes()
    assert [now.event for now in train(records, whole, tiny())] == ["resumed", "done"]
    assert RunDirectory(whole).model.read_bytes() == before
    list(train(records, whole, tiny(steps=12)))
    list(train(records, tmp_path / "longer", tiny(steps=12)))
    assert_same_end(whole, tmp_path / "longer")


@pytest.mark.parametrize("changes", [{"lr_schedule": "cosine"}, {"warmup": 0.2}])
def test_a_run_whose_learning_rates_depend_on_its_steps_keeps_them(
    records, tiny, tmp_path, changes
):
    list(train(records, tmp_path / "run", tiny(**changes)))
    with pytest.raises(RunError, match=r"steps \(10 there, 12 now\)"):
        list(train(records, tmp_path / "run", tiny(steps=12, **changes)))
    list(train(records, tmp_path / "run", tiny(log_every=3, **changes)))


COMMAND = [sys.executable, "-m", "pixmend"]


def command_for(data, run, steps):
    pairs = [f"{key}={value}" for key, value in {**TINY, "steps": steps, "batch_size": 64}.items()]
    return [
        *COMMAND,
        "train",
        str(data),
        str(run),
        *(part for pair in pairs for part in ("--set", pair)),
    ]


def wait_for_checkpoint(process, run, after):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
        if names and names[-1] > after:
            return names[-1]
        assert process.poll() is None, "the run ended before it was killed"
        time.sleep(0.01)
    raise AssertionError("no checkpoint came")


def test_sigterm_saves_says_so_and_the_same_command_goes_on(record_folder, tmp_path):
    command = command_for(record_folder, tmp_path / "run", 100_000)
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for_checkpoint(process, tmp_path / "run", "")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in said
    assert "Traceback" not in said
    _, header = final_tensors(tmp_path / "run")
    assert f"stopped at step {header['step']}" in said.replace(",", "")


def test_a_damaged_newest_checkpoint_is_passed_over(records, tiny, whole, tmp_path):
    run = RunDirectory(whole)
    newest = max(run.checkpoints.iterdir())
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    first = next(iter(train(records, whole, tiny())))
    assert (first.event, first.step) == ("resumed", 8)


def test_the_step_comes_from_the_checkpoint_not_from_its_name(records, tiny, whole):
    folder = RunDirectory(whole).checkpoints
    (folder / "step-00000004.safetensors").rename(folder / "step-99999999.safetensors")
    assert next(iter(train(records, whole, tiny()))).step == 10


def test_a_run_of_other_settings_is_refused_with_their_names(records, tiny, whole):
    with pytest.raises(RunError, match=r"learning_rate \(0.0002 there, 0.001 now\)"):
        list(train(records, whole, tiny(learning_rate=1e-3)))


def test_a_run_on_other_images_is_refused(tiny, whole, tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "a.png").write_bytes(encode_png(np.zeros((16, 16, 1), np.uint8)))
    pack(tmp_path / "others", tmp_path / "packed", PackSettings(size=16, channels="L"), workers=1)
    with pytest.raises(RunError, match="other images"):
        list(train(Records(tmp_path / "packed"), whole, tiny()))


def test_two_processes_cannot_train_one_run(records, tiny, tmp_path):
    first = train(records, tmp_path / "run", tiny())
    next(first)
    with pytest.raises(RunError, match="another process"):
        next(train(records, tmp_path / "run", tiny()))
    first.close()
    next(train(records, tmp_path / "run", tiny()))


def test_a_folder_that_holds_something_else_is_refused(records, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_text("")
    with pytest.raises(RunError, match="choose another folder"):
        list(train(records, tmp_path / "run", tiny()))


def test_fewer_images_than_a_batch_train(records, tiny, tmp_path):
    *_, last = train(records, tmp_path / "run", tiny(batch_size=64, steps=2))
    assert (last.step, last.images) == (2, 128)


def test_only_the_last_checkpoints_are_kept(records, tiny, tmp_path):
    list(train(records, tmp_path / "run", tiny(checkpoint_every=2, keep_checkpoints=2)))
    names = sorted(path.name for path in RunDirectory(tmp_path / "run").checkpoints.iterdir())
    assert names == ["step-00000008.safetensors", "step-00000010.safetensors"]


def test_streaming_from_the_shards_gives_the_run_that_memory_gives(
    records, tiny, tmp_path, monkeypatch, whole
):
    monkeypatch.setattr(Records, "load_all", lambda *_, **__: None)
    list(train(records, tmp_path / "run", tiny()))
    assert_same_end(tmp_path / "run", whole)


def test_the_seed_decides(records, tiny, tmp_path, whole):
    list(train(records, tmp_path / "other", tiny(seed=1)))
    ours, theirs = final_tensors(whole)[0], final_tensors(tmp_path / "other")[0]
    assert not torch.equal(ours["generator.project.weight"], theirs["generator.project.weight"])
