"""Diagnostics: causes of the results, from measured facts, with the advice in diagnostics.toml."""

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files

import numpy as np

from pixmend.errors import StoppedError
from pixmend.evaluation.aggregation import Summary
from pixmend.evaluation.baselines import Images
from pixmend.evaluation.evaluated_methods import EvaluatedMethod, ShouldStop
from pixmend.evaluation.held_out import HeldOut
from pixmend.evaluation.metrics import CalibrationBin, Region, psnr
from pixmend.evaluation.realism import SampleQuality, draw_samples
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.models import DCGAN

_TEXTS = tomllib.loads(files("pixmend.evaluation").joinpath("diagnostics.toml").read_text("utf-8"))
_MIN_IMAGES, _MIN_GROUPS = 30, 10  # intervals of fewer are too wide to compare methods
_MIN_TRAINING = 1000
_LARGE_GAP = 3.0  # dB
_EXPLAINED = 6.0  # dB: a quarter of the variance is left
_POOR_KID = 0.25  # of the way from training images to copies of their mean
_MEMORISED = 0.5  # of the held-out images' distance to training images
_INVERTED = 8  # images


@dataclass(frozen=True)
class SelfInversion:
    """A search's completions of G's own samples, whose errors are the search's alone."""

    label: str
    mask: str
    count: int
    psnr: float  # mean, of the hole, dB
    psnr_of_mean: float  # of the mean sample


@dataclass(frozen=True)
class Diagnostic:
    """A fact and advice."""

    fact: str
    advice: str


def invert_samples(
    model: DCGAN,
    methods: Sequence[EvaluatedMethod],
    spec: EvaluationSpec,
    store: ResultStore,
    should_stop: ShouldStop,
) -> SelfInversion | None:
    """Let the last method that searches complete G's samples.

    None if there is no such method.
    """
    searches = [each for each in methods if each.searches and each.answer == "sharp"]
    if not searches:
        return None
    method, mask = searches[-1], spec.masks[0]

    def invert() -> dict[str, object]:
        samples = draw_samples(model, 64)
        mean = samples.mean(0).round().astype(np.uint8)
        images = samples[:_INVERTED]
        masks = draw_masks(mask, range(_INVERTED), model.settings.size, spec.seed)
        holes = [each.hole for each in masks]
        outputs = [output.pixels for output in method.run(images, masks, should_stop)]
        if should_stop():
            raise StoppedError
        means = [mean] * _INVERTED
        scores = (_mean_psnr(answers, images, holes) for answers in (outputs, means))
        return asdict(SelfInversion(method.label, mask, _INVERTED, *scores))

    return SelfInversion(**store.cached(f"self-inversion {method.label} {mask}", invert))


def _mean_psnr(answers: Sequence[Images], images: Images, holes: Sequence[Region]) -> float:
    return float(np.mean([psnr(*case) for case in zip(answers, images, holes, strict=True)]))


def verdict(summary: Summary) -> str:
    """Return in one or two sentences whether the model beats the baselines, or which model wins."""
    texts = _TEXTS["verdict"]
    if summary.pairs:  # compared by the method in which A is best
        pair = max(summary.pairs, key=lambda pair: summary.total(pair.first).psnr.mean)
        gap, method = pair.psnr[summary.over_all], pair.first.removeprefix("A:")
        name = {1: "model_b", -1: "model_a", 0: "models_equal"}[gap.sign]
        return str(texts[name].format(gap=texts["gap"].format(**asdict(gap), method=method)))
    ours, baseline, lead = summary.best_ours, summary.best_baseline, summary.lead
    if ours is None or baseline is None or lead is None:
        best = str(ours or baseline)
        name = "ours_only" if ours else "baselines_only"
        return str(texts[name].format(best=best, psnr=summary.total(best).psnr.mean))
    totals = [summary.total(label) for label in (ours, baseline)]
    name = {1: "wins", -1: "loses", 0: "equal" if lead.groups > 1 else "one_group"}[lead.sign]
    sentence = texts[name].format(
        scores=", ".join(f"{total.label} {total.psnr.mean:.2f} dB" for total in totals),
        interval=texts["interval"].format(**asdict(lead)),
        mean=lead.mean,
        size=abs(lead.mean),
    )
    exceptions = [mask for mask, each in summary.leads.items() if each.sign * lead.sign < 0]
    if exceptions:
        opposite = "loses" if lead.sign > 0 else "wins"
        sentence += f" It {opposite} under {_enumerate(exceptions)}."
    return str(sentence)


