"""Diagnostics: causes of the results, in words, from measured facts, each with advice."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch

from pixmend.errors import StoppedError
from pixmend.evaluation.aggregation import Summary
from pixmend.evaluation.baselines import Images
from pixmend.evaluation.evaluated_methods import EvaluatedMethod, ShouldStop
from pixmend.evaluation.held_out import HeldOut
from pixmend.evaluation.metrics import CalibrationBin, Region, psnr
from pixmend.evaluation.realism import SampleQuality, draw_samples
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.images import to_pixels, to_tensor
from pixmend.models import DCGAN, infer

_MIN_IMAGES, _MIN_GROUPS = 30, 10  # intervals of fewer are too wide to compare methods
_MIN_TRAINING = 1000
_LARGE_GAP = 3.0  # dB
_EXPLAINED = 6.0  # dB: a quarter of the variance is left
_POOR_KID = 0.25  # of the way from training images to copies of their mean
_MEMORISED = 0.5  # of the held-out images' distance to training images
_INVERTED, _RECONSTRUCTED = 8, 64  # images


@dataclass(frozen=True)
class Reconstruction:
    """Whole held-out images through E and G: mean PSNR, and that of each image's mean colour.

    It bounds what the encoder can restore.
    """

    count: int
    psnr: float
    psnr_of_grey: float


@dataclass(frozen=True)
class SelfInversion:
    """A search's completions of G's own samples, which G can reproduce exactly.

    A low hole PSNR is therefore the fault of the search. ``psnr_of_mean`` is that of the mean
    sample.
    """

    label: str
    mask: str
    count: int
    psnr: float
    psnr_of_mean: float


@dataclass(frozen=True)
class Diagnostic:
    """A fact and advice."""

    fact: str
    advice: str


def reconstruct(model: DCGAN, held_out: HeldOut) -> Reconstruction | None:
    """Reconstruct whole held-out images; None without an encoder."""
    if model.encoder is None:
        return None
    images = held_out.images[:_RECONSTRUCTED]
    target = to_tensor(images).to(next(model.generator.parameters()).device)
    outputs = list(to_pixels(infer(model, target, torch.ones_like(target[:, :1]))))
    grey = [np.broadcast_to(image.mean((0, 1)).round(), image.shape) for image in images]
    holes = [np.ones(images.shape[1:3], bool)] * len(images)
    return Reconstruction(
        len(images), _mean_psnr(outputs, images, holes), _mean_psnr(grey, images, holes)
    )


def invert_samples(
    model: DCGAN,
    methods: Sequence[EvaluatedMethod],
    spec: EvaluationSpec,
    store: ResultStore,
    *,
    should_stop: ShouldStop = lambda: False,
) -> SelfInversion | None:
    """Let the last method that searches without the encoder complete G's samples.

    None if there is no such method: the encoder's conditions, not z, make most of a completion.

    Raises
    ------
    StoppedError
        ``should_stop`` returned True.
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
        assert method.run is not None
        answers = [output.pixels for output in method.run(images, masks, should_stop)]
        if should_stop():
            raise StoppedError
        figures = (
            _mean_psnr(answers, images, holes),
            _mean_psnr([mean] * _INVERTED, images, holes),
        )
        return asdict(SelfInversion(method.label, mask, _INVERTED, *figures))

    return SelfInversion(**store.cached(f"self-inversion {method.label} {mask}", invert))


def _mean_psnr(answers: Sequence[Images], images: Images, holes: Sequence[Region]) -> float:
    return float(np.mean([psnr(*case) for case in zip(answers, images, holes, strict=True)]))


def verdict(summary: Summary) -> str:
    """Return in one or two sentences whether the model beats the baselines, or which model wins."""
    if summary.pairs:
        return _compare_models(summary)
    ours, baseline, lead = summary.best_ours, summary.best_baseline, summary.lead
    if ours is None or baseline is None or lead is None:
        best = str(ours or baseline)
        sentence = f"{best} completes best, {summary.total(best).psnr.mean:.2f} dB"
        return f"{sentence}; there is no baseline." if ours else f"Baselines only: {sentence}."
    totals = [summary.total(label) for label in (ours, baseline)]
    scores = ", ".join(f"{total.label} {total.psnr.mean:.2f} dB" for total in totals)
    interval = f"95 % interval {lead.low:+.2f} to {lead.high:+.2f} dB"
    if lead.groups < 2:
        return f"One group of images is not enough for a comparison: {scores}."
    if lead.sign == 0:
        return (
            "The model and the best baseline cannot be told apart: "
            f"the difference is {lead.mean:+.2f} dB ({interval}): {scores}."
        )
    outcome, relation = ("wins", "over") if lead.sign > 0 else ("loses", "to")
    exceptions = [mask for mask, each in summary.leads.items() if each.sign == -lead.sign]
    opposite = "loses" if lead.sign > 0 else "wins"
    return (
        f"The model {outcome} by {abs(lead.mean):.2f} dB {relation} the best baseline "
        f"({interval}): {scores}."
        + (f" It {opposite} under {_enumerate(exceptions)}." if exceptions else "")
    )


