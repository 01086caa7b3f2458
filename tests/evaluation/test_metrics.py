"""Each measure against a second way of computing it, and the laws of intervals."""

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from pixmend.evaluation import metrics
from pixmend.evaluation.aggregation import mean_interval, ratio_interval
from pixmend.masks import make_mask

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 256, (13, 17, 3), np.uint8)
ANSWER = np.clip(IMAGE + RNG.normal(0, 30, IMAGE.shape), 0, 255).astype(np.uint8)
MASK = make_mask("strokes:0.3", 13, 17, seed=2)


def hole_pairs():
    """The hole's samples one by one, as plain numbers."""
    return [
        (int(ANSWER[y, x, c]), int(IMAGE[y, x, c]))
        for y in range(13)
        for x in range(17)
        for c in range(3)
        if MASK.hole[y, x]
    ]


def test_errors_are_those_of_plain_sums():
    pairs = hole_pairs()
    squared = sum((a - b) ** 2 for a, b in pairs) / len(pairs)
    assert metrics.rmse(ANSWER, IMAGE, MASK.hole) == pytest.approx(math.sqrt(squared))
    decibels = 20 * math.log10(255) - 10 * math.log10(squared)
    assert metrics.psnr(ANSWER, IMAGE, MASK.hole) == pytest.approx(decibels)
    absolute = sum(abs(a - b) for a, b in pairs) / len(pairs)
    assert metrics.l1(ANSWER, IMAGE, MASK.hole) == pytest.approx(absolute)


def test_an_answer_without_error_has_a_finite_psnr_and_full_marks():
    assert metrics.psnr(IMAGE, IMAGE, MASK.hole) == pytest.approx(68.13, abs=0.01)
    assert metrics.ssim_map(IMAGE, IMAGE) == pytest.approx(1)
    assert metrics.correct_share(IMAGE, IMAGE, MASK.hole) == 1


def test_ssim_is_that_of_windows_summed_one_by_one():
    def at(row, column, band):
        total = 0.0
        sums = np.zeros(5)
        for i in range(-5, 6):
            for j in range(-5, 6):
                y, x = row + i, column + j
                y = -y if y < 0 else 2 * 12 - y if y > 12 else y  # mirrored about the edge pixel
                x = -x if x < 0 else 2 * 16 - x if x > 16 else x
                weight = math.exp(-(i * i + j * j) / (2 * 1.5**2))
                a, b = ANSWER[y, x, band] / 255, IMAGE[y, x, band] / 255
                sums += weight * np.array([a, b, a * a, b * b, a * b])
                total += weight
        a, b, aa, bb, ab = sums / total
        top = (2 * a * b + 1e-4) * (2 * (ab - a * b) + 9e-4)
        return top / ((a * a + b * b + 1e-4) * (aa - a * a + bb - b * b + 9e-4))

    found = metrics.ssim_map(ANSWER, IMAGE)
    for row, column in ((0, 0), (6, 8), (12, 16), (3, 15)):
        wanted = np.mean([at(row, column, band) for band in range(3)])
        assert found[row, column] == pytest.approx(wanted, abs=1e-9)


def test_ssim_is_that_of_scikit_image():
    _, wanted = structural_similarity(
        ANSWER,
        IMAGE,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
        data_range=255,
    )
    inner = (slice(5, -5), slice(5, -5))  # their edges are mirrored otherwise
    assert metrics.ssim_map(ANSWER, IMAGE)[inner] == pytest.approx(wanted.mean(-1)[inner])


def test_the_step_across_the_border_is_that_of_each_pair():
    steps = []
    for y in range(13):
        for x in range(17):
            for to in ((y, x + 1), (y + 1, x)):
                if to[0] < 13 and to[1] < 17 and MASK.known[y, x] != MASK.known[to]:
                    steps.append(abs(ANSWER[to].astype(float) - ANSWER[y, x]).mean())  # noqa: PERF401
    assert metrics.boundary_step(ANSWER, MASK.known) == pytest.approx(np.mean(steps))
    flat = np.full((8, 8, 1), 100, np.uint8)
    mask = make_mask("center", 8, 8)
    raised = np.where(mask.hole[..., None], np.uint8(130), flat)
    assert metrics.boundary_step(raised, mask.known) == 30
    assert metrics.boundary_step(flat, mask.known) == 0


def test_the_boundary_ratio_of_a_set_is_a_ratio_of_sums():
    found = ratio_interval([30.0, 10.0, 2.0], [10.0, 10.0, 1.0], ["a", "b", "c"])
    assert found.mean == pytest.approx(2, abs=1e-3)
    assert found.low < 2 < found.high
    assert ratio_interval([0.0, 0.0], [0.0, 0.0], ["a", "b"]).mean == 1


def test_candidates_differ_by_the_mean_over_pairs_and_cover_what_is_among_them():
    whole = np.ones((1, 2), bool)
    candidates = [np.array([[[level], [level]]], np.uint8) for level in (100, 110, 130)]
    assert metrics.diversity(candidates, whole) == pytest.approx((10 + 30 + 20) / 3)
    near, far = (np.array([[[level], [level]]], np.uint8) for level in (118, 160))
    assert metrics.covers(candidates, near, whole) == 1
    assert metrics.covers(candidates, far, whole) == 0
    assert metrics.diversity(candidates[:1], whole) == 0


def test_correct_pixels_are_off_by_less_than_26_levels():
    image = np.full((1, 4, 1), 100, np.uint8)
    answer = np.array([[[100], [125], [126], [75]]], np.uint8)
    assert metrics.correct_share(answer, image, np.ones((1, 4), bool)) == 0.75


def test_errors_drawn_as_predicted_are_calibrated_and_others_are_not():
    predicted = np.random.default_rng(0).uniform(5, 60, 4000)
    observed = np.abs(np.random.default_rng(1).normal(0, predicted))
    for each in metrics.calibration_bins(predicted, observed, power=2):
        assert each.observed == pytest.approx(each.predicted, rel=0.15)
    assert sum(each.count for each in metrics.calibration_bins(predicted, observed)) == 4000
    for each in metrics.calibration_bins(predicted, 3 * observed, power=2):
        assert each.observed > 2 * each.predicted


# Intervals


def test_the_interval_of_images_alone_is_that_of_the_normal_theory():
    values = np.random.default_rng(3).normal(20, 4, 200)
    found = mean_interval(values.tolist(), [str(number) for number in range(200)])
    half = 1.96 * values.std() / math.sqrt(200)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_copies_of_an_image_in_one_group_make_nothing_surer():
    values = np.random.default_rng(3).normal(0, 1, 30).tolist()
    alone = mean_interval(values, [str(number) for number in range(30)])
    copied = mean_interval(values * 5, [str(number) for number in range(30)] * 5)
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high))
    assert copied.images == 150
    assert copied.groups == 30


def test_a_win_is_one_only_outside_the_interval():
    groups = [str(number) for number in range(40)]
    noise = np.random.default_rng(7).normal(0, 1, 40)
    noise -= noise.mean()
    assert mean_interval((noise + 1).tolist(), groups).sign == 1
    assert mean_interval((noise - 1).tolist(), groups).sign == -1
    assert mean_interval((noise + 0.02).tolist(), groups).sign == 0
    assert mean_interval([5.0, 5.0], ["a", "a"]).sign == 0, "one group is no evidence"


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    draw = np.random.default_rng(11)
    groups = [str(number) for number in range(60)]
    held = 0
    for _ in range(100):
        found = mean_interval(draw.normal(0, 1, 60).tolist(), groups)
        held += found.low <= 0 <= found.high
    assert 88 <= held <= 99
