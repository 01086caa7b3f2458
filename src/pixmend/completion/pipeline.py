"""Completion, from tasks to completed images: frame, estimate, choose, blend, merge the windows."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.completion.amortized import amortized
from pixmend.completion.animation import Preview
from pixmend.completion.blend import BLENDS, Blend
from pixmend.completion.latent import latent
from pixmend.completion.observer import Observer
from pixmend.completion.result import Candidate, Completion, Samples, SearchFrames
from pixmend.completion.task import Answer, CompletionOptions, Task, View
from pixmend.completion.view import Frame, Window, WindowTask, frame_for, window_tasks
from pixmend.images import Picture, parse_colour, to_channels, to_pixels, to_tensor
from pixmend.masks import Mask
from pixmend.models import DCGAN, Calibration

_ALIKE = 8 / 127.5  # root mean square difference, 8 grey levels, below which answers are alike


def complete(
    model: DCGAN,
    tasks: Iterable[Task],
    options: CompletionOptions,
    *,
    on_preview: Callable[[Preview], None] = lambda preview: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Completion]:
    """Complete images in order, ``options.batch`` at a time; tasks are read as needed.

    Parameters
    ----------
    on_preview
        Called after every step.
    should_stop
        Asked after every step: on True, the current batch ends with its best answers so far, and no other begins.
        Asked before every answer is blended, too: an exception that it raises ends the work at once.
    """
    remaining = iter(tasks)
    while not should_stop() and (batch := list(islice(remaining, options.batch))):
        yield from complete_batch(
            model, batch, options, on_preview=on_preview, should_stop=should_stop
        )


def complete_batch(
    model: DCGAN,
    tasks: Sequence[Task],
    options: CompletionOptions,
    *,
    on_preview: Callable[[Preview], None] = lambda preview: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Completion]:
    """Complete the images of one batch, each as it would be alone; errors are those of `Task.check`.

    Images without holes are returned unchanged.
    """
    options = for_model(model, options)
    for task in tasks:
        task.check()
    windows = [window_tasks(task, options.view, model.settings.size) for task in tasks]
    remaining, completed = chain.from_iterable(windows), list[Completion]()
    while batch := list(islice(remaining, options.batch)):
        completed += _complete_windows(model, batch, options, on_preview, should_stop)
    results = iter(completed)
    return [
        _merge(parts, list(islice(results, len(parts)))) if parts else _unchanged(task, options)
        for task, parts in zip(tasks, windows, strict=True)
    ]


def for_model(model: DCGAN, options: CompletionOptions) -> CompletionOptions:
    """Return the options with their method set for this model: see `Method.for_model`."""
    return replace(options, method=options.method.for_model(model))


def _complete_windows(
    model: DCGAN,
    parts: Sequence[WindowTask],
    options: CompletionOptions,
    on_preview: Callable[[Preview], None],
    should_stop: Callable[[], bool],
) -> list[Completion]:
    started = time.perf_counter()
    views = [_view(model, part.piece) for part in parts]
    device = next(model.generator.parameters()).device
    target = torch.stack([view.target for view in views]).to(device)  # [B, C, S, S]
    known = torch.stack([view.known for view in views]).to(device)  # [B, 1, S, S]
    frames, background = [view.frame for view in views], _background(model)

    def on_step(step: int, losses: Sequence[float], best: Callable[[], Tensor]) -> None:
        on_preview(Preview(step, parts, frames, losses, best, background))

    observer = Observer(
        on_step,
        should_stop,
        snapshots={*options.snapshots, *options.frames},
        seconds=options.seconds,
    )
    estimate = amortized if options.method.uses_inpainter(model) else latent
    samples = estimate(model, target, known, options, observer)
    judged = _judge(model, samples, target, known, options)
    seconds = (time.perf_counter() - started) / len(parts)
    return [
        _completion(model, part.piece, view, judged, index, options, should_stop, seconds)
        for index, (part, view) in enumerate(zip(parts, views, strict=True))
    ]


@dataclass(frozen=True)
class _ModelView:
    """What the model sees of an image: where, its pixels [C, S, S] in [-1, 1], and their known share [1, S, S]."""

    frame: Frame
    target: Tensor
    known: Tensor


def _view(model: DCGAN, task: Task) -> _ModelView:
    background, channels = _background(model), model.settings.channels
    image = to_tensor(to_channels(task.picture.pixels, channels, background))
    known = torch.from_numpy(task.mask.known)
    frame = frame_for(known, model.card.get("fit", "crop"))
    # Padding is transparent if the model knows alpha, else of the background's colour.
    paint = np.array([[[*background, 0] if channels == "RGBA" else background]], np.uint8)
    outside = to_tensor(to_channels(paint, channels, background)).flatten()
    return _ModelView(frame, *frame.view(image, known, model.settings.size, outside))


def _background(model: DCGAN) -> tuple[int, int, int]:
    """Return the colour behind the model's training images."""
    return parse_colour(str(model.card.get("background", "white")))


