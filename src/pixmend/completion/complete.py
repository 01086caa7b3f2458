"""Completion: images with holes in, whole images out."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pixmend.completion.assess import assess
from pixmend.completion.average import Answer, Average, average
from pixmend.completion.blend import BLENDS
from pixmend.completion.film import FrameRecorder
from pixmend.completion.follow import SearchTrace, StoppingCriterion, follow
from pixmend.completion.frame import Frame, frame_for
from pixmend.completion.glimpse import Preview
from pixmend.completion.job import CompletionOptions, Task
from pixmend.completion.lean import lean
from pixmend.completion.methods import Method
from pixmend.completion.objective import Objective
from pixmend.completion.parts import Part, combine, mask_warnings, parts_of, unchanged_result
from pixmend.completion.refine import inner_layer
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.start import Encoded
from pixmend.completion.state import ROW_BLOCK, SearchState
from pixmend.images import (
    Picture,
    Pixels,
    parse_colour,
    to_channels,
    to_pixels,
    to_tensor,
)
from pixmend.models import DCGAN, Calibration, Condition

_AVERAGED = 8  # lanes of an average, where an encoder can lean each on another neighbour


def complete(
    model: DCGAN,
    jobs: Iterable[Task],
    options: CompletionOptions,
    *,
    on_state: Callable[[Sequence[Task], SearchState], None] = lambda jobs, state: None,
    on_preview: Callable[[Preview], None] = lambda glimpse: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Completion]:
    """Complete images, ``options.batch`` at a time, in order; jobs are taken as they are needed.

    Parameters
    ----------
    on_state
        Called after every step of a search with the job of each window searched and the state of all rows.
    on_preview
        Called after every step with what can be drawn of it.
    should_stop
        Asked after every step: on yes, the current batch finishes with its best answers so far and no other begins.
    """
    waiting = iter(jobs)
    while not should_stop() and (batch := list(islice(waiting, options.batch))):
        yield from complete_batch(
            model,
            batch,
            options,
            on_state=on_state,
            on_preview=on_preview,
            should_stop=should_stop,
        )


def complete_batch(
    model: DCGAN,
    jobs: Sequence[Task],
    options: CompletionOptions,
    *,
    on_state: Callable[[Sequence[Task], SearchState], None] = lambda jobs, state: None,
    on_preview: Callable[[Preview], None] = lambda glimpse: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Completion]:
    """Complete the images of one batch; each gets the answer it would get alone. One of which nothing is missing comes back as it is.

    Raises
    ------
    MaskError, ImageError
        See `Task.check`.
    """
    options = for_model(model, options)
    for job in jobs:
        job.check()
    parts = [parts_of(job, options.view, model.settings.size) for job in jobs]
    waiting = iter([part for of_job in parts for part in of_job])
    done: list[Completion] = []
    while batch := list(islice(waiting, options.batch)):
        done += _complete_parts(model, batch, options, on_state, on_preview, should_stop)
    results = iter(done)
    return [
        combine(of_job, list(islice(results, len(of_job))))
        if of_job
        else unchanged_result(job, options.method.name, options.seed)
        for job, of_job in zip(jobs, parts, strict=True)
    ]


def _complete_parts(
    model: DCGAN,
    parts: Sequence[Part],
    options: CompletionOptions,
    on_state: Callable[[Sequence[Task], SearchState], None],
    on_preview: Callable[[Preview], None],
    should_stop: Callable[[], bool],
) -> list[Completion]:
    started = time.perf_counter()
    jobs, owners = [part.piece for part in parts], [part.job for part in parts]
    views = [_view(model, job) for job in jobs]
    device = next(model.generator.parameters()).device
    target = torch.stack([view.target for view in views]).to(device)  # [B, C, S, S]
    known = torch.stack([view.known for view in views]).to(device)  # [B, 1, S, S]
    enough = StoppingCriterion(started, options.seconds, should_stop)
    frames, background = [view.frame for view in views], _background(model)

    def look(state: SearchState, losses: list[float], drawn: Callable[[], Tensor]) -> None:
        on_state(owners, state)
        on_preview(Preview(state.step, parts, frames, losses, drawn, background))

    found = _search(model, target, known, options, look, enough)
    seconds = (time.perf_counter() - started) / len(jobs)
    return [
        _completion(model, job, view, found, index, options, seconds)
        for index, (job, view) in enumerate(zip(jobs, views, strict=True))
    ]


def for_model(model: DCGAN, options: CompletionOptions) -> CompletionOptions:
    """Return options whose method is as it goes with this model: see `Method.for_model`."""
    method = options.method.for_model(model)
    if options.answer == "average" and method.uses_encoder(model):
        restarts = max(method.restarts, _AVERAGED)
        method = replace(
            method, restarts=restarts, steps=method.steps if options.candidates > 1 else 0
        )
    return replace(options, method=method)


@dataclass(frozen=True)
class _View:
    frame: Frame
    target: Tensor  # [C, S, S] in [-1, 1]
    known: Tensor  # [1, S, S]


@dataclass(frozen=True)
class _Found:
    """What the search found, rows laid out as image x lane."""

    lanes: int
    best_z: Tensor  # [B, lanes, latent_dim]
    drawn: Tensor  # [B, lanes, C, S, S]
    losses: Tensor  # [B, lanes, 3]: total, contextual, perceptual
    order: Tensor  # the lanes of each image, the best first, [B, lanes]
    average: Average
    average_losses: Tensor | None  # [B, 3], where it was asked for
    confidence: list[float | None]  # of each image
    reasons: list[list[str]]  # of each image
    path: SearchTrace


def _view(model: DCGAN, job: Task) -> _View:
    """Return what the model sees of an image."""
    background, channels = _background(model), model.settings.channels
    image = to_tensor(to_channels(job.picture.pixels, channels, background))
    known = torch.from_numpy(job.mask.known)
    frame = frame_for(known, model.card.get("fit", "crop"))
    # Padding is clear where the model knows alpha, and its colour otherwise.
    paint = np.array([[[*background, 0] if channels == "RGBA" else background]], np.uint8)
    behind = to_tensor(to_channels(paint, channels, background)).flatten()
    return _View(frame, *frame.view(image, known, model.settings.size, behind))


def _background(model: DCGAN) -> tuple[int, int, int]:
    """Return the colour on which the model's training images were shown."""
    return parse_colour(str(model.card.get("background", "white")))


