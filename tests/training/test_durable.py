"""What may go wrong in the middle of a run loses nothing: full disks, NaN, damage, other versions, a wish to stop."""

import errno
import json
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pixmend import training
from pixmend.errors import DivergedError, OutputError, RunError, StoppedError, VersionError
from pixmend.models import load_model
from pixmend.records import PackSettings, Records, dataset, pack
from pixmend.storage import append_line
from pixmend.training import (
    RunDirectory,
    deferred,
    monitor,
    train,
)
from pixmend.training import step as step_module
from pixmend.training.monitor import read_scores
from tests.training.test_run import assert_same_end, final_tensors

FORMAT_1 = Path(__file__).parent / "data" / "format-1"


def log_of(run):
    return [json.loads(line) for line in RunDirectory(run).log.read_text().splitlines()]


def losses_of(run):
    return [(line["step"], line["loss_d"], line["loss_g"]) for line in log_of(run)]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def disk(monkeypatch):
    """A switch: while it is set, nothing can be flushed to the disk or appended."""
    switch = {"full": False}
    real_sync, real_append = os.fsync, append_line

    def refuse():
        if switch["full"]:
            raise OSError(errno.ENOSPC, "No space left on device")

    def sync(descriptor):
        refuse()
        return real_sync(descriptor)

    def append(path, line):
        if switch["full"]:
            raise OutputError(f"{path}: cannot be written: the disk is full")
        real_append(path, line)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(training.callbacks, "append_line", append)
    return switch


@pytest.mark.parametrize("retry_seconds", [0.0, 3600.0], ids=["retried", "at the next checkpoint"])
@pytest.mark.parametrize("full_at", [{4, 5, 6}, {1, 2, 3, 4, 8}, {3, 4, 5, 6, 7, 8, 9}])
def test_a_disk_that_is_full_for_a_while_changes_no_file_in_the_end(
    records, tiny, tmp_path, whole, disk, monkeypatch, full_at, retry_seconds
):
    monkeypatch.setattr(deferred, "_RETRY_SECONDS", retry_seconds)
    warnings = []
    for now in train(records, tmp_path / "run", tiny()):
        warnings += [now.warning] if now.warning else []
        disk["full"] = now.step + 1 in full_at
        if disk["full"] and now.step > min(full_at):
            assert not list((tmp_path / "run").rglob("*.tmp"))
    assert "disk is full" in warnings[0]
    assert "all deferred writes are done" in warnings[-1]
    assert_same_end(tmp_path / "run", whole)
    assert names(RunDirectory(tmp_path / "run").samples) == names(RunDirectory(whole).samples)
    assert (
        RunDirectory(tmp_path / "run").animation.read_bytes()
        == RunDirectory(whole).animation.read_bytes()
    )
    assert losses_of(tmp_path / "run") == losses_of(whole)


def test_what_was_held_is_written_as_it_was_when_it_should_have_been(
    records, tiny, tmp_path, disk, monkeypatch
):
    monkeypatch.setattr(deferred, "_RETRY_SECONDS", 0.0)
    for now in train(records, tmp_path / "run", tiny()):
        disk["full"] = now.step in (3, 4, 5)
        if now.step == 7:
            break
    list(train(records, tmp_path / "other", tiny(steps=4)))
    ours, theirs = final_tensors(tmp_path / "run"), final_tensors(tmp_path / "other")
    assert ours[1]["step"] == theirs[1]["step"] == 4
    assert all(torch.equal(value, theirs[0][name]) for name, value in ours[0].items())


def test_a_disk_that_stays_full_is_an_error_at_the_end_and_the_run_resumes(
    records, tiny, tmp_path, whole, disk
):
    steps = []

    def run():
        for now in train(records, tmp_path / "run", tiny()):
            steps.append(now.step)
            disk["full"] = now.step >= 5

    with pytest.raises(OutputError, match="disk is full"):
        run()
    assert steps[-1] == 10, "training went on to the end"
    assert not list((tmp_path / "run").rglob("*.tmp"))
    assert final_tensors(tmp_path / "run")[1]["step"] == 4
    disk["full"] = False
    assert next(iter(train(records, tmp_path / "run", tiny()))).step == 4
    list(train(records, tmp_path / "run", tiny()))
    assert_same_end(tmp_path / "run", whole)


