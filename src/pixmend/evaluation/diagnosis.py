"""Why results are as they are, in words, from measured facts: each finding with what to try next."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.ledger import Row
from pixmend.evaluation.probes import Rebuilt, SelfInversion
from pixmend.evaluation.realism import Samples
from pixmend.evaluation.summary import Summary

_FEW_IMAGES = 30  # below, intervals are too wide to tell methods apart that people can
_FEW_TRAINING = 1000
_MISSED = 3.0  # dB
_EXPLAINED = 6.0  # dB: a quarter of the variance left
_UNDRAWN = 0.25  # of the way from training images to copies of their mean, in KID
_COPIED = 0.5  # of the distance of held-out images


@dataclass(frozen=True)
class Diagnostic:
    """What was found, and what to try."""

    fact: str
    advice: str


def verdict(summary: Summary) -> str:
    """Return in one sentence or two whether the model completes this domain better than what needs no model, or one model than another."""
    if summary.pairs:
        return _between(summary)
    rival, ours, lead = summary.best_rival, summary.best_ours, summary.lead
    if lead is None or rival is None or ours is None:
        best = ours or rival
        said = f"{best} completes best, {_decibels(summary, best)}"
        return (
            f"{said}; no rival took part to hold it against." if ours else f"Rivals only: {said}."
        )
    beside = f"{ours} {_decibels(summary, ours)}, {rival} {_decibels(summary, rival)}"
    span = f"95 % interval {lead.low:+.2f} to {lead.high:+.2f} dB"
    if lead.sure > 0:
        return f"The model wins by {lead.mean:.2f} dB over the best rival ({span}): {beside}.{_masks_lost(summary)}"
    if lead.sure < 0:
        return f"The model loses by {-lead.mean:.2f} dB to the best rival ({span}): {beside}.{_masks_won(summary)}"
    if lead.families < 2:
        return f"One family of images says nothing of others: {beside}."
    return f"Neither wins: the difference of the model to the best rival is {lead.mean:+.2f} dB ({span}): {beside}."


def diagnose(
    summary: Summary,
    rows: Sequence[Row],
    held: HeldOut,
    *,
    training: int | None,
    probe: SelfInversion | None = None,
    rebuilt: Rebuilt | None = None,
    samples: Samples | None = None,
) -> list[Diagnostic]:
    """Return what the figures say of the reasons, the weightiest first.

    Parameters
    ----------
    training
        Number of training images; None where they were not given.
    """
    own = [row for row in rows if row.label in summary.ours]
    found = [
        *_of_data(summary, held, training),
        *_of_rivals(summary),
        *_of_rebuilt(summary, rebuilt),
        *_of_probe(summary, probe),
        *_of_samples(samples, summary, rebuilt is not None),
        *_of_domain(own),
        *_of_calibration(summary),
    ]
    return found


def _between(summary: Summary) -> str:
    """Compare two models by the best method of the first that both have."""
    last = summary.over_all
    pair = max(summary.pairs, key=lambda pair: summary.cells[pair.first, last].psnr.mean)
    gap, method = pair.psnr[last], pair.first.partition(":")[2]
    span = f"{gap.mean:+.2f} dB, 95 % interval {gap.low:+.2f} to {gap.high:+.2f}, by {method}"
    if gap.sure == 0:
        return f"A and B cannot be told apart: B less A is {span}."
    winner, loser = ("B", "A") if gap.sure > 0 else ("A", "B")
    return f"{winner} completes better than {loser}: B less A is {span}."


def _of_data(summary: Summary, held: HeldOut, training: int | None) -> list[Diagnostic]:
    found = []
    count, families = len(held.images), len(set(held.families))
    if count < _FEW_IMAGES or families < 10:
        found.append(
            Diagnostic(
                f"The figures stand on {count} images of {families} {'family' if families == 1 else 'families'}: intervals are wide.",
                f"Evaluate on {_FEW_IMAGES} images of 10 families or more before choosing between methods.",
            )
        )
    if held.duplicates:
        found.append(
            Diagnostic(
                f"{len(held.duplicates)} of {held.looked_at} images looked at are training images or all but the same, and were left out "
                f"({_few(held.duplicates)}).",
                "Hold out whole families (fonts, species, scenes) when you split the images.",
            )
        )
    if held.shared:
        found.append(
            Diagnostic(
                f"{len(held.shared)} of {families} families have images in the training data too ({_few(held.shared)}): "
                "the figures flatter.",
                "Evaluate on families that training has not seen; a run's held_out.json names those it held out.",
            )
        )
    if training is not None and training < _FEW_TRAINING:
        found.append(
            Diagnostic(
                f"The model learned from {training} images, which is little for a DCGAN.",
                "Add images of the same kind, or train with diffaugment and, where images may be flipped, horizontal_flip.",
            )
        )
    if training is None:
        found.append(
            Diagnostic(
                "The training images were not given: copies of them among these images would go unnoticed, and mean and nearest "
                "did not take part.",
                "Give --train-data RECORDS.",
            )
        )
    return found


def _of_rivals(summary: Summary) -> list[Diagnostic]:
    ours, found = summary.best_ours, []
    if ours is None:
        return []
    last = summary.over_all
    for rival, fact, advice in (
        (
            "mean",
            "the mean of the training images: the model adds nothing to knowing the average",
            "Train longer, and look at the samples of the run's report: they should look like your images.",
        ),
        (
            "nearest",
            "the nearest training image: looking up does as well as learning",
            "Train an encoder with a memory of training images (--recipe encoder), which starts from that neighbour.",
        ),
    ):
        if (rival, last) in summary.cells and (
            summary.cells[ours, last].psnr.mean <= summary.cells[rival, last].psnr.mean
        ):
            found.append(Diagnostic(f"{ours} is no better than {fact}.", advice))
    lost = [mask for mask, lead in summary.leads.items() if lead.sure < 0 and mask != last]
    if lost and summary.lead is not None and summary.lead.sure >= 0:
        found.append(
            Diagnostic(
                f"Under {_list(lost)} {summary.best_rival} is better.",
                "Where holes are thin, smooth continuation is hard to beat: use it there.",
            )
        )
    return found


def _of_probe(summary: Summary, probe: SelfInversion | None) -> list[Diagnostic]:
    if probe is None or (probe.label, probe.mask) not in summary.cells:
        return []
    held = summary.cells[probe.label, probe.mask].psnr.mean
    facts = (
        f"{probe.label} completes G's own samples under {probe.mask} with {probe.psnr:.1f} dB (their mean: {probe.psnr_of_mean:.1f} dB), "
        f"and your images with {held:.1f} dB"
    )
    if probe.psnr < probe.psnr_of_mean + _EXPLAINED and probe.psnr < held + _MISSED:
        return [
            Diagnostic(
                f"The search of {probe.label} is stuck: {facts}.",
                "It fails even where G can draw the answer: search for longer (:4 after the method's name), or train an encoder, "
                "which needs no search.",
            )
        ]
    if probe.psnr > held + _MISSED:
        return [
            Diagnostic(
                f"G, told nothing, misses the domain: {facts}.",
                "The search is not what is lacking: train longer, with more filters, more images or an encoder.",
            )
        ]
    return [Diagnostic(f"Search and G are in balance: {facts}.", "Both would have to get better.")]


def _of_rebuilt(summary: Summary, rebuilt: Rebuilt | None) -> list[Diagnostic]:
    label = summary.best_ours
    if rebuilt is None or label is None:
        return []
    facts = (
        f"{rebuilt.count} whole images come back from E and G with {rebuilt.psnr:.1f} dB (one grey each: {rebuilt.psnr_of_grey:.1f} dB), "
        f"holes with {summary.cells[label, summary.over_all].psnr.mean:.1f} dB by {label}"
    )
    if rebuilt.psnr < rebuilt.psnr_of_grey + _EXPLAINED:
        return [
            Diagnostic(
                f"The encoder misses: {facts}.",
                "It loses even what it is shown: train for longer, or with more encoder_filters; are these images of the kind trained on?",
            )
        ]
    return [
        Diagnostic(
            f"Encoder and G carry what they see: {facts}.",
            "What holes lack is knowledge of the domain: more training images or a larger memory help, searching for longer does not.",
        )
    ]


def _of_samples(samples: Samples | None, summary: Summary, told: bool) -> list[Diagnostic]:
    if samples is None or not summary.ours:
        return []
    found = []
    facts = (
        f"KID in {samples.features} of {samples.count} samples to training images {samples.kid:.3g}; one half of these to the other "
        f"{samples.floor:.2g}, copies of the mean image {samples.blank:.3g}"
    )
    if samples.kid - samples.floor > _UNDRAWN * (samples.blank - samples.floor):
        advice = (
            "That weighs little here: completions are drawn from what the encoder sees. The searches (yeh, classic ...) suffer from it."
            if told
            else "Train longer, or with r1_gamma or diffaugment, until samples look like your images; "
            "an encoder (--recipe encoder) needs less of G."
        )
        found.append(Diagnostic(f"G, told nothing, cannot draw this domain yet: {facts}.", advice))
    if samples.nearest < _COPIED * samples.nearest_real:
        found.append(
            Diagnostic(
                f"The model memorises: its samples are {samples.nearest:.2g} from the nearest training image, "
                f"held-out images {samples.nearest_real:.2g}.",
                "Add images, or train with diffaugment; see the samples beside their nearest training images.",
            )
        )
    return found


def _of_domain(own: Sequence[Row]) -> list[Diagnostic]:
    doubted = {row.number for row in own if "unlike the images" in row.warnings}
    count = len({row.number for row in own})
    if not doubted or len(doubted) < 0.05 * count:
        return []
    reason = next(row.warnings for row in own if row.number in doubted and row.warnings)
    return [
        Diagnostic(
            f"{len(doubted)} of {count} images are unlike what the model was trained on (for one: {reason}).",
            "See that they are framed, coloured and aligned as the training images; else train on images like these.",
        )
    ]


def _of_calibration(summary: Summary) -> list[Diagnostic]:
    label = summary.best_ours
    if label is None:
        return []
    found = []
    groups = summary.errors[label]
    if groups:
        said = _pooled([group.foretold for group in groups], [group.count for group in groups])
        came = _pooled([group.true for group in groups], [group.count for group in groups])
        if not 0.67 < came / max(said, 1e-9) < 1.5:
            word = "too sure" if came > said else "too modest"
            found.append(
                Diagnostic(
                    f"The uncertainty map of {label} is {word}: it foretells errors of {said:.0f} grey levels, and they are {came:.0f}.",
                    "Take the map as an order of pixels, not as a size of errors; train the encoder, which learns it, for longer.",
                )
            )
    if not summary.shares[label]:
        found.append(
            Diagnostic(
                f"{label} tells no confidence: the model file carries no calibration, or no encoder.",
                "Train or export the model with an encoder and held-out images.",
            )
        )
    return found


def _masks_lost(summary: Summary) -> str:
    lost = [mask for mask, lead in summary.leads.items() if lead.sure < 0]
    return f" It loses under {_list(lost)}." if lost else ""


def _masks_won(summary: Summary) -> str:
    won = [mask for mask, lead in summary.leads.items() if lead.sure > 0]
    return f" It wins under {_list(won)}." if won else ""


def _decibels(summary: Summary, label: str | None) -> str:
    return "" if label is None else f"{summary.cells[label, summary.over_all].psnr.mean:.2f} dB"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")


def _pooled(values: Sequence[float], counts: Sequence[int]) -> float:
    return float(np.sqrt(np.average(np.square(values), weights=counts)))