def _search(
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    options: CompletionOptions,
    on_state: Callable[[SearchState, list[float], Callable[[], Tensor]], None],
    enough: StoppingCriterion,
) -> _Found:
    method, settings = options.method, model.settings
    count = len(target)
    lanes = max(method.restarts, options.candidates)
    rows = torch.arange(count, device=target.device).repeat_interleave(lanes)
    rows = torch.cat([rows, rows[:1].expand(-len(rows) % ROW_BLOCK)])
    z, encoded = _start(model, target, known, rows, lanes, options, enough)
    condition = None if encoded is None else encoded.encoding.condition
    objective = method.objective(model, target[rows], known[rows], condition)
    drawn: Tensor | None = None
    if method.steps:
        endless = options.seconds is not None
        states = method.search(objective, z, settings, endless=endless)
    else:  # the start is the end, and drawn once
        drawn = _draw(model, z, condition, torch.arange(len(rows), device=rows.device))
        states = _standing(objective, z, drawn)

    def look(state: SearchState) -> None:
        least, lane = state.best.total[: count * lanes].view(count, lanes).min(1)
        best = torch.arange(count, device=lane.device) * lanes + lane
        on_state(state, least.tolist(), lambda: _draw(model, state.best_z, condition, best))

    path = follow(
        states,
        count,
        lanes,
        snapshots=(*options.snapshots, *options.film),
        draw=lambda z, rows: _draw(model, z, condition, rows),
        on_state=look,
        enough=enough,
    )
    best_z, best = path.last.best_z, path.last.best
    losses = torch.stack(best.parts(), -1)[: count * lanes].view(count, lanes, 3)
    if method.refine and encoded is None:
        drawn = inner_layer(
            objective,
            best_z,
            settings,
            steps=method.refine,
            seed=options.seed,
            should_stop=enough.already,
        )
    elif drawn is None:
        drawn = _draw(model, best_z, condition, torch.arange(count * lanes, device=rows.device))
    drawn = drawn[: count * lanes].view(count, lanes, *drawn.shape[1:])
    best_z = best_z[: count * lanes].view(count, lanes, -1)
    if encoded is None or method.steps:
        order = torch.argsort(losses[..., 0], dim=1, stable=True)
    else:  # as the encoder's starts are ranked
        order = torch.arange(lanes, device=drawn.device).expand(count, lanes)
    estimate = None if encoded is None else encoded.encoding.pixel_posterior
    mean = average(drawn, estimate, None if encoded is None else encoded.log_weight)
    scored = None
    if options.answer == "average":
        scored = _losses_of(method.objective(model, target, known), mean.mean)
    answered = drawn[torch.arange(count, device=drawn.device), order[:, 0]]
    calibration = (
        None if condition is None else Calibration.of(model.card)
    )  # measured on E's answers
    trusted = assess(model, calibration, answered, target, known, mean.variance)
    return _Found(lanes, best_z, drawn, losses, order, mean, scored, *trusted, path)