def diagnose(
    summary: Summary,
    rows: Sequence[ResultRow],
    held_out: HeldOut,
    training: int | None,
    inversion: SelfInversion | None,
    samples: SampleQuality | None,
) -> list[Diagnostic]:
    """Return the diagnostics, the most important first; ``training`` counts training images."""
    diagnostics = [*_of_data(held_out, training)]
    ours = summary.best_ours
    if ours is not None:
        diagnostics += _of_baselines(summary, ours)
        if inversion is not None:
            diagnostics.append(_of_inversion(summary, inversion))
        if samples is not None:
            diagnostics += _of_samples(samples, inpainted=inversion is None)
        diagnostics += _of_domain([row for row in rows if row.label in summary.ours])
        diagnostics += _of_calibration(summary, ours)
    return diagnostics


def _diagnostic(name: str, **values: object) -> Diagnostic:
    return Diagnostic(*(_TEXTS[name][part].format(**values) for part in ("fact", "advice")))


def _of_data(held_out: HeldOut, training: int | None) -> Iterator[Diagnostic]:
    count, groups = len(held_out.images), len(set(held_out.groups))
    duplicates, shared = held_out.duplicates, held_out.shared
    if count < _MIN_IMAGES or groups < _MIN_GROUPS:
        limits = {"min_images": _MIN_IMAGES, "min_groups": _MIN_GROUPS}
        in_groups = "1 group" if groups == 1 else f"{groups} groups"
        yield _diagnostic("few_images", count=count, groups=in_groups, **limits)
    if duplicates:
        facts = {"examined": held_out.examined, "names": _first(duplicates)}
        yield _diagnostic("duplicates", count=len(duplicates), **facts)
    if shared:
        yield _diagnostic("shared_groups", count=len(shared), groups=groups, names=_first(shared))
    if training is None:
        yield _diagnostic("no_training")
    elif training < _MIN_TRAINING:
        yield _diagnostic("few_training", count=training)


def _of_baselines(summary: Summary, ours: str) -> Iterator[Diagnostic]:
    for baseline in ("mean", "nearest"):
        if baseline in summary.labels and (
            summary.total(ours).psnr.mean <= summary.total(baseline).psnr.mean
        ):
            yield _diagnostic(baseline, ours=ours)
    lost = [mask for mask, lead in summary.leads.items() if lead.sign < 0]
    if lost and summary.lead is not None and summary.lead.sign >= 0:
        yield _diagnostic("lost_masks", masks=_enumerate(lost), baseline=summary.best_baseline)


def _of_inversion(summary: Summary, inversion: SelfInversion) -> Diagnostic:
    of_images = summary.cells[inversion.label, inversion.mask].psnr.mean
    facts = _TEXTS["inversion"]["facts"].format(**asdict(inversion), of_images=of_images)
    name = "search_balanced"
    if inversion.psnr > of_images + _LARGE_GAP:
        name = "prior_misses"
    elif inversion.psnr < min(inversion.psnr_of_mean + _EXPLAINED, of_images + _LARGE_GAP):
        name = "search_stuck"
    return _diagnostic(name, label=inversion.label, facts=facts)


def _of_samples(samples: SampleQuality, *, inpainted: bool) -> Iterator[Diagnostic]:
    values = asdict(samples)
    if samples.kid - samples.kid_real > _POOR_KID * (samples.kid_blank - samples.kid_real):
        yield _diagnostic("poor_samples_with_inpainter" if inpainted else "poor_samples", **values)
    if samples.nearest < _MEMORISED * samples.nearest_held_out:
        yield _diagnostic("memorised", **values)


def _of_domain(rows: Sequence[ResultRow]) -> Iterator[Diagnostic]:
    warned = {row.number: row.warnings for row in rows if "unlike the images" in row.warnings}
    count = len({row.number for row in rows})
    if warned and len(warned) >= 0.05 * count:
        reason = next(iter(warned.values()))
        yield _diagnostic("out_of_domain", count=len(warned), images=count, reason=reason)


def _of_calibration(summary: Summary, ours: str) -> Iterator[Diagnostic]:
    bins = summary.errors[ours]
    if bins:
        predicted, observed = _pooled(bins, "predicted"), _pooled(bins, "observed")
        if not 0.67 < observed / max(predicted, 1e-9) < 1.5:
            values = {"predicted": predicted, "observed": observed, "ours": ours}
            word = "overconfident" if observed > predicted else "underconfident"
            yield _diagnostic("miscalibrated", verdict=word, **values)
    if not summary.shares[ours]:
        yield _diagnostic("no_confidence", ours=ours)


def _pooled(bins: Sequence[CalibrationBin], name: str) -> float:
    squares = [getattr(each, name) ** 2 for each in bins]
    return float(np.sqrt(np.average(squares, weights=[each.count for each in bins])))


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
