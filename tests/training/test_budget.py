"""Training for a time: what is chosen for it, that it ends in time, and that the same call goes on."""

import itertools
import json

import numpy as np
import pytest
import torch

from pixmend import api
from pixmend.distributed import SINGLE_PROCESS
from pixmend.images import encode_png
from pixmend.records import PackSettings, Records, pack
from pixmend.training import budget, read_recipe, resolve, train
from pixmend.training.budget import (
    CHOSEN,
    Clock,
    default_size,
    fit_to_minutes,
    resolve_training,
)
from tests.training.conftest import TINY

CPU = torch.device("cpu")


@pytest.fixture
def ticking(monkeypatch):
    """Let a tenth of a second pass at each look at the clock."""

    class Ticking:
        def __init__(self):
            self.now = itertools.count(0, 0.1)

        def monotonic(self):
            return next(self.now)

    monkeypatch.setattr(budget, "time", Ticking())
    # By its own clock, as the seconds of a checkpoint on a busy machine would end the run early.
    monkeypatch.setattr("pixmend.training.loop.time", Ticking())


def rates_of(settings, records, run, monkeypatch, stop=lambda: False):
    from pixmend.training import step as step_module

    rates = []
    real = step_module.generator_step

    def step(state, *rest):
        rates.append(state.generator_optimiser.param_groups[0]["lr"])
        return real(state, *rest)

    monkeypatch.setattr(step_module, "generator_step", step)
    *_, last = train(records, run, settings, should_stop=stop)
    monkeypatch.setattr(step_module, "generator_step", real)
    return rates, last


def test_by_steps_time_has_no_say(tiny, ticking):
    held = Clock(tiny(steps=8), SINGLE_PROCESS)
    assert [held.done(step) for step in (0, 2, 8)] == [0, 0.25, 1]
    assert held.place(3, 0.7) == (3, 8)


def test_by_time_what_comes_first_ends_it_and_the_last_checkpoint_has_its_share(tiny, ticking):
    held = Clock(tiny(steps=1000, minutes=0.1), SINGLE_PROCESS)  # started at 0.0
    assert held.done(0) == pytest.approx(0.1 / 6)
    held.reserve = 3.0
    assert held.done(0) == pytest.approx(3.2 / 6)
    assert held.done(900) == pytest.approx(0.9)
    held.reserve = 0.1
    assert held.done(0) == pytest.approx(0.9), "never less than before"
    assert held.place(1, 0.5) == (500_000, 1_000_000)
    assert held.place(1, 1.5) == (999_999, 1_000_000), "a schedule of n steps has no step n"


def test_a_run_by_time_decays_to_the_end_of_its_time(records, tiny, tmp_path, ticking, monkeypatch):
    settings = tiny(steps=10**6, minutes=0.1, lr_schedule="cosine", checkpoint_every=10**6)
    rates, last = rates_of(settings, records, tmp_path / "run", monkeypatch)
    assert last.event == "done"
    assert last.done == 1
    assert 20 < last.step < 60, "6 seconds at a tenth a look, one or two looks a step"
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.98 * settings.learning_rate
    assert rates[-1] < 0.03 * settings.learning_rate
    assert len(list((tmp_path / "run" / "samples").iterdir())) in (9, 10)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == last.step


def test_a_checkpoint_that_takes_long_is_not_followed_by_another(
    records, tiny, tmp_path, ticking, monkeypatch
):
    """On a machine that others use, scoring may take longer than the time from one to the next."""
    from pixmend.training.callbacks import Callbacks

    steps, real = [], Callbacks.checkpoint

    def write(callbacks, state):
        steps.append(state.step)
        for _ in range(9):
            budget.time.monotonic()
        return real(callbacks, state)

    monkeypatch.setattr(Callbacks, "checkpoint", write)
    settings = tiny(steps=10**6, minutes=0.1, checkpoint_every=10**6)
    *_, last = train(records, tmp_path / "run", settings)
    assert last.event == "done"
    assert len(steps) < 8
    assert steps[-1] - steps[0] > len(steps), "steps without a checkpoint lie between"


