"""The verdict claims no more than was compared, and no advice names what the model already has."""

from dataclasses import replace

import numpy as np
import pytest

from pixmend.evaluation import BASELINES, HeldOut
from pixmend.evaluation.aggregation import summarise
from pixmend.evaluation.diagnostics import _TEXTS, diagnose, verdict
from pixmend.evaluation.evaluated_methods import EvaluatedMethod
from pixmend.evaluation.results import ResultRow

OURS = EvaluatedMethod("default", "sharp", ours=True)
COUNT = 40
NAMES = [f"{number}.png" for number in range(COUNT)]
HELD_OUT = HeldOut(
    np.zeros((COUNT, 8, 8, 1), np.uint8), NAMES, NAMES, [None] * COUNT, COUNT, COUNT, [], [], []
)


def rows_of(method, mask="center", **figures):
    """Forty rows of forty groups; figures vary by a little noise of their own."""
    noise = np.random.default_rng(len(method.label) + len(mask)).normal(0, 0.01, COUNT)
    noise -= noise.mean()
    plain = ResultRow(
        0, "", "", "ff", mask, 0.25, method.method, method.answer, 20, 0.8, 10, 20, 0.8, 10, 1, 1,
        None, 6, None, 0.6, 20, 0, 0, None, "", None, 0.1,
    )  # fmt: skip
    for number, name in enumerate(NAMES):
        values = {key: value + noise[number] for key, value in figures.items()}
        yield replace(plain, number=number, image=name, group=name, **values)


def summary_of(figures, masks=("center",)):
    """Aggregate ``figures``: {(method, mask): figures}."""
    methods = list(dict.fromkeys(method for method, _ in figures))
    rows = [
        row for (method, mask), values in figures.items() for row in rows_of(method, mask, **values)
    ]
    return summarise(rows, methods, masks, {}), rows


def baseline(name):
    return EvaluatedMethod(name)


def test_the_baselines_that_did_not_run_are_named_in_the_headline():
    told = verdict(
        summary_of(
            {
                (OURS, "center"): {"psnr": 22},
                (baseline("mean"), "center"): {"psnr": 20},
                (baseline("biharmonic"), "center"): {"psnr": 19},
            }
        )[0]
    )
    assert told.startswith("The model wins by 2.00 dB over the best baseline")
    assert told.endswith("Not compared with nearest, telea and navier-stokes, which did not run.")
    every = {(baseline(name), "center"): {"psnr": 19} for name in BASELINES}
    assert "did not run" not in verdict(summary_of({(OURS, "center"): {"psnr": 22}} | every)[0])
    alone = verdict(summary_of({(OURS, "center"): {"psnr": 22}})[0])
    assert alone.endswith("navier-stokes and biharmonic, which did not run.")


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [("SSIM", {"ssim": 0.7}, {"ssim": 0.9}), ("L1", {"l1": 12}, {"l1": 8}), ("correct pixels", {"correct": 0.3}, {"correct": 0.9})],
)  # fmt: skip
def test_a_lead_in_psnr_beside_a_loss_in_another_figure_says_both(name, ours, theirs):
    summary, _ = summary_of(
        {
            (OURS, "center"): {"psnr": 22, **ours},
            (baseline("nearest"), "center"): {"psnr": 20, **ours},
            (baseline("biharmonic"), "center"): {"psnr": 19, **theirs},
        }
    )
    told = verdict(summary)
    assert "The model wins by 2.00 dB" in told
    assert f"It loses in {name} (biharmonic)." in told
    turned, _ = summary_of(
        {
            (OURS, "center"): {"psnr": 18, **theirs},
            (baseline("nearest"), "center"): {"psnr": 20, **ours},
        }
    )
    assert f"It wins in {name} (nearest)." in verdict(turned)


def test_a_mask_lost_to_a_baseline_that_is_not_the_best_over_all_is_told():
    summary, _ = summary_of(
        {
            (OURS, "half"): {"psnr": 22},
            (OURS, "grid"): {"psnr": 22},
            (baseline("nearest"), "half"): {"psnr": 20},
            (baseline("nearest"), "grid"): {"psnr": 20},
            (baseline("biharmonic"), "half"): {"psnr": 10},
            (baseline("biharmonic"), "grid"): {"psnr": 24},
        },
        masks=("half", "grid"),
    )
    told = verdict(summary)
    assert "default, sharp 22.00 dB, nearest 20.00 dB" in told
    assert "It loses under grid (biharmonic)." in told
    assert summary.leads["psnr"]["half"].baseline == "nearest"


def diagnosed(model, figures):
    summary, rows = summary_of(figures)
    found = diagnose(model, summary, rows, HELD_OUT, 10)
    return " ".join(f"{each.fact} {each.advice}" for each in found)


def test_no_advice_names_what_is_on(untrained):
    figures = {(OURS, "center"): {"psnr": 18}, (baseline("nearest"), "center"): {"psnr": 20}}
    plain = untrained("L")
    assert "Train with diffaugment." in diagnosed(plain, figures)
    training = {"diffaugment": "translation", "horizontal_flip": True, "inpainter_filters": 32}
    told = diagnosed(replace(plain, card={"training": training}), figures)
    assert "Add images of the same kind." in told
    assert "diffaugment" not in told
    assert "horizontal_flip" not in told
    for kind in _TEXTS.values():
        assert set(kind.get("unless", {})) <= {
            "diffaugment",
            "horizontal_flip",
            "r1_gamma",
        }
        assert "inpainter" not in str(kind)


def test_confidence_and_uncertainty_are_compared_with_what_is_right_in_plain_words(untrained):
    figures = {"confidence": 0.67, "correct": 0.3, "predicted_error": 30, "observed_error": 67}
    told = diagnosed(untrained("L"), {(OURS, "center"): figures})
    assert "says that 67% of the missing pixels are right; 30% are." in told
    assert "says that it is off by 30 grey levels; it is off by 67." in told
    fair = {"confidence": 0.6, "correct": 0.6, "predicted_error": 30, "observed_error": 31}
    assert "says that" not in diagnosed(untrained("L"), {(OURS, "center"): fair})