def test_a_full_disk_from_the_program_is_one_line_and_exit_code_2(
    program, record_folder, tmp_path, disk, monkeypatch
):
    real = step_module.generator_step

    def fill(state, *rest):
        disk["full"] = state.step >= 5
        return real(state, *rest)

    monkeypatch.setattr(step_module, "generator_step", fill)
    pairs = ("size=16", "channels=L", "filters=4", "batch_size=8", "steps=8", "checkpoint_every=4")
    sets = [part for pair in (*pairs, "device=cpu") for part in ("--set", pair)]
    ran = program("train", record_folder, tmp_path / "run", *sets)
    assert ran.code == 2
    lines = ran.err.splitlines()
    assert [line for line in lines if line.startswith("warning: ") and "training goes on" in line]
    assert lines[-1].startswith("error: ")
    assert "disk is full" in lines[-1]
    assert "Traceback" not in ran.err


def test_a_line_that_does_not_fit_is_taken_back(tmp_path):
    path = tmp_path / "log"
    append_line(path, "whole")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OutputError, match="log: cannot be written"):
            append_line(path, "a line that fits in part")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "whole\n"


# Values that are not finite


@pytest.fixture
def poison(monkeypatch):
    """Make the real images, or G's latents, NaN in the steps chosen by (step, rollbacks)."""

    def choose(when, *, player="D"):
        real_d, real_g = step_module.discriminator_step, step_module.generator_step

        def d(state, real, z, *rest):
            bad = player == "D" and when(state.step, state.rollbacks)
            return real_d(state, real * float("nan") if bad else real, z, *rest)

        def g(state, fakes, *rest):
            bad = player == "G" and when(state.step, state.rollbacks)
            return real_g(state, fakes * float("nan") if bad else fakes, *rest)

        monkeypatch.setattr(step_module, "discriminator_step", d)
        monkeypatch.setattr(step_module, "generator_step", g)

    return choose


@pytest.mark.parametrize("player", ["D", "G"])
def test_an_update_that_is_not_finite_is_left_out_and_counted(
    records, tiny, tmp_path, poison, player
):
    poison(lambda step, _: step in (0, 5), player=player)
    done = list(train(records, tmp_path / "run", tiny()))
    assert [now.step for now in done if now.warning] == [1, 6]
    assert "update skipped" in done[0].warning
    tensors, header = final_tensors(tmp_path / "run")
    assert (header["skipped"], header["skipped_in_row"], header["rollbacks"]) == (2, 0, 0)
    assert all(torch.isfinite(value).all() for value in tensors.values())
    updates = {
        name: int(tensors[f"{name}_optimiser.{weight}.step"])
        for name, weight in (
            ("discriminator", "to_logit.weight"),
            ("generator", "to_image.weight"),
        )
    }
    left_out = {"D": "discriminator", "G": "generator"}[player]
    assert updates == {"discriminator": 10, "generator": 10} | {left_out: 8}
    assert [line["skipped"] for line in log_of(tmp_path / "run")] == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("player", ["D", "G"])
def test_a_step_left_out_leaves_that_player_as_it_was(records, tiny, tmp_path, poison, player):
    list(train(records, tmp_path / "four", tiny(steps=4)))
    poison(lambda step, _: step == 4, player=player)
    list(train(records, tmp_path / "five", tiny(steps=5)))
    before, after = final_tensors(tmp_path / "four")[0], final_tensors(tmp_path / "five")[0]
    prefix = {"D": "discriminator", "G": "generator"}[player]
    mine = [name for name in before if name.startswith((f"{prefix}.", f"{prefix}_optimiser."))]
    assert mine
    assert all(torch.equal(before[name], after[name]) for name in mine)


@pytest.mark.parametrize("cut", [1, 5, 6, 8])
def test_skipped_steps_resume_bit_for_bit(records, tiny, tmp_path, poison, cut):
    poison(lambda step, _: step in (0, 4, 5, 6))
    list(train(records, tmp_path / "whole", tiny()))
    done = []
    for now in train(records, tmp_path / "cut", tiny(), should_stop=lambda: len(done) + 1 == cut):
        done.append(now)  # noqa: PERF402 - should_stop reads it as it grows
    list(train(records, tmp_path / "cut", tiny()))
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_many_in_a_row_take_the_run_back_once_and_other_draws_follow(
    records, tiny, tmp_path, poison, whole
):
    poison(lambda step, rollbacks: step >= 5 and rollbacks == 0)
    done = list(train(records, tmp_path / "run", tiny(steps=14)))
    # Five bad steps, 6 to 10, one of which was to be saved: what is finite in it is.
    (back,) = [now for now in done if now.event == "rolled back"]
    assert back.step == 8
    assert "5 steps in a row" in back.warning
    _, header = final_tensors(tmp_path / "run")
    assert (header["step"], header["rollbacks"]) == (14, 1)
    assert [line["step"] for line in log_of(tmp_path / "run")] == [2, 4, 6, 8, 10, 12, 14]
    assert log_of(tmp_path / "run")[-1]["rollbacks"] == 1