def test_a_run_by_time_that_was_stopped_goes_on_where_its_time_was(
    records, tiny, tmp_path, ticking, monkeypatch
):
    settings = tiny(steps=10**6, minutes=0.1, lr_schedule="linear", log_every=1)
    asked = itertools.count()
    run = tmp_path / "run"
    first, last = rates_of(settings, records, run, monkeypatch, lambda: next(asked) > 14)
    assert last.event == "stopped"
    second, last = rates_of(settings, records, run, monkeypatch)
    assert last.event == "done"
    assert last.step == len(first) + len(second)
    assert second[0] == pytest.approx(first[-1], abs=0.15 * settings.learning_rate)
    assert second[-1] < 0.08 * settings.learning_rate, (
        "the last step begins three looks early at most"
    )


class Many:
    """Fake records: only the number, the size and a few random images count."""

    def __init__(self, count, *, size=32):
        self.count, self.size = count, size

    def __len__(self):
        return self.count


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(budget, "is_flip_invariant", lambda records: True)
    monkeypatch.setattr(budget, "has_near_copies", lambda records: False)
    return Many


def test_the_net_is_as_wide_as_time_and_images_allow(monkeypatch, many):
    given = {"size": 32, "channels": "L"}
    tried = []

    def cost(settings, device):
        tried.append((settings.filters, settings.batch_size))
        return settings.filters * settings.batch_size / 32 * speed

    monkeypatch.setattr(budget, "seconds_per_step", cost)
    speed = 1e-6
    assert fit_to_minutes(20, many(50_000), given, CPU)["filters"] == 64
    assert fit_to_minutes(20, many(6_000), given, CPU)["filters"] == 48
    small = fit_to_minutes(20, many(600), given, CPU)
    assert (small["filters"], small["retrieval_images"], small["ema_decay"]) == (32, 600, 0.999)
    speed = 1200 / 500 / 30  # too slow for 32 filters
    assert fit_to_minutes(20, many(50_000), given, CPU)["filters"] == 24
    speed = 1.0
    slow = fit_to_minutes(20, many(50_000), given, CPU)
    assert (slow["filters"], slow["batch_size"]) == (16, 8)
    assert tried[-1] == (16, 8)
    assert resolve(slow).retrieval_images * 32 * 32 <= 16 * 2**20


def test_networks_stay_wide_where_narrow_ones_take_as_long(monkeypatch, many):
    tried = []

    def cost(settings, device):
        tried.append(settings.filters)
        return 10 + settings.filters / 100

    monkeypatch.setattr(budget, "seconds_per_step", cost)
    given = {"size": 32, "channels": "L", "precision": "float32"}
    chosen = fit_to_minutes(5, many(50_000), given, CPU)
    assert (chosen["filters"], chosen["batch_size"]) == (64, 32)
    assert tried == [64, 16]


@pytest.mark.parametrize("fast", [True, False])
def test_auto_is_the_faster_precision_here_and_a_run_keeps_it(records, tmp_path, monkeypatch, fast):
    monkeypatch.setattr(budget, "is_fast_in_bfloat16", lambda device: fast)
    faster, other = ("bfloat16", "float32") if fast else ("float32", "bfloat16")
    run, plan = tmp_path / "run", {**TINY, "precision": "auto", "steps": 1}
    settings = resolve_training(plan, records, run)
    assert settings.precision == faster
    assert resolve_training({**plan, "precision": other}, records, run).precision == other
    *_, last = train(records, run, resolve(plan))
    assert last.event == "done"
    monkeypatch.setattr(budget, "is_fast_in_bfloat16", lambda device: not fast)
    assert resolve_training(plan, records, run).precision == faster
    *_, last = train(records, run, resolve({**plan, "steps": 2}))
    assert last.step == 2, "resumed elsewhere, in the precision of the run"


