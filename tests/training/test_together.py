"""Several processes train one run as one process would, and end together, whoever fails."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pixmend.distributed import SINGLE_PROCESS, Group, open_group
from pixmend.errors import SettingsError
from pixmend.records import Records
from pixmend.training import RunDirectory, read_recipe, resolve, step, train
from pixmend.training.data import BatchLoader
from pixmend.training.data_parallel import SynchronisedBatchNorm2d, check_shares
from pixmend.training.monitor import read_scores
from pixmend.training.run_directory import shares_of
from pixmend.training.step import TrainStep
from pixmend.training.train_state import initial_state
from tests.training.conftest import ALL_OPTIONS, INPAINTER, TINY
from tests.training.test_run import assert_same_end, final_tensors

SCRIPT = Path(__file__).with_name("two_processes.py")


def torchrun(*arguments, restarts=0):
    """Return the command that starts two processes on this host, on a free port."""
    start = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    start += ("--max-restarts", str(restarts))
    return [sys.executable, "-m", *start, *map(str, arguments)]


@pytest.fixture(scope="module")
def left(image_folder, family_records, tmp_path_factory):
    """Return the folder of the runs of two_processes.py, which has also checked the laws of a group's operations."""
    out = tmp_path_factory.mktemp("together")
    begun_alone = resolve({**TINY, "steps": 3, "log_every": 1})
    list(train(family_records, out / "grown", begun_alone))
    settings = map(json.dumps, (TINY, ALL_OPTIONS))
    command = torchrun(SCRIPT, image_folder, family_records.path, out, *settings, restarts=1)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said = done.stderr
    assert done.returncode == 1, said
    (out / "said").write_text(said)
    # The first killed itself, was started anew and killed itself at last, and nothing failed besides.
    assert said.count("failed (exitcode: -9)") == 2, said
    return out


def logged(run):
    lines = map(json.loads, RunDirectory(run).log.read_text().splitlines())
    return [(line["step"], line["images"], line["loss_d"], line["loss_g"]) for line in lines]