def test_a_rollback_before_the_first_checkpoint_starts_anew_with_other_draws(
    records, tiny, tmp_path, poison, whole
):
    poison(lambda step, rollbacks: rollbacks == 0)
    settings = tiny(checkpoint_every=10)
    done = list(train(records, tmp_path / "run", settings))
    assert [now.step for now in done if now.event == "rolled back"] == [0]
    ours, theirs = final_tensors(tmp_path / "run")[0], final_tensors(whole)[0]
    assert not torch.equal(ours["generator.project.weight"], theirs["generator.project.weight"])


def test_a_rollback_resumes_bit_for_bit_even_when_the_checkpoint_was_never_written(
    records, tiny, tmp_path, poison, disk
):
    poison(lambda step, rollbacks: step >= 8 and rollbacks == 0)
    list(train(records, tmp_path / "whole", tiny(steps=14)))
    for now in train(records, tmp_path / "run", tiny(steps=14)):
        disk["full"] = 5 <= now.step <= 12
    assert final_tensors(tmp_path / "run")[1]["rollbacks"] == 1
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_the_second_time_it_stops_with_a_clear_word_and_a_good_checkpoint(
    records, tiny, tmp_path, poison
):
    poison(lambda step, _: step >= 9)
    with pytest.raises(DivergedError, match="again after a rollback"):
        list(train(records, tmp_path / "run", tiny(steps=30)))
    tensors, _ = final_tensors(tmp_path / "run")
    assert all(torch.isfinite(value).all() for value in tensors.values())


def test_weights_that_are_not_finite_are_never_saved(records, tiny, tmp_path, monkeypatch):
    real = step_module.generator_step
    backs = []

    def broken(state, *rest):
        loss = real(state, *rest)
        if state.step == 6:
            with torch.no_grad():
                next(state.ema.parameters()).fill_(float("inf"))
        return loss

    monkeypatch.setattr(step_module, "generator_step", broken)

    def run():
        for now in train(records, tmp_path / "run", tiny()):
            backs.extend([now.step] if now.event == "rolled back" else [])

    with pytest.raises(DivergedError, match="stopped being finite"):
        run()
    assert backs == [4]
    assert final_tensors(tmp_path / "run")[1]["step"] == 4


# Samples that collapse


@pytest.fixture
def diversities(monkeypatch):
    """Let the monitor find these diversities, checkpoint by checkpoint; returns those that are still to come."""
    to_come = []
    real = monitor.Monitor.score

    def score(self, model, *, step, images):
        found = real(self, model, step=step, images=images)
        return replace(found, diversity=to_come.pop(0))

    monkeypatch.setattr(monitor.Monitor, "score", score)
    return to_come


def steps_of(run, name):
    return [int(path.stem.removeprefix("step-")) for path in sorted((run / name).iterdir())]


def test_a_collapse_takes_the_run_back_to_before_it_with_other_draws(
    records, tiny, tmp_path, diversities, whole
):
    diversities += [0.9, 0.1, 0.8, 0.7]
    done = list(train(records, tmp_path / "run", tiny(monitor=True)))
    (back,) = [now for now in done if now.event == "rolled back"]
    assert back.step == 4
    assert "diversity is 0.10, down from 0.90 at step 4; rolled back to step 4" in back.warning
    assert done[-1].event == "done"
    assert diversities == []
    assert steps_of(tmp_path / "run", "checkpoints") == [4, 8, 10]
    tensors, header = final_tensors(tmp_path / "run")
    assert (header["step"], header["rollbacks"]) == (10, 1)
    theirs = final_tensors(whole)[0]
    name = "generator.project.weight"
    assert not torch.equal(tensors[name], theirs[name])
    scored = [each.step for each in read_scores(RunDirectory(tmp_path / "run").scores)]
    assert scored == [4, 8, 10], "the collapsed checkpoint's score is gone with it"


def test_a_collapse_at_the_very_end_is_no_end(records, tiny, tmp_path, diversities):
    diversities += [0.9, 0.9, 0.1, 0.9]
    done = list(train(records, tmp_path / "run", tiny(monitor=True)))
    assert [now.step for now in done if now.event == "rolled back"] == [8]
    assert (done[-1].event, done[-1].step) == ("done", 10)
    assert diversities == []


def test_a_second_collapse_ends_the_run_with_what_was_before_it(
    records, tiny, tmp_path, diversities
):
    diversities += [0.9, 0.1, 0.1, 0.9]
    with pytest.raises(DivergedError, match=r"samples collapsed.*again after.*last checkpoint"):
        list(train(records, tmp_path / "run", tiny(monitor=True)))
    assert steps_of(tmp_path / "run", "checkpoints") == [4]
    assert load_model(RunDirectory(tmp_path / "run").model).card["steps"] == 4
    assert load_model(RunDirectory(tmp_path / "run").best).card["steps"] == 4


