"""An image completed in parts: its windows as jobs of their own, and their completions as one of the image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pixmend.completion.job import Task
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.windows import View, Window, whole_window, windows_around
from pixmend.images import Picture
from pixmend.masks import Mask


@dataclass(frozen=True)
class Part:
    """A window of a job's image, ``piece``, as a job of its own."""

    job: Task
    window: Window
    piece: Task


def parts_of(job: Task, view: View, size: int) -> list[Part]:
    """Return what is to be completed of a job by a model of ``size`` x ``size`` pixels; nothing, where nothing is missing."""
    hole = job.mask.hole
    if not hole.any():
        return []
    if view == "whole":
        return [Part(job, whole_window(hole), job)]
    return [_part(job, window) for window in windows_around(hole, size)]


def combine(parts: Sequence[Part], done: Sequence[Completion]) -> Completion:
    """Return the completion of an image, given that of each of its parts.

    Its k-th answer has the k-th of each window; losses and histories are sums over windows, snapshots lie side by side.
    """
    job, windows = parts[0].job, tuple(part.window for part in parts)
    steps = [step for step in done[0].snapshots if all(step in part.snapshots for part in done)]
    length = max(len(part.history) for part in done)
    histories = [np.pad(part.history, (0, length - len(part.history)), "edge") for part in done]
    return replace(
        done[0],
        original=job.picture,
        mask=job.mask,
        windows=windows,
        candidates=tuple(
            _candidate(job.picture, windows, answers)
            for answers in zip(*(part.candidates for part in done), strict=True)
        ),
        uncertainty=_uncertainty(parts, done),
        confidence=_confidence(parts, done),
        snapshots={
            step: np.concatenate([part.snapshots[step] for part in done], axis=1) for step in steps
        },
        history=np.sum(histories, axis=0),
        steps=max(part.steps for part in done),
        film=tuple(chain.from_iterable(part.film for part in done)),
        seconds=sum(part.seconds for part in done),
        warnings=tuple(dict.fromkeys(chain.from_iterable(part.warnings for part in done))),
    )


def mask_warnings(mask: Mask, seen: Tensor, view: View) -> Iterator[str]:
    """Yield what makes a mask a poor question; ``seen`` is known of each model pixel, 0 to 1."""
    if mask.missing > 0.95:
        yield f"{mask.missing:.1%} is missing: there is little to go by"
    if view == "whole" and seen.min() > 0.5:
        yield "the hole is finer than the model's pixels; view = window looks closer"


def unchanged_result(job: Task, method: str, seed: int) -> Completion:
    """Return the completion of an image of which nothing is missing: the image."""
    return Completion(
        job.name,
        job.picture,
        job.mask,
        (Candidate(job.picture, "sharp", 0.0, 0.0, 0.0, np.empty(0, np.float32)),),
        np.zeros(job.mask.known.shape, np.float32),
        method=method,
        seed=seed,
        warnings=("nothing is missing",),
    )


def _part(job: Task, window: Window) -> Part:
    at = window.rows, window.columns
    return Part(
        job, window, replace(job, picture=job.picture.part(*at), mask=Mask(job.mask.known[at]))
    )


def _uncertainty(parts: Sequence[Part], done: Sequence[Completion]) -> NDArray[np.float32]:
    spread = np.zeros(parts[0].job.mask.known.shape, np.float32)
    for part, result in zip(parts, done, strict=True):
        window = part.window
        spread[window.rows, window.columns][window.own] = result.uncertainty[window.own]
    return spread


def _confidence(parts: Sequence[Part], done: Sequence[Completion]) -> float | None:
    """Return the mean over missing pixels."""
    shares = [
        (result.confidence, part.window.own.sum()) for part, result in zip(parts, done, strict=True)
    ]
    if any(share is None for share, _ in shares):
        return None
    weights = [count for _, count in shares]
    return float(np.average([share for share, _ in shares], weights=weights))


def _candidate(
    picture: Picture, windows: Sequence[Window], answers: Sequence[Candidate]
) -> Candidate:
    for window, answer in zip(windows, answers, strict=True):
        picture = picture.with_part(answer.picture, window.rows, window.columns, window.own)
    return replace(
        answers[0],
        picture=picture,
        loss=sum(answer.loss for answer in answers),
        contextual=sum(answer.contextual for answer in answers),
        perceptual=sum(answer.perceptual for answer in answers),
        z=answers[0].z if len(answers) == 1 else np.stack([answer.z for answer in answers]),
    )