@pytest.mark.parametrize("name", ["default", "options", "inpainter", "grown"])
def test_two_processes_give_the_losses_and_weights_of_one(family_records, tmp_path, left, name):
    two = left / name
    settings = resolve(read_recipe(two / "settings.toml"), {"gradient_accumulation": 1})
    list(train(family_records, tmp_path / "one", settings))
    ours, theirs = logged(tmp_path / "one"), logged(two)
    assert [line[:2] for line in ours] == [line[:2] for line in theirs]
    losses = [torch.tensor([line[2:] for line in lines]) for lines in (ours, theirs)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    ours, theirs = final_tensors(tmp_path / "one")[0], final_tensors(two)[0]
    assert ours.keys() == theirs.keys()
    assert_same_split_and_scores(RunDirectory(tmp_path / "one"), RunDirectory(two))
    for name in (name for name in ours if "optimiser" not in name):
        # Adam moves a weight by 2e-4 a step whatever the gradient's size, so one of nearly no gradient may go either way.
        far = (ours[name].double() - theirs[name].double()).abs()
        assert far.max() < 12 * 4e-4, name
        assert far.mean() < 2e-5, name


def assert_same_split_and_scores(one, two):
    assert two.split.read_bytes() == one.split.read_bytes()
    ours, theirs = read_scores(one.scores), read_scores(two.scores)
    assert [scores.step for scores in ours] == [scores.step for scores in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert their.psnr == pytest.approx(our.psnr, abs=0.05)
    assert two.best.exists() == bool(theirs)


@pytest.mark.parametrize("name", ["cut", "restarted"])
def test_two_processes_resume_bit_for_bit(left, name):
    """Also where one of them was killed and torchrun started both anew."""
    assert shares_of(left / name)[0] == 2
    assert_same_end(left / name, left / "whole")


def test_one_process_goes_on_with_a_warning_where_one_of_two_was_killed(
    family_records, tiny, tmp_path, left
):
    shutil.copytree(left / "killed", tmp_path / "run")
    first, *_, last = train(family_records, tmp_path / "run", tiny(steps=6))
    assert (first.event, first.step) == ("resumed", 4)
    assert "2 processes x 1 micro-batches and resumes with 1 x 1" in first.warning
    assert last.step == 6
    assert shares_of(tmp_path / "run")[0] == 1


def test_an_image_folder_is_packed_once_and_both_train_on_it(left):
    assert final_tensors(left / "packed")[1]["images"] == TINY["batch_size"]


@pytest.mark.parametrize("name", ["poisoned", "spoiled"])
def test_what_is_not_finite_in_one_process_takes_both_back(left, name):
    tensors, header = final_tensors(left / name)
    assert (header["step"], header["rollbacks"]) == (10, 1)
    assert all(torch.isfinite(value).all() for value in tensors.values())
    assert [step for step, *_ in logged(left / name)] == [2, 4, 6, 8, 10]


def test_statistics_of_the_shares_are_another_method(left):
    ours, theirs = final_tensors(left / "apart")[0], final_tensors(left / "whole")[0]
    assert ours.keys() == theirs.keys()
    assert logged(left / "apart")[0][2:] != logged(left / "whole")[0][2:]


def test_statistics_of_the_shares_are_those_of_parts_that_one_process_works_in(
    family_records, tmp_path, left
):
    settings = resolve(read_recipe(left / "apart" / "settings.toml"), {"gradient_accumulation": 2})
    list(train(family_records, tmp_path / "one", settings))
    assert logged(tmp_path / "one")[0] == pytest.approx(logged(left / "apart")[0], rel=1e-4)


def test_a_wish_to_stop_told_to_one_process_stops_both_after_the_same_step(left):
    assert final_tensors(left / "asked")[1]["step"] == 6
    said = (left / "said").read_text()
    assert said.count("stopped at step 6, saved; run the same command again to resume") == 1


def test_an_error_is_said_once(left):
    said = (left / "said").read_text()
    assert said.count("error: batch_size = 9: not divisible by 2 (processes") == 1
    assert "PixmendError" not in said
    assert not (left / "refused").exists()


def test_a_group_of_one_leaves_everything_as_it_is():
    value = torch.randn(3)
    assert SINGLE_PROCESS.mean(value) is value
    kept = value.clone()
    SINGLE_PROCESS.all_reduce_mean([value])
    SINGLE_PROCESS.broadcast([value])
    assert torch.equal(value, kept)
    assert (
        SINGLE_PROCESS.any(False),
        SINGLE_PROCESS.any(True),
        SINGLE_PROCESS.broadcast_object({"a": 1}),
    ) == (
        False,
        True,
        {"a": 1},
    )
    assert SINGLE_PROCESS.shard(8) == slice(0, 8)
    with open_group() as group:
        assert group is SINGLE_PROCESS


def test_shares_are_contiguous_and_make_up_the_whole():
    whole = list(range(12))
    shares = [whole[Group(rank, 3).shard(12)] for rank in range(3)]
    assert [*shares[0], *shares[1], *shares[2]] == whole


@pytest.mark.parametrize("load_all", [True, False])
@pytest.mark.parametrize("world", [2, 4])
def test_what_processes_are_fed_makes_up_what_one_is_fed(
    records, tiny, monkeypatch, world, load_all
):
    if not load_all:
        monkeypatch.setattr(Records, "load_all", lambda *_, **__: None)
    options = {
        "horizontal_flip": True,
        "diffaugment": "colour,translation,cutout",
        "inpainter_augmentation": 0.5,
    }
    settings = tiny(**INPAINTER, **options)

    def fed(group):
        loader = BatchLoader(records.images, settings, torch.device("cpu"), np.arange(2, 20), group)
        loader.open(records, lambda: False)
        real = loader.augmented(loader.real(16, 8), 2, 1)
        z = loader.latents(2, "generator")
        fakes = loader.transform(2, "generator")(z[:, :1, None, None].expand(-1, 1, 16, 16))
        batch = loader.masked(2, 0)
        rows = batch.latents.transpose(0, 1), batch.images, *vars(batch.evidence).values()
        return real, loader.transform(2, "real", 1)(real), z, fakes, *rows

    shares = zip(*(fed(Group(rank, world)) for rank in range(world)), strict=True)
    for whole, parts in zip(fed(SINGLE_PROCESS), shares, strict=True):
        assert len({len(part) for part in parts}) == 1
        assert torch.equal(torch.cat(parts), whole)


def test_the_inpainter_sees_a_share_of_its_images_augmented(records, tiny):
    def masked(share):
        settings = tiny(**INPAINTER, inpainter_augmentation=share)
        loader = BatchLoader(records.images, settings, torch.device("cpu"), np.arange(2, 20))
        loader.open(records, lambda: False)
        return torch.cat([loader.masked(step, 0).images for step in range(8)])

    plain, half = masked(0.0), masked(0.5)
    changed = torch.tensor([not torch.equal(a, b) for a, b in zip(plain, half, strict=True)])
    assert 0.2 < changed.float().mean() < 0.8


def test_masked_batches_are_reused_in_turn(records, tiny, monkeypatch):
    made, used, masked = [], [], BatchLoader.masked
    monkeypatch.setattr(BatchLoader, "masked", lambda *args: made.append(masked(*args)) or made[-1])
    take = step.inpainter_step
    monkeypatch.setattr(
        step,
        "inpainter_step",
        lambda state, batch, *a, **k: used.append(batch) or take(state, batch, *a, **k),
    )
    settings = tiny(**INPAINTER, inpainter_steps=2, inpainter_reuse=3)
    loader = BatchLoader(records.images, settings, torch.device("cpu"), np.arange(2, 20))
    loader.open(records, lambda: False)
    state = initial_state(settings, torch.device("cpu"))
    assert all(map(math.isfinite, TrainStep(state, settings, loader, print).take(1, 2)))
    numbers = [next(n for n, each in enumerate(made) if each is batch) for batch in used]
    assert numbers == [0, 1, 0, 1, 0, 1]


def test_a_batch_that_cannot_be_shared_equally_is_refused(records, tiny):
    with pytest.raises(SettingsError, match="set batch_size=8"):
        check_shares(tiny(batch_size=9), records, Group(0, 4))


def test_an_inpainters_batch_that_cannot_be_shared_equally_is_refused(records, tiny):
    settings = {**INPAINTER, "inpainter_batch": 9}
    with pytest.raises(SettingsError, match="set inpainter_batch=8"):
        check_shares(tiny(**settings), records, Group(0, 4))
    check_shares(tiny(**settings | {"inpainter_batch": 8}), records, Group(0, 4))
    check_shares(tiny(inpainter_batch=9), records, Group(0, 4))  # there is none


def test_variables_of_a_group_that_is_not_there_are_an_error_with_the_fix(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SettingsError, match="start the processes with torchrun"), open_group():
        pass


def test_synchronised_batch_norm_of_one_process_is_torchs():
    torch.manual_seed(0)
    plain = torch.nn.BatchNorm2d(3).double()
    ours = SynchronisedBatchNorm2d(torch.nn.BatchNorm2d(3).double(), SINGLE_PROCESS)
    maps = (torch.randn(4, 3, 5, 2).double() * 3 + 100).requires_grad_()
    torch.testing.assert_close(ours(maps), plain(maps))
    for name, buffer in plain.named_buffers():
        torch.testing.assert_close(dict(ours.named_buffers())[name], buffer)
    torch.testing.assert_close(ours.eval()(maps), plain.eval()(maps))
    ours.train()
    assert torch.autograd.gradcheck(ours, maps)
    assert torch.autograd.gradgradcheck(ours, maps)