@torch.no_grad()
def _standing(objective: Objective, z: Tensor, drawn: Tensor) -> Iterator[SearchState]:
    """Yield the one state of a search that takes no step from z, where G has ``drawn`` the images."""
    losses = objective.of_images(drawn, z)
    yield SearchState(
        0, z, losses, z, losses, torch.ones(len(z), dtype=torch.bool, device=z.device)
    )


@torch.no_grad()
def _losses_of(objective: Objective, images: Tensor) -> Tensor:
    """Return the objective of images [B, C, S, S]: total, contextual and perceptual, [B, 3]."""
    return torch.stack(objective.of_images(images).parts(), -1)


def _start(
    model: DCGAN,
    target: Tensor,
    known: Tensor,
    rows: Tensor,
    lanes: int,
    options: CompletionOptions,
    enough: StoppingCriterion,
) -> tuple[Tensor, Encoded | None]:
    """Return the start of each row, [rows, latent_dim], and what an encoder makes of its image; rows are image x lane, then spare ones."""
    method = options.method
    if method.uses_encoder(model):
        encoded = lean(
            method,
            model,
            target,
            known,
            lanes,
            seed=options.seed,
            ranked=options.answer == "sharp" or options.candidates > 1,
            should_stop=enough.already,
        )
        return encoded.z, encoded
    objective = method.objective(model, target, known)
    starts = method.starts(objective, model.settings, lanes, options.seed).flatten(0, 1)
    return torch.cat([starts, starts[:1].expand(len(rows) - len(starts), -1)]), None


@torch.no_grad()
def _draw(model: DCGAN, z: Tensor, condition: Condition | None, rows: Tensor) -> Tensor:
    """Return G(z) of some rows of z [N, latent_dim], in batches of whole blocks of rows."""
    padded = torch.cat([rows, rows[:1].expand(-len(rows) % ROW_BLOCK)])
    parts = [
        model.generator(z[part], None if condition is None else condition.take(part))
        for part in torch.split(padded, 256)
    ]
    drawn: Tensor = torch.cat(parts)[: len(rows)]
    return drawn