def test_few_images_are_varied_and_many_are_not(monkeypatch, many):
    monkeypatch.setattr(budget, "seconds_per_step", lambda settings, device: 0.1)
    few, enough = (fit_to_minutes(20, many(count), {"size": 32}, CPU) for count in (600, 6000))
    assert (few["horizontal_flip"], enough["horizontal_flip"]) == (True, False)
    assert (few["inpainter_augmentation"], enough["inpainter_augmentation"]) == (0.5, 0)
    monkeypatch.setattr(budget, "has_near_copies", lambda records: True)
    copied = fit_to_minutes(20, many(600), {"size": 32}, CPU)
    assert copied["inpainter_augmentation"] == 0, "varied images have no copies in the bank"


def test_what_was_said_is_not_chosen(monkeypatch, many):
    monkeypatch.setattr(budget, "seconds_per_step", lambda settings, device: 1.0)
    given = {
        "filters": 20,
        "lr_schedule": "constant",
        "retrieval_images": 0,
        "size": 16,
        "ema_decay": 0.5,
    }
    given |= {"horizontal_flip": False}
    chosen = fit_to_minutes(1, many(500), given, CPU)
    assert {key: chosen[key] for key in given} == given


@pytest.mark.parametrize("alike", [True, False])
def test_mirror_images_belong_where_left_and_right_are_alike(tmp_path, alike):
    """Slopes that fall to the right, or half of them to the left."""
    generator = np.random.default_rng(0)
    for index in range(60):
        slope = np.linspace(0, 1, 16)[None] ** generator.uniform(0.5, 2) * generator.uniform(
            100, 255
        )
        pixels = np.broadcast_to(slope, (16, 16)).astype(np.uint8)[..., None]
        flip = alike and index % 2
        (tmp_path / f"{index:02}.png").write_bytes(encode_png(pixels[:, ::-1] if flip else pixels))
    pack(tmp_path, tmp_path / "packed", PackSettings(size=16, channels="L"), workers=1)
    assert budget.is_flip_invariant(Records(tmp_path / "packed")) == alike


@pytest.mark.parametrize("copied", [True, False])
def test_near_copies_are_known_by_their_centres(tmp_path, copied):
    """Noise; each image has a copy, or none has."""
    generator = np.random.default_rng(0)
    for index in range(40):
        if index % 2 == 0 or not copied:
            pixels = generator.integers(0, 256, (16, 16, 1), np.uint8)
        (tmp_path / f"{index:02}.png").write_bytes(encode_png(pixels))
    pack(tmp_path, tmp_path / "packed", PackSettings(size=16, channels="L"), workers=1)
    assert budget.has_near_copies(Records(tmp_path / "packed")) == copied


def test_measuring_a_step_takes_time_and_changes_nothing(tiny):
    settings = tiny(inpainter_filters=8, inpainter_batch=4, retrieval_images=4)
    assert budget.seconds_per_step(settings, CPU) > 0


def test_without_a_gpu_a_short_run_trains_on_small_images():
    assert default_size(20, CPU) == 32
    assert default_size(240, CPU) == 64
    assert default_size(20, torch.device("cuda")) == 64


def test_the_same_call_goes_on_with_the_net_that_was_chosen(image_folder, tmp_path, monkeypatch):
    held = {key: TINY[key] for key in ("latent_dim", "grid_images", "device", "monitor")}
    settings = {**held, "size": 16, "channels": "L", "steps": 3, "minutes": 60}
    monkeypatch.setattr(budget, "_WIDTHS", (8, 4))
    monkeypatch.setattr(budget, "_MIN_IMAGES", {8: 0})
    monkeypatch.setattr(budget, "_BATCHES", (8,))
    monkeypatch.setattr(budget, "seconds_per_step", lambda *_: 1e-3)
    api.train(image_folder, tmp_path / "run", settings=settings)
    first = read_recipe(tmp_path / "run" / "settings.toml")
    assert first["filters"] == 8
    assert first["inpainter_filters"] == 32
    assert first.keys() >= CHOSEN
    monkeypatch.setattr(budget, "seconds_per_step", lambda *_: 1e6)
    (tmp_path / "run" / "model.safetensors").unlink()
    api.train(image_folder, tmp_path / "run", settings=settings)
    assert read_recipe(tmp_path / "run" / "settings.toml") == first
