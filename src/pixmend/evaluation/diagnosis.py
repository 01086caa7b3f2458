"""Why results are as they are, in words, from measured facts: each finding with what to try next."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from pixmend.errors import StoppedError
from pixmend.evaluation import metrics
from pixmend.evaluation.contestants import Contestant
from pixmend.evaluation.heldout import HeldOut
from pixmend.evaluation.ledger import Row
from pixmend.evaluation.protocol import Protocol, masks_for
from pixmend.evaluation.summary import Summary
from pixmend.images import to_pixels
from pixmend.models import DCGAN, sample_latents
from pixmend.randomness import generator_for
from pixmend.storage import write_text

__all__ = ["Finding", "Probe", "diagnose", "probe_samples", "verdict"]

_SAMPLES = 8
_FEW_IMAGES = 30  # below, intervals are too wide to tell methods apart that people can
_FEW_TRAINING = 1000
_MISSED = 3.0  # dB
_EXPLAINED = 6.0  # dB: a quarter of the variance left


@dataclass(frozen=True)
class Finding:
    """What was found, and what to try."""

    fact: str
    advice: str


@dataclass(frozen=True)
class Probe:
    """How a method completes images that G can draw exactly: its own samples. What it misses there, the search or the encoder misses.

    Attributes
    ----------
    label, mask, count
        The method, the mask and how many samples.
    psnr
        Mean hole PSNR of its answers.
    psnr_of_mean
        That of the mean sample as the answer to all.
    """

    label: str
    mask: str
    count: int
    psnr: float
    psnr_of_mean: float


def probe_samples(
    model: DCGAN,
    contestants: Sequence[Contestant],
    protocol: Protocol,
    kept: Path,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Probe | None:
    """Let the last of our methods complete samples of G under the first mask; read from the file ``kept`` if it holds just that.

    Raises
    ------
    StoppedError
        ``should_stop`` said yes.
    """
    ours = [each for each in contestants if each.ours and each.answer == "sharp"]
    if not ours:
        return None
    contestant, spec = ours[-1], protocol.masks[0]
    earlier = _kept_probe(kept)
    if earlier is not None and (earlier.label, earlier.mask) == (contestant.label, spec):
        return earlier
    images = _samples(model, 64)
    mean = images.mean(0).round().astype(np.uint8)
    chosen = images[:_SAMPLES]
    masks = masks_for(protocol, spec, range(_SAMPLES), model.settings.size)
    answers = contestant.run(chosen, masks, should_stop)
    if should_stop():
        raise StoppedError
    pairs = list(zip(chosen, masks, strict=True))
    found = Probe(
        contestant.label,
        spec,
        _SAMPLES,
        _mean(
            [metrics.psnr(a.pixels, i, m.hole) for a, (i, m) in zip(answers, pairs, strict=True)]
        ),
        _mean([metrics.psnr(mean, image, mask.hole) for image, mask in pairs]),
    )
    write_text(kept, json.dumps(asdict(found)) + "\n")
    return found


def verdict(summary: Summary) -> str:
    """Return in one sentence or two whether the model completes this domain better than what needs no model."""
    rival, ours, lead = summary.best_rival, summary.best_ours, summary.lead
    if ours is None:
        return f"Rivals only: {rival} completes best, {_decibels(summary, rival)}."
    if rival is None or lead is None:
        return f"{ours} completes best, {_decibels(summary, ours)}; no rival took part to hold it against."
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
    probe: Probe | None,
) -> list[Finding]:
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
        *_of_probe(summary, probe),
        *_of_domain(own),
        *_of_calibration(summary),
    ]
    return found


def _of_data(summary: Summary, held: HeldOut, training: int | None) -> list[Finding]:
    found = []
    count, families = len(held.images), len(set(held.families))
    if count < _FEW_IMAGES or families < 10:
        found.append(
            Finding(
                f"The figures stand on {count} images of {families} {'family' if families == 1 else 'families'}: intervals are wide.",
                f"Evaluate on {_FEW_IMAGES} images of 10 families or more before choosing between methods.",
            )
        )
    if held.duplicates:
        found.append(
            Finding(
                f"{len(held.duplicates)} of {held.looked_at} images looked at are training images or all but the same, and were left out "
                f"({_few(held.duplicates)}).",
                "Hold out whole families (fonts, species, scenes) when you split the images.",
            )
        )
    if held.shared:
        found.append(
            Finding(
                f"{len(held.shared)} of {families} families have images in the training data too ({_few(held.shared)}): "
                "the figures flatter.",
                "Evaluate on families that training has not seen; a run's held_out.json names those it held out.",
            )
        )
    if training is not None and training < _FEW_TRAINING:
        found.append(
            Finding(
                f"The model learned from {training} images, which is little for a DCGAN.",
                "Add images of the same kind, or train with augment and, where images may be flipped, mirror.",
            )
        )
    if training is None:
        found.append(
            Finding(
                "The training images were not given: copies of them among these images would go unnoticed, and mean and nearest "
                "did not take part.",
                "Give --train-data RECORDS.",
            )
        )
    return found


def _of_rivals(summary: Summary) -> list[Finding]:
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
            found.append(Finding(f"{ours} is no better than {fact}.", advice))
    lost = [mask for mask, lead in summary.leads.items() if lead.sure < 0 and mask != last]
    if lost and summary.lead is not None and summary.lead.sure >= 0:
        found.append(
            Finding(
                f"Under {_list(lost)} {summary.best_rival} is better.",
                "Where holes are thin, smooth continuation is hard to beat: use it there.",
            )
        )
    return found


def _of_probe(summary: Summary, probe: Probe | None) -> list[Finding]:
    if probe is None or (probe.label, probe.mask) not in summary.cells:
        return []
    held = summary.cells[probe.label, probe.mask].psnr.mean
    facts = (
        f"{probe.label} completes G's own samples under {probe.mask} with {probe.psnr:.1f} dB (their mean: {probe.psnr_of_mean:.1f} dB), "
        f"and your images with {held:.1f} dB"
    )
    if probe.psnr < probe.psnr_of_mean + _EXPLAINED and probe.psnr < held + _MISSED:
        return [
            Finding(
                f"The search or the encoder is stuck: {facts}.",
                "It fails even where G can draw the answer: search for longer (--methods default:4), or train the encoder for longer.",
            )
        ]
    if probe.psnr > held + _MISSED:
        return [
            Finding(
                f"G misses the domain: {facts}.",
                "The search is not what is lacking: train longer, with more filters or more images.",
            )
        ]
    return [Finding(f"Search and G are in balance: {facts}.", "Both would have to get better.")]


def _of_domain(own: Sequence[Row]) -> list[Finding]:
    doubted = {row.number for row in own if "unlike the images" in row.warnings}
    count = len({row.number for row in own})
    if not doubted or len(doubted) < 0.05 * count:
        return []
    reason = next(row.warnings for row in own if row.number in doubted and row.warnings)
    return [
        Finding(
            f"{len(doubted)} of {count} images are unlike what the model was trained on (for one: {reason}).",
            "See that they are framed, coloured and aligned as the training images; else train on images like these.",
        )
    ]


def _of_calibration(summary: Summary) -> list[Finding]:
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
                Finding(
                    f"The uncertainty map of {label} is {word}: it foretells errors of {said:.0f} grey levels, and they are {came:.0f}.",
                    "Take the map as an order of pixels, not as a size of errors; train the encoder, which learns it, for longer.",
                )
            )
    if not summary.shares[label]:
        found.append(
            Finding(
                f"{label} tells no confidence: the model file carries no calibration, or no encoder.",
                "Train or export the model with an encoder and held-out images.",
            )
        )
    return found


def _samples(model: DCGAN, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Return draws of G, uint8 [count, S, S, C]; without an encoder's condition G draws all of the image from z."""
    import torch

    device = next(model.generator.parameters()).device
    z = sample_latents(model.settings, count, generator_for(0, "evaluate", "probe")).to(device)
    with torch.no_grad():
        return to_pixels(model.generator(z)).astype(np.uint8)


def _kept_probe(path: Path) -> Probe | None:
    try:
        return Probe(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


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


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _pooled(values: Sequence[float], counts: Sequence[int]) -> float:
    return float(np.sqrt(np.average(np.square(values), weights=counts)))