@dataclass(frozen=True, eq=False)
class _Judged:
    """Samples, and what calibration says of each image.

    The losses of their mean, [B, 3], are computed only if it is an answer.
    """

    samples: Samples
    mean_losses: Tensor | None
    confidence: list[float | None]
    out_of_domain: list[list[str]]


@torch.no_grad()
def _judge(
    model: DCGAN, samples: Samples, target: Tensor, known: Tensor, options: CompletionOptions
) -> _Judged:
    mean_losses = None
    if options.answer == "average":
        losses = options.method.objective(model, target, known).of_images(samples.mean)
        mean_losses = torch.stack(losses, -1)
    # Calibration was measured on the inpainter's answers.
    inpainted = options.method.uses_inpainter(model)
    calibration = Calibration.of(model.card) if inpainted else None
    if calibration is None:
        count = len(target)
        return _Judged(samples, mean_losses, [None] * count, [[]] * count)
    confidence: list[float | None] = [*calibration.confidence(samples.variance, known)]
    reasons = _out_of_domain(model, calibration, samples.mean, target, known)
    return _Judged(samples, mean_losses, confidence, reasons)


def _out_of_domain(
    model: DCGAN, calibration: Calibration, mean: Tensor, target: Tensor, known: Tensor
) -> list[list[str]]:
    """Return why each image seems not to be of the model's domain; ``mean`` [B, C, S, S] is the mean answer."""
    distances = calibration.distances(model.discriminator, torch.lerp(mean, target, known)).tolist()
    domain = None if model.retrieval is None else model.retrieval.domain
    scores = [0.0] * len(target) if domain is None else domain.anomaly_score(target, known).tolist()
    far = "its known pixels lie {:.1f} times as far from the nearest training image as any should"
    return [
        [*([far.format(score)] if score > 1 else []), *calibration.reasons(distance)]
        for score, distance in zip(scores, distances, strict=True)
    ]


def _completion(
    model: DCGAN,
    task: Task,
    view: _ModelView,
    judged: _Judged,
    index: int,
    options: CompletionOptions,
    should_stop: Callable[[], bool],
    seconds: float,
) -> Completion:
    samples, steps = judged.samples, judged.samples.steps[index]
    snapshots = {step: images[index] for step, images in samples.snapshots.items() if step <= steps}
    return Completion(
        name=task.name,
        original=task.picture,
        mask=task.mask,
        candidates=tuple(_candidates(model, task, view, judged, index, options, should_stop)),
        uncertainty=_uncertainty(task, view.frame, samples.variance[index].cpu()),
        snapshots={
            step: to_pixels(image) for step, image in snapshots.items() if step in options.snapshots
        },
        history=samples.history[: steps + 1, index].cpu().numpy(),
        method=options.method.name,
        steps=steps,
        seed=options.seed,
        seconds=seconds,
        confidence=judged.confidence[index],
        warnings=(
            *task.picture.warnings,
            *_mask_warnings(task.mask, view.known, options.view),
            *(
                f"unlike the images the model was trained on: {each}"
                for each in judged.out_of_domain[index]
            ),
        ),
        frames=(_search_frames(model, task, view, snapshots, options),) if options.frames else (),
    )