def _completion(
    model: DCGAN,
    job: Task,
    view: _View,
    found: _Found,
    index: int,
    options: CompletionOptions,
    seconds: float,
) -> Completion:
    steps = found.path.steps[index]
    order = found.order[index]
    chosen = order[_distinct(found.drawn[index, order].cpu(), _missing(view), options.candidates)]
    answers: list[tuple[Answer, Tensor, Tensor, Tensor]] = [
        ("sharp", found.drawn[index, lane], found.losses[index, lane], found.best_z[index, lane])
        for lane in chosen.tolist()
    ]
    if found.average_losses is not None:
        mean, losses = found.average.mean[index], found.average_losses[index]
        answers = [("average", mean, losses, answers[0][-1]), *answers[:-1]]
    candidates = []
    for answer, drawn, losses, z in answers:
        picture = _join(model, job, view.frame, drawn.cpu(), options.method)
        total, contextual, perceptual = losses.tolist()
        found_z = z.cpu().numpy()
        candidates.append(Candidate(picture, answer, total, contextual, perceptual, found_z))
    return Completion(
        name=job.name,
        original=job.picture,
        mask=job.mask,
        candidates=tuple(candidates),
        uncertainty=_uncertainty(job, view.frame, found.average.variance[index].cpu()),
        snapshots={
            step: to_pixels(images[index])
            for step, images in found.path.snapshots.items()
            if step <= steps and step in options.snapshots
        },
        history=found.path.history[: steps + 1, index].cpu().numpy(),
        method=options.method.name,
        steps=steps,
        seed=options.seed,
        seconds=seconds,
        confidence=found.confidence[index],
        warnings=(
            *mask_warnings(job.mask, view.known, options.view),
            *(
                f"unlike the images of the model's training: {each}"
                for each in found.reasons[index]
            ),
        ),
        film=(_reel(model, job, view, found, index, options),) if options.film else (),
    )


def _reel(
    model: DCGAN, job: Task, view: _View, found: _Found, index: int, options: CompletionOptions
) -> FrameRecorder:
    def painted(drawn: Tensor) -> Pixels:
        return to_channels(to_pixels(drawn), job.picture.channels, _background(model))

    drawn = {
        step: painted(images[index])
        for step, images in found.path.snapshots.items()
        if step in options.film and step <= found.path.steps[index]
    }
    return FrameRecorder(view.frame, drawn)


def _uncertainty(job: Task, frame: Frame, variance: Tensor) -> NDArray[np.float32]:
    """Return the standard deviation of each pixel of the image in grey levels, [H, W]; 0 where it is known."""
    nothing = torch.zeros(1, job.picture.height, job.picture.width)
    spread: NDArray[np.float32] = frame.put_back(variance.sqrt() * 127.5, nothing)[0].numpy()
    return np.where(job.mask.hole, spread, np.float32(0))


def _missing(view: _View) -> Tensor:
    """Return which of the model's pixels miss anything, bool [S, S]; all of them where the hole is too small to tell."""
    missing = view.known[0] < 1 - 1e-6
    return missing if missing.any() else torch.ones_like(missing)


def _distinct(drawn: Tensor, hole: Tensor, count: int) -> list[int]:
    """Return positions of ``count`` of the answers [lanes, C, S, S], in order, those like an earlier one last.

    Two answers are alike when their holes differ by less than 8 grey levels (root mean square).
    """
    chosen: list[int] = []
    alike: list[int] = []
    for position, answer in enumerate(drawn):
        gaps = [float((answer - drawn[other])[:, hole].square().mean().sqrt()) for other in chosen]
        (alike if gaps and min(gaps) < 8 / 127.5 else chosen).append(position)
    return (chosen + alike)[:count]


def _join(model: DCGAN, job: Task, frame: Frame, drawn: Tensor, method: Method) -> Picture:
    """Put G's image back where it was seen, and blend it into the hole at the image's own size and depth."""
    pixels, background = job.picture.pixels, _background(model)
    channels = job.picture.channels
    native = to_tensor(to_channels(to_pixels(drawn, pixels.dtype), channels, background))
    # The colours of wholly transparent pixels are nobody's: they must not flow into the hole.
    image = to_tensor(to_channels(pixels, channels, background))
    known = torch.from_numpy(job.mask.known)
    blended = BLENDS[method.blend](image, frame.put_back(native, image), known)
    if len(blended) == 4 and len(drawn) != 4:
        # A model without alpha draws opaque pixels, whatever is transparent around them.
        blended[3] = torch.where(known, image[3], torch.ones_like(image[3]))
    return job.picture.replace_where(job.mask.hole, to_pixels(blended, pixels.dtype))
