"""Diagnostics: causes of the results, from measured facts, with the advice in diagnostics.toml."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, TypeAlias

import numpy as np

from pixmend.evaluation.aggregation import Lead, Summary
from pixmend.evaluation.baselines import BASELINES
from pixmend.evaluation.held_out import HeldOut
from pixmend.evaluation.metrics import CalibrationBin
from pixmend.evaluation.results import ResultRow
from pixmend.models import DCGAN

Facts: TypeAlias = dict[str, Any]

_TEXTS = tomllib.loads(files("pixmend.evaluation").joinpath("diagnostics.toml").read_text("utf-8"))
_FIGURES = {"ssim": "SSIM", "l1": "L1", "correct": "correct pixels"}
_MIN_IMAGES, _MIN_GROUPS = 30, 10  # intervals of fewer are too wide to compare methods
_MIN_TRAINING = 1000
_WRONG_SHARE = 0.1  # of pixels, between confidence and correct pixels


@dataclass(frozen=True)
class Diagnostic:
    """A fact and advice."""

    fact: str
    advice: str


def verdict(summary: Summary) -> str:
    """Return whether the model beats the baselines, and which are absent; or which model wins."""
    texts, lead = _TEXTS["verdict"], summary.lead
    if summary.pairs:  # compared by the method in which A is best
        pair = max(summary.pairs, key=lambda pair: summary.total(pair.first).psnr.mean)
        gap, method = pair.psnr[summary.over_all], pair.first.removeprefix("A:")
        name = {1: "model_b", -1: "model_a", 0: "models_equal"}[gap.sign]
        return str(texts[name].format(gap=texts["gap"].format(**asdict(gap), method=method)))
    if lead is None:
        name = "ours_only" if summary.best_ours else "baselines_only"
        best = summary.total(str(summary.best_ours or summary.best_baseline))
        sentences = [texts[name].format(best=best.label, psnr=best.psnr.mean)]
    else:
        totals = [summary.total(str(label)) for label in (summary.best_ours, lead.baseline)]
        scores = ", ".join(f"{total.label} {total.psnr.mean:.2f} dB" for total in totals)
        name = {1: "wins", -1: "loses", 0: "equal" if lead.groups > 1 else "one_group"}[lead.sign]
        values = asdict(lead) | {"size": abs(lead.mean), "scores": scores}
        sentences = [texts[name].format(**values), *_exceptions(summary, lead)]
    absent = [name for name in BASELINES if name not in summary.labels]
    if absent and summary.best_ours:
        sentences.append(texts["absent"].format(names=_enumerate(absent)))
    return " ".join(sentences)


def _exceptions(summary: Summary, lead: Lead) -> Iterator[str]:
    """Yield the masks, and the figures over all masks, that contradict the lead in PSNR."""
    word, sign = ("wins", 1) if lead.sign < 0 else ("loses", -1)
    figures = {text: summary.leads[name][summary.over_all] for name, text in _FIGURES.items()}
    for place, leads in (("under", summary.leads["psnr"]), ("in", figures)):
        names = [f"{n} ({each.baseline})" for n, each in leads.items() if each.sign == sign]
        if names:
            yield f"It {word} {place} {_enumerate(names)}."


def diagnose(
    model: DCGAN,
    summary: Summary,
    rows: Sequence[ResultRow],
    held_out: HeldOut,
    training: int | None,
) -> list[Diagnostic]:
    """Return the diagnostics, the most important first; ``training`` counts training images."""
    count, groups = len(held_out.images), len(set(held_out.groups))
    facts: Facts = {
        "count": count,
        "groups": "1 group" if groups == 1 else f"{groups} groups",
        "examined": held_out.examined,
        "duplicates": _counted(held_out.duplicates),
        "shared": _counted(held_out.shared),
        "training": training,
        "needed": (_MIN_IMAGES, _MIN_GROUPS),
    }
    found = {
        "few_images": count < _MIN_IMAGES or groups < _MIN_GROUPS,
        "duplicates": bool(held_out.duplicates),
        "shared_groups": bool(held_out.shared),
        "no_training": training is None,
        "few_training": training is not None and training < _MIN_TRAINING,
    }
    if summary.best_ours is not None:
        found |= _of_answers(summary, summary.best_ours, rows, facts)
    # What the model has already is no advice.
    present = model.card.get("training", {})
    diagnostics = []
    for texts in (_TEXTS[name] for name, holds in found.items() if holds):
        unless = texts.get("unless", {})
        advice = [texts["advice"], *(text for key, text in unless.items() if not present.get(key))]
        fact = texts["fact"].format(**facts)
        diagnostics.append(Diagnostic(fact, " ".join(advice).format(**facts)))
    return diagnostics


def _of_answers(
    summary: Summary, ours: str, rows: Sequence[ResultRow], facts: Facts
) -> dict[str, bool]:
    """Return which findings about our answers hold; add their values to ``facts``."""
    psnrs = {label: summary.total(label).psnr.mean for label in summary.labels}
    unlike = {
        row.number: row.warnings
        for row in rows
        if row.label in summary.ours and "unlike the images" in row.warnings
    }
    predicted_error, error = _pooled(summary.errors[ours], 2)
    confidence, correct = _pooled(summary.shares[ours], 1)
    facts |= {"ours": ours, "unlike": _counted([*unlike.values()])}
    facts |= {"predicted_error": predicted_error, "error": error}
    facts |= {"confidence": confidence, "correct": correct}
    return {
        "mean": psnrs[ours] <= psnrs.get("mean", -np.inf),
        "nearest": psnrs[ours] <= psnrs.get("nearest", -np.inf),
        "out_of_domain": len(unlike) >= max(1, 0.05 * facts["count"]),
        "wrong_errors": not 0.67 * predicted_error <= error <= 1.5 * predicted_error,
        "wrong_shares": abs(confidence - correct) > _WRONG_SHARE,
        "no_confidence": not summary.shares[ours],
    }


def _pooled(bins: Sequence[CalibrationBin], power: int) -> tuple[float, float]:
    """Return the power means of predictions and outcomes over all bins; 0 without any."""
    if not bins:
        return 0.0, 0.0
    values = np.array([(each.predicted, each.observed) for each in bins]) ** power
    predicted, observed = np.average(values, axis=0, weights=[each.count for each in bins])
    return float(predicted ** (1 / power)), float(observed ** (1 / power))


def _counted(names: Sequence[str]) -> Facts:
    some = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return {"count": len(names), "first": "".join(names[:1]), "names": some}


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