def _candidates(
    model: DCGAN,
    task: Task,
    view: _ModelView,
    judged: _Judged,
    index: int,
    options: CompletionOptions,
    should_stop: Callable[[], bool],
) -> Iterator[Candidate]:
    """Yield the answers of an image, blended: the mean first if it was asked for, then distinct draws."""
    samples = judged.samples
    images, losses, latents = samples.images[index], samples.losses[index], samples.latents[index]
    order = samples.order[index]
    chosen = order[_distinct(images[order].cpu(), _missing(view), options.candidates)].tolist()

    def candidate(answer: Answer, image: Tensor, three: Tensor, draw: int) -> Candidate:
        should_stop()
        # A mean has no detail to match.
        detailed = options.method.uses_inpainter(model) and answer == "sharp"
        blend = options.method.blend
        picture = _blend_in(model, task, view.frame, image.cpu(), blend, detailed=detailed)
        total, contextual, perceptual = three.tolist()
        z = latents[draw].cpu().numpy()
        return Candidate(picture, answer, total, contextual, perceptual, z)

    if judged.mean_losses is not None:
        yield candidate("average", samples.mean[index], judged.mean_losses[index], chosen[0])
        chosen = chosen[:-1]
    for draw in chosen:
        yield candidate("sharp", images[draw], losses[draw], draw)


def _missing(view: _ModelView) -> Tensor:
    """Return the model's pixels that are partly missing, bool [S, S]; all of them if the hole is too small to show."""
    missing = view.known[0] < 1 - 1e-6
    return missing if missing.any() else torch.ones_like(missing)


def _distinct(images: Tensor, hole: Tensor, count: int) -> list[int]:
    """Return positions of ``count`` of the answers [K, C, S, S] in order, those like an earlier one in the hole last."""
    chosen: list[int] = []
    alike: list[int] = []
    for position, image in enumerate(images):
        gaps = [float((image - images[each])[:, hole].square().mean().sqrt()) for each in chosen]
        (alike if gaps and min(gaps) < _ALIKE else chosen).append(position)
    return (chosen + alike)[:count]


def _blend_in(
    model: DCGAN, task: Task, frame: Frame, image: Tensor, blend: Blend, *, detailed: bool
) -> Picture:
    """Return the picture with an answer [C, S, S] blended into the hole, at the picture's own size and depth."""
    pixels, background = task.picture.pixels, _background(model)
    channels = task.picture.channels
    native = to_tensor(to_channels(to_pixels(image, pixels.dtype), channels, background))
    # The colours of fully transparent pixels are arbitrary: they must not flow into the hole.
    original = to_tensor(to_channels(pixels, channels, background))
    known = torch.from_numpy(task.mask.known)
    enlarged = frame.put_back(native, original, known if detailed else None)
    blended = BLENDS[blend](original, enlarged, known)
    if len(blended) == 4 and len(image) != 4:
        # A model without alpha generates opaque pixels.
        blended[3] = torch.where(known, original[3], torch.ones_like(original[3]))
    return task.picture.replace_where(task.mask.hole, to_pixels(blended, pixels.dtype))


def _uncertainty(task: Task, frame: Frame, variance: Tensor) -> NDArray[np.float32]:
    """Return the standard deviation of each missing pixel in grey levels, float32 [H, W]."""
    blank = torch.zeros(1, task.picture.height, task.picture.width)
    deviation: NDArray[np.float32] = frame.put_back(variance.sqrt() * 127.5, blank)[0].numpy()
    return np.where(task.mask.hole, deviation, np.float32(0))