def test_a_collapse_with_nothing_to_go_back_to_is_told_and_training_goes_on(
    records, tiny, tmp_path, diversities
):
    diversities += [0.9, 0.1, 0.1]
    done = list(train(records, tmp_path / "run", tiny(monitor=True, keep_checkpoints=1)))
    assert "no earlier checkpoint" in next(now.warning for now in done if now.step == 8)
    assert (done[-1].event, done[-1].step) == ("done", 10)
    assert final_tensors(tmp_path / "run")[1]["rollbacks"] == 0


def test_a_checkpoint_that_collapsed_while_the_disk_was_full_is_not_written_later(
    records, tiny, tmp_path, diversities, disk
):
    diversities += [0.9, 0.1, 0.8, 0.7]
    steps = []
    for now in train(records, tmp_path / "run", tiny(monitor=True)):
        steps.append(now.step)
        disk["full"] = now.step == 7 and steps.count(7) == 1
    assert steps.count(7) == 2
    assert final_tensors(tmp_path / "run")[1]["rollbacks"] == 1


# Files: damaged, of other versions, left over


def test_checkpoints_that_are_all_damaged_are_an_error_not_a_new_start(records, tiny, whole):
    for path in RunDirectory(whole).checkpoints.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunError, match="all checkpoints are damaged"):
        list(train(records, whole, tiny()))


def test_a_checkpoint_of_a_newer_version_is_not_passed_over(records, tiny, whole):
    newest = max(RunDirectory(whole).checkpoints.iterdir())
    newest.write_bytes(newest.read_bytes().replace(b'\\"format\\": 3', b'\\"format\\": 9'))
    with pytest.raises(VersionError, match="of format 9"):
        list(train(records, whole, tiny()))


def test_a_run_of_the_last_version_is_refused_in_a_line_that_says_what_to_do(
    records, tiny, tmp_path
):
    run = RunDirectory(tmp_path / "run")
    shutil.copytree(FORMAT_1, run.path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(
        RunError, match=r"of another version of pixmend .*start a new run directory"
    ):
        next(train(records, run.path, tiny(steps=6)))
    after = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before


def test_a_model_of_the_last_version_is_read():
    model = load_model(FORMAT_1 / "model.safetensors")
    assert (model.settings.size, model.settings.filters, model.card["steps"]) == (16, 4, 4)


def test_what_a_killed_process_left_is_cleared_away(records, tiny, whole):
    for folder in (whole, whole / "checkpoints", whole / "samples"):
        (folder / ".step-00000012.safetensors.abcd_123.pixmend.tmp").write_bytes(b"half")
    list(train(records, whole, tiny()))
    assert not list(whole.rglob("*.tmp"))


def test_a_model_file_that_a_kill_left_behind_its_checkpoint_is_written_on_resume(
    records, tiny, whole, tmp_path
):
    list(train(records, tmp_path / "four", tiny(steps=4)))
    shutil.copy(RunDirectory(tmp_path / "four").model, RunDirectory(whole).model)
    list(train(records, whole, tiny()))
    assert load_model(whole).card["steps"] == 10


# A wish to stop


def test_a_wish_to_stop_is_heard_while_images_are_decoded(
    records, tiny, tmp_path, whole, monkeypatch
):
    monkeypatch.setattr(dataset, "_CHUNK", 8)
    (stopped,) = train(records, tmp_path / "run", tiny(), should_stop=lambda: True)
    assert (stopped.event, stopped.step) == ("stopped", 0)
    list(train(records, tmp_path / "run", tiny()))
    assert_same_end(tmp_path / "run", whole)


@pytest.mark.parametrize("asked", range(1, 9))
def test_a_wish_to_stop_is_heard_wherever_packing_is_and_the_same_call_goes_on(
    image_folder, record_folder, tmp_path, asked
):
    calls = []

    def should_stop():
        calls.append(1)
        return len(calls) == asked * 5

    with pytest.raises(StoppedError):
        pack(
            image_folder,
            tmp_path / "out",
            PackSettings(size=16),
            workers=1,
            should_stop=should_stop,
        )
    assert len(calls) == asked * 5
    pack(image_folder, tmp_path / "out", PackSettings(size=16, channels="L"), workers=1)
    assert Records(tmp_path / "out").digest == Records(record_folder).digest


def test_opening_records_hears_a_wish_to_stop(record_folder):
    with pytest.raises(StoppedError):
        Records(record_folder, skip_bad=True, should_stop=lambda: True)


def test_the_tiny_files_are_tiny():
    assert sum(path.stat().st_size for path in FORMAT_1.rglob("*") if path.is_file()) < 50_000
