"""Parts of a batch make up the batch: the same losses in less memory; and bfloat16 is where it belongs."""

from weakref import WeakSet

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from pixmend.distributed import Group
from pixmend.errors import SettingsError
from pixmend.models.layers import Downsample, Upsample
from pixmend.training import RunDirectory, read_recipe, resolve, train
from pixmend.training.data_parallel import check_shares, shares_warning
from pixmend.training.losses import DISCRIMINATOR_LOSSES
from pixmend.training.step import discriminator_step
from pixmend.training.train_state import initial_state
from tests.training.conftest import ALL_OPTIONS, INPAINTER, TINY
from tests.training.test_run import EVERYTHING, final_tensors

CPU = torch.device("cpu")
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
SHARED = {
    "horizontal_flip": True,
    "diffaugment": "colour,cutout",
    "r1_gamma": 1.0,
    "r1_every": 2,
}


def losses_of(records, run, settings):
    found = [(now.loss_d, now.loss_g) for now in train(records, run, settings)][:-1]
    return np.array(found)


def test_micro_batches_descend_the_mean_of_their_gradients(tiny):
    """Against the sum written out by hand: each micro-batch backward on its loss / n, with statistics of its own."""
    settings = tiny(gradient_accumulation=2)
    state, other = initial_state(settings, CPU), initial_state(settings, CPU)
    generator = torch.Generator().manual_seed(0)
    shape = (8, CHANNELS[settings.channels], settings.size, settings.size)
    real, fake = (torch.rand(shape, generator=generator) * 2 - 1 for _ in range(2))
    for state.micro_batch in (0, 1):
        part = slice(4 * state.micro_batch, 4 * state.micro_batch + 4)
        loss = discriminator_step(state, real[part], fake[part], settings)
    network, expected = other.discriminator, []
    for part in (slice(4), slice(4, 8)):
        each = DISCRIMINATOR_LOSSES[settings.loss](network(real[part]), network(fake[part]))
        (each.mean() / 2).backward()
        expected.append(each.detach())
    other.discriminator_optimiser.step()
    assert torch.equal(loss.flatten(), torch.cat(expected).flatten())
    for ours, theirs in zip(state.discriminator.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "changes", [ALL_OPTIONS, {**INPAINTER, **SHARED}], ids=["options", "inpainter"]
)
@pytest.mark.parametrize("reuse", [True, False])
def test_micro_batches_train_with_every_option(records, tiny, tmp_path, changes, reuse):
    settings = tiny(steps=2, gradient_accumulation=2, **{**changes, "reuse_fakes": reuse})
    assert np.isfinite(losses_of(records, tmp_path / "run", settings)).all()


def test_parts_with_statistics_of_their_own_are_another_method(records, tiny, tmp_path):
    kinds = {"whole": {}, "parts": {"gradient_accumulation": 2, "sync_batchnorm": False}}
    whole, apart = (
        losses_of(records, tmp_path / name, tiny(steps=2, **changes))
        for name, changes in kinds.items()
    )
    np.testing.assert_allclose(apart, whole, rtol=0.2)
    assert not np.allclose(apart, whole, rtol=1e-3)


class Kept:
    """Counts the numbers that backward passes to come will need."""

    def __init__(self):
        self.alive, self.most = WeakSet(), 0

    def hooks(self, *_):
        return saved_tensors_hooks(self.keep, lambda held: held[0])

    def keep(self, tensor):
        held = _Held([tensor])
        self.alive.add(held)
        self.most = max(self.most, sum(each[0].numel() for each in self.alive))
        return held


class _Held(list):
    __hash__ = object.__hash__


def test_parts_that_are_apart_let_go_of_their_graphs_before_the_next_begins(
    records, tiny, tmp_path
):
    found = []
    for parts in (1, 4):
        kept = Kept()
        settings = tiny(steps=1, batch_size=64, gradient_accumulation=parts)
        with kept.hooks():
            list(train(records, tmp_path / str(parts), settings))
        found.append(kept.most)
    assert found[1] < 0.4 * found[0]