def _search_frames(
    model: DCGAN,
    task: Task,
    view: _ModelView,
    snapshots: dict[int, Tensor],
    options: CompletionOptions,
) -> SearchFrames:
    channels, background = task.picture.channels, _background(model)
    frames = {step: to_pixels(snapshots[step]) for step in snapshots if step in options.frames}
    images = {step: to_channels(each, channels, background) for step, each in frames.items()}
    return SearchFrames(view.frame, images)


def _mask_warnings(mask: Mask, known: Tensor, view: View) -> Iterator[str]:
    """Yield what makes a mask hard to complete; ``known`` is the known share of each model pixel."""
    if mask.missing > 0.95:
        yield f"{mask.missing:.1%} is missing: there is little to go by"
    if view == "whole" and known.min() > 0.5:
        yield "the hole is finer than the model's pixels; view = window looks closer"


def _unchanged(task: Task, options: CompletionOptions) -> Completion:
    return Completion(
        task.name,
        task.picture,
        task.mask,
        (Candidate(task.picture, "sharp", 0.0, 0.0, 0.0, np.empty(0, np.float32)),),
        np.zeros(task.mask.known.shape, np.float32),
        method=options.method.name,
        seed=options.seed,
        warnings=(*task.picture.warnings, "nothing is missing"),
    )


def _merge(parts: Sequence[WindowTask], completed: Sequence[Completion]) -> Completion:
    """Return the completion of an image from those of its windows.

    Its k-th answer has the k-th of each window; losses and histories are summed, snapshots lie side by side.
    """
    task, windows = parts[0].task, tuple(part.window for part in parts)
    steps = [
        step for step in completed[0].snapshots if all(step in each.snapshots for each in completed)
    ]
    length = max(len(each.history) for each in completed)
    histories = [
        np.pad(each.history, (0, length - len(each.history)), "edge") for each in completed
    ]
    uncertainty = np.zeros(task.mask.known.shape, np.float32)
    for window, each in zip(windows, completed, strict=True):
        uncertainty[window.rows, window.columns][window.own] = each.uncertainty[window.own]
    return replace(
        completed[0],
        original=task.picture,
        mask=task.mask,
        windows=windows,
        candidates=tuple(
            _merge_candidates(task.picture, windows, answers)
            for answers in zip(*(each.candidates for each in completed), strict=True)
        ),
        uncertainty=uncertainty,
        confidence=_merge_confidence(windows, completed),
        snapshots={
            step: np.concatenate([each.snapshots[step] for each in completed], axis=1)
            for step in steps
        },
        history=np.sum(histories, axis=0),
        steps=max(each.steps for each in completed),
        frames=tuple(chain.from_iterable(each.frames for each in completed)),
        seconds=sum(each.seconds for each in completed),
        warnings=tuple(dict.fromkeys(chain.from_iterable(each.warnings for each in completed))),
    )


def _merge_candidates(
    picture: Picture, windows: Sequence[Window], answers: Sequence[Candidate]
) -> Candidate:
    parts = [(each.rows, each.columns, each.own) for each in windows]
    return replace(
        answers[0],
        picture=picture.with_parts([answer.picture for answer in answers], parts),
        loss=sum(answer.loss for answer in answers),
        contextual=sum(answer.contextual for answer in answers),
        perceptual=sum(answer.perceptual for answer in answers),
        z=answers[0].z if len(answers) == 1 else np.stack([answer.z for answer in answers]),
    )


def _merge_confidence(windows: Sequence[Window], completed: Sequence[Completion]) -> float | None:
    """Return the mean over missing pixels."""
    shares = [each.confidence for each in completed if each.confidence is not None]
    if len(shares) < len(completed):
        return None
    return float(np.average(shares, weights=[window.own.sum() for window in windows]))