def _compare_models(summary: Summary) -> str:
    """Compare two models by the method in which A is best."""
    pair = max(summary.pairs, key=lambda pair: summary.total(pair.first).psnr.mean)
    gap, method = pair.psnr[summary.over_all], pair.first.removeprefix("A:")
    span = f"{gap.mean:+.2f} dB, 95 % interval {gap.low:+.2f} to {gap.high:+.2f}, by {method}"
    if gap.sign == 0:
        return f"A and B cannot be told apart: B - A is {span}."
    winner, loser = ("B", "A") if gap.sign > 0 else ("A", "B")
    return f"{winner} completes better than {loser}: B - A is {span}."


def diagnose(
    summary: Summary,
    rows: Sequence[ResultRow],
    held_out: HeldOut,
    *,
    training: int | None,
    inversion: SelfInversion | None = None,
    reconstruction: Reconstruction | None = None,
    samples: SampleQuality | None = None,
) -> list[Diagnostic]:
    """Return the diagnostics, the most important first.

    Parameters
    ----------
    training
        Number of training images; None if unknown.
    """
    pairs: list[tuple[str, str]] = [*_of_data(held_out, training)]
    ours = summary.best_ours
    if ours is not None:
        pairs += _of_baselines(summary, ours)
        if reconstruction is not None:
            pairs += _of_reconstruction(summary, ours, reconstruction)
        if inversion is not None:
            pairs += _of_inversion(summary, inversion)
        if samples is not None:
            pairs += _of_samples(samples, encoder=reconstruction is not None)
        pairs += _of_domain([row for row in rows if row.label in summary.ours])
        pairs += _of_calibration(summary, ours)
    return [Diagnostic(*pair) for pair in pairs]


def _of_data(held_out: HeldOut, training: int | None) -> Iterator[tuple[str, str]]:
    count, groups = len(held_out.images), len(set(held_out.groups))
    if count < _MIN_IMAGES or groups < _MIN_GROUPS:
        yield (
            f"The results rest on {count} images of {groups} {'group' if groups == 1 else 'groups'}"
            ": intervals are wide.",
            f"Evaluate on at least {_MIN_IMAGES} images of {_MIN_GROUPS} groups before you choose "
            "a method.",
        )
    if held_out.duplicates:
        yield (
            f"{len(held_out.duplicates)} of {held_out.examined} examined images are near-duplicates"
            f" of training images and were left out ({_first(held_out.duplicates)}).",
            "Hold out whole groups (fonts, species, scenes) when you split the images.",
        )
    if held_out.shared:
        yield (
            f"{len(held_out.shared)} of {groups} groups also occur in the training data "
            f"({_first(held_out.shared)}): the results are too good.",
            "Evaluate on groups that training has not seen; a run's held_out.json lists them.",
        )
    if training is None:
        yield (
            "Training images were not given: near-duplicates of them cannot be detected, and the "
            "baselines mean and nearest are unavailable.",
            "Give --train-data RECORDS.",
        )
    elif training < _MIN_TRAINING:
        yield (
            f"The model was trained on {training} images, few for a DCGAN.",
            "Add images of the same kind, or train with diffaugment and, if images may be flipped, "
            "horizontal_flip.",
        )


def _of_baselines(summary: Summary, ours: str) -> Iterator[tuple[str, str]]:
    advice = {
        "mean": "Train longer, and check the samples in the run's report: "
        "they should look like your images.",
        "nearest": "Train an encoder with retrieval of training images (--recipe encoder), "
        "which starts from that neighbour.",
    }
    names = {"mean": "the mean training image", "nearest": "the nearest training image"}
    for baseline, name in names.items():
        if baseline in summary.labels and (
            summary.total(ours).psnr.mean <= summary.total(baseline).psnr.mean
        ):
            yield f"{ours} is no better than {name}.", advice[baseline]
    lost = [mask for mask, lead in summary.leads.items() if lead.sign < 0]
    if lost and summary.lead is not None and summary.lead.sign >= 0:
        yield (
            f"Under {_enumerate(lost)} {summary.best_baseline} is better.",
            "Thin holes favour smooth interpolation: use it there.",
        )