def test_a_run_goes_on_in_other_parts_with_a_word(records, tiny, tmp_path):
    list(train(records, tmp_path / "run", tiny(steps=2)))
    first, *_, last = train(records, tmp_path / "run", tiny(steps=3, gradient_accumulation=2))
    assert (
        "1 processes x 1 micro-batches and resumes with 1 x 2: batch norm statistics are now over 4 images"
        in first.warning
    )
    assert last.step == 3
    list(train(records, tmp_path / "whole", tiny(steps=3)))
    ours, theirs = (final_tensors(tmp_path / name)[0] for name in ("run", "whole"))
    name = "generator.project.weight"
    torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-3)
    assert read_recipe(RunDirectory(tmp_path / "run").settings)["gradient_accumulation"] == 2


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ([2, 1], (2, 1, True), ""),
        ([2, 1], (1, 1, True), "same images and draws"),
        ([1, 1], (2, 1, True), "same images and draws"),
        ([2, 1], (1, 2, False), "same images and draws"),
        ([2, 1], (1, 1, False), "batch norm statistics are now over 8 images instead of 4"),
        ([1, 1], (1, 4, True), "batch norm statistics are now over 2 images instead of 8"),
        ([1, 1], (1, 4, False), "batch norm statistics are now over 2 images instead of 8"),
    ],
)
def test_a_change_of_processes_or_parts_is_told_for_what_it_is(tiny, before, now, said):
    world, parts, sync = now
    settings = tiny(gradient_accumulation=parts, sync_batchnorm=sync)
    told = shares_warning(before, settings, Group(0, world))
    assert said in told
    assert bool(said) == bool(told)


def test_a_part_that_meets_what_is_not_finite_leaves_the_whole_update_out(
    records, tiny, tmp_path, monkeypatch
):
    from pixmend.training import step as step_module

    step_d = step_module.discriminator_step

    def poisoned(state, real, *rest):
        bad = state.step == 1 and state.micro_batch == 1
        return step_d(state, real * float("nan") if bad else real, *rest)

    monkeypatch.setattr(step_module, "discriminator_step", poisoned)
    for name, sync in (("joint", True), ("apart", False)):
        settings = tiny(steps=3, gradient_accumulation=2, sync_batchnorm=sync)
        *steps, _ = train(records, tmp_path / name, settings)
        assert [bool(np.isfinite(now.loss_d)) for now in steps] == [True, False, True]
        assert "update skipped (1 so far)" in steps[1].warning


def test_a_batch_that_parts_cannot_share_equally_is_refused(records, tiny):
    with pytest.raises(
        SettingsError, match=r"batch_size = 8: not divisible by 3 .*; set batch_size=6"
    ):
        check_shares(tiny(gradient_accumulation=3), records, Group())
    with pytest.raises(
        SettingsError, match=r"batch_size = 8: not divisible by 6 .*; set batch_size=6"
    ):
        check_shares(tiny(gradient_accumulation=3), records, Group(0, 2))


@pytest.fixture
def types(monkeypatch):
    """Return, by kind of layer, the types that maps left it in."""
    found = {}

    def look(layer, _, maps):
        if isinstance(maps, torch.Tensor):
            # D's class is one made for it where its weights are normalised.
            for kind in (Downsample, Upsample):
                if isinstance(layer, kind):
                    found.setdefault(kind, set()).add(maps.dtype)

    handle = torch.nn.modules.module.register_module_forward_hook(look)
    yield found
    handle.remove()


@pytest.mark.parametrize("changes", [{}, {**ALL_OPTIONS, "gradient_accumulation": 2}, EVERYTHING])
def test_bfloat16_is_of_maps_alone_and_trains_nearly_as_float32(
    records, tiny, tmp_path, types, changes
):
    # A training set of 16 px noise: no loss is large, and none far from the other precision's.
    kinds = ("bfloat16", "float32")
    ours, theirs = (
        losses_of(records, tmp_path / kind, tiny(steps=3, **changes, precision=kind))
        for kind in kinds
    )
    np.testing.assert_allclose(ours, theirs, rtol=0.1, atol=0.02)
    assert not np.array_equal(ours, theirs)
    assert all(torch.bfloat16 in types[kind] for kind in (Downsample, Upsample))
    kept = final_tensors(tmp_path / "bfloat16")[0]
    floats = {value.dtype for value in kept.values() if value.is_floating_point()}
    assert floats == {torch.float32}


def test_statistics_are_of_float32_sums_in_bfloat16_too(tiny):
    """Values far from 0 with a small spread: sums in bfloat16 would lose it all."""
    settings = resolve({**TINY, "gradient_accumulation": 2, "precision": "bfloat16"})
    norm = initial_state(settings, CPU).generator.project_norm
    plain = initial_state(resolve(TINY), CPU).generator.project_norm
    torch.manual_seed(0)
    maps = (3 + 0.1 * torch.randn(64, norm.num_features, 4, 4)).to(torch.bfloat16)
    norm(maps)
    plain(maps)
    exact = maps.double()
    for each in (norm, plain):
        torch.testing.assert_close(
            each.running_mean.double(), 0.1 * exact.mean((0, 2, 3)), rtol=1e-4, atol=0
        )
        variance = 0.9 + 0.1 * exact.var((0, 2, 3))
        torch.testing.assert_close(each.running_var.double(), variance, rtol=1e-4, atol=0)