def _of_inversion(summary: Summary, inversion: SelfInversion) -> Iterator[tuple[str, str]]:
    label, mask = inversion.label, inversion.mask
    of_images = summary.cells[label, mask].psnr.mean
    facts = (
        f"{label} completes G's own samples under {mask} with {inversion.psnr:.1f} dB "
        f"(their mean: {inversion.psnr_of_mean:.1f} dB), and your images with {of_images:.1f} dB"
    )
    if inversion.psnr > of_images + _LARGE_GAP:
        yield (
            f"G's prior samples do not cover the domain: {facts}.",
            "The search is good enough: train longer, with more filters, more images or an "
            "encoder.",
        )
    elif (
        inversion.psnr < inversion.psnr_of_mean + _EXPLAINED
        and inversion.psnr < of_images + _LARGE_GAP
    ):
        yield (
            f"The search of {label} is stuck: {facts}.",
            "It fails even where G can produce the answer: search longer (:4 after the method's "
            "name), or train an encoder, which needs no search.",
        )
    else:
        yield f"Search and G are balanced: {facts}.", "Both would have to improve."


def _of_reconstruction(
    summary: Summary, ours: str, reconstruction: Reconstruction
) -> Iterator[tuple[str, str]]:
    facts = (
        f"E and G reconstruct {reconstruction.count} whole images with {reconstruction.psnr:.1f} "
        f"dB (one grey each: {reconstruction.psnr_of_grey:.1f} dB); {ours} completes holes with "
        f"{summary.total(ours).psnr.mean:.1f} dB"
    )
    if reconstruction.psnr < reconstruction.psnr_of_grey + _EXPLAINED:
        yield (
            f"The encoder underfits: {facts}.",
            "It loses even known pixels: train longer, or with more encoder_filters, and check "
            "that the images are of the kind trained on.",
        )
    else:
        yield (
            f"Encoder and G preserve known pixels: {facts}.",
            "Holes lack knowledge of the domain: more training images or more retrieval_images "
            "help, a longer search does not.",
        )


def _of_samples(samples: SampleQuality, *, encoder: bool) -> Iterator[tuple[str, str]]:
    if samples.kid - samples.kid_real > _POOR_KID * (samples.kid_blank - samples.kid_real):
        yield (
            "G's prior samples do not match this domain yet: KID in "
            f"{samples.features} of {samples.count} samples to training images is "
            f"{samples.kid:.3g}; of other training images {samples.kid_real:.2g}, of copies of "
            f"the mean image {samples.kid_blank:.3g}.",
            "This matters little here, as the encoder conditions G; searches (yeh, classic ...) "
            "suffer from it."
            if encoder
            else "Train longer, or with r1_gamma or diffaugment, until samples look like your "
            "images; an encoder (--recipe encoder) demands less of G.",
        )
    if samples.nearest < _MEMORISED * samples.nearest_held_out:
        yield (
            f"The model memorises: its samples are {samples.nearest:.2g} from the nearest training "
            f"image, held-out images {samples.nearest_held_out:.2g}.",
            "Add images, or train with diffaugment; compare the samples with their nearest "
            "training images.",
        )


def _of_domain(rows: Sequence[ResultRow]) -> Iterator[tuple[str, str]]:
    warned = {row.number: row.warnings for row in rows if "unlike the images" in row.warnings}
    count = len({row.number for row in rows})
    if warned and len(warned) >= 0.05 * count:
        yield (
            f"{len(warned)} of {count} images are unlike the training images "
            f"(for one: {next(iter(warned.values()))}).",
            "Check that they are framed, coloured and aligned as the training images; else train "
            "on images like these.",
        )


def _of_calibration(summary: Summary, ours: str) -> Iterator[tuple[str, str]]:
    bins = summary.errors[ours]
    if bins:
        predicted, observed = _pooled(bins, "predicted"), _pooled(bins, "observed")
        if not 0.67 < observed / max(predicted, 1e-9) < 1.5:
            word = "overconfident" if observed > predicted else "underconfident"
            yield (
                f"The uncertainty map of {ours} is {word}: it predicts errors of {predicted:.0f} "
                f"grey levels, and they are {observed:.0f}.",
                "Use the map to rank pixels, not as the size of errors; train the encoder longer.",
            )
    if not summary.shares[ours]:
        yield (
            f"{ours} has no confidence: the model file has no calibration, or no encoder.",
            "Train or export the model with an encoder and held-out images.",
        )


def _pooled(bins: Sequence[CalibrationBin], name: str) -> float:
    squares = [getattr(each, name) ** 2 for each in bins]
    return float(np.sqrt(np.average(squares, weights=[each.count for each in bins])))


def _enumerate(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
