"""Completion: images with holes in, whole images out."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pixmend.completion.blend import BLENDS
from pixmend.completion.frame import Frame, frame_for
from pixmend.completion.methods import Method
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.search import SearchState
from pixmend.completion.start import encoded_starts
from pixmend.completion.state import ROWS
from pixmend.errors import ImageError, SettingsError
from pixmend.images import (
    CHANNELS,
    Picture,
    channel_count,
    parse_colour,
    to_channels,
    to_pixels,
    to_tensor,
)
from pixmend.masks import Mask
from pixmend.models import DCGAN, Condition

__all__ = ["Job", "Options", "complete", "complete_batch"]


@dataclass(frozen=True)
class Job:
    """One image to complete: the picture, its mask of the same size, and a name for messages."""

    picture: Picture
    mask: Mask
    name: str = "image"

    def check(self) -> None:
        """Refuse what cannot be completed exactly.

        Raises
        ------
        MaskError
            See `Mask.check`.
        ImageError
            16-bit colour, whose known pixels could not be kept.
        """
        self.mask.check(self.picture.height, self.picture.width, self.name)
        if self.picture.reduced:
            raise ImageError(
                f"{self.name}: 16-bit colour cannot be kept exactly; convert it to 8 bits a channel first"
            )


@dataclass(frozen=True)
class Options:
    """How to complete.

    Attributes
    ----------
    method
        See `find_method`.
    candidates
        Distinct answers an image, best first.
    snapshots
        Steps after which the state of the search is kept; those past the search's last step are left out.
    seed
        Of all draws.
    batch
        Images searched at a time: bounds memory, changes no result.
    seconds
        Time for each batch, from its start until its searches end; they go on until it is used up, whatever the method's number of
        steps, which is then the length of its schedule. The clock decides, so equal calls may give unequal answers. None: the
        method's number of steps.
    """

    method: Method
    candidates: int = 1
    snapshots: tuple[int, ...] = (500, 1000)
    seed: int = 0
    batch: int = 16
    seconds: float | None = None

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises
        ------
        SettingsError
            A value out of range.
        """
        if not 1 <= self.candidates <= 64:
            raise SettingsError(
                f"candidates = {self.candidates}: needs a whole number from 1 to 64"
            )
        if self.batch < 1:
            raise SettingsError(f"batch = {self.batch}: needs a whole number of at least 1")
        if any(step < 0 for step in self.snapshots):
            raise SettingsError(f"snapshots = {self.snapshots}: steps are counted from 0")
        if self.seconds is not None and not (self.seconds > 0 and math.isfinite(self.seconds)):
            raise SettingsError(f"seconds = {self.seconds}: needs a number above 0")


def complete(
    model: DCGAN,
    jobs: Iterable[Job],
    options: Options,
    *,
    on_state: Callable[[Sequence[Job], SearchState], None] = lambda jobs, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Completion]:
    """Complete images, ``options.batch`` at a time, in order; jobs are taken as they are needed.

    Parameters
    ----------
    on_state
        Called after every step of a batch's search with its jobs and the state of all its rows.
    should_stop
        Asked after every step: once it says yes, the batch at hand is finished with the best found so far, and no other is begun.
    """
    waiting = iter(jobs)
    while not should_stop() and (batch := list(islice(waiting, options.batch))):
        yield from complete_batch(model, batch, options, on_state=on_state, should_stop=should_stop)


def complete_batch(
    model: DCGAN,
    jobs: Sequence[Job],
    options: Options,
    *,
    on_state: Callable[[Sequence[Job], SearchState], None] = lambda jobs, state: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Completion]:
    """Complete the images of one batch; each gets the answer it would get alone.

    Raises
    ------
    MaskError, ImageError
        See `Job.check`.
    """
    started = time.perf_counter()
    options = replace(options, method=options.method.fitted(model))
    for job in jobs:
        job.check()
    views = [_view(model, job) for job in jobs]
    device = next(model.generator.parameters()).device
    target = torch.stack([view.target for view in views]).to(device)  # [B, C, S, S]
    known = torch.stack([view.known for view in views]).to(device)  # [B, 1, S, S]
    enough = _Enough(started, options.seconds, should_stop)
    found = _search(model, target, known, options, lambda state: on_state(jobs, state), enough)
    seconds = (time.perf_counter() - started) / len(jobs)
    return [
        _completion(model, job, view, found, index, options, seconds)
        for index, (job, view) in enumerate(zip(jobs, views, strict=True))
    ]


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
    snapshots: dict[int, Tensor]  # step -> [B, C, S, S], of each image's best lane by then
    history: Tensor  # [steps + 1, B]: least total so far
    steps: list[int]  # B: after how many updates the last of an image's lanes stopped


class _Enough:
    """Whether a search has gone on long enough: the time is used up, or somebody wants an answer now."""

    def __init__(
        self, started: float, seconds: float | None, should_stop: Callable[[], bool]
    ) -> None:
        self._end = math.inf if seconds is None else started + seconds
        self._should_stop = should_stop
        self._last = started

    def __call__(self, state: SearchState) -> bool:
        """Return whether to end at this state; a step that would end too late is not begun."""
        if not math.isinf(self._end):
            state.best.total[0].item()  # waits until the device has done what it was told
        now = time.perf_counter()
        late = now + (now - self._last) > self._end
        self._last = now
        return late or self._should_stop()


def _view(model: DCGAN, job: Job) -> _View:
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
    options: Options,
    on_state: Callable[[SearchState], None],
    enough: _Enough,
) -> _Found:
    method, settings = options.method, model.settings
    count = len(target)
    lanes = max(method.restarts, options.candidates)
    rows = torch.arange(count, device=target.device).repeat_interleave(lanes)
    rows = torch.cat([rows, rows[:1].expand(-len(rows) % ROWS)])
    z, condition = _start(model, target, known, rows, lanes, options)
    objective = method.objective(model, target[rows], known[rows], condition)
    snapshots: dict[int, Tensor] = {}
    history = []
    steps = torch.zeros(count, dtype=torch.int64, device=target.device)
    going = torch.ones_like(steps, dtype=torch.bool)
    endless = options.seconds is not None
    for state in method.search(
        objective, z, settings, lanes=lanes, seed=options.seed, endless=endless
    ):
        totals = state.best.total[: count * lanes].view(count, lanes)
        history.append(totals.amin(1))
        if state.step in options.snapshots:
            best = torch.arange(count, device=rows.device) * lanes + totals.argmin(1)
            snapshots[state.step] = _draw(model, state.best_z, condition, best)
        on_state(state)
        steps = torch.where(going, state.step, steps)
        going = state.active[: count * lanes].view(count, lanes).any(1)
        if enough(state):
            break
    losses = torch.stack([state.best.total, state.best.contextual, state.best.perceptual], -1)
    losses = losses[: count * lanes].view(count, lanes, 3)
    drawn = _draw(model, state.best_z, condition, torch.arange(count * lanes, device=rows.device))
    drawn = drawn.view(count, lanes, *drawn.shape[1:])
    best_z = state.best_z[: count * lanes].view(count, lanes, -1)
    return _Found(lanes, best_z, drawn, losses, snapshots, torch.stack(history), steps.tolist())


def _start(
    model: DCGAN, target: Tensor, known: Tensor, rows: Tensor, lanes: int, options: Options
) -> tuple[Tensor, Condition | None]:
    """Return the start of each row, [rows, latent_dim], and what G is told of its image; rows are image x lane, then spare ones."""
    method = options.method
    if method.uses_encoder(model):
        return encoded_starts(model, target, known, rows, lanes, seed=options.seed)
    objective = method.objective(model, target, known)
    starts = method.starts(objective, model.settings, lanes, options.seed).flatten(0, 1)
    return torch.cat([starts, starts[:1].expand(len(rows) - len(starts), -1)]), None


@torch.no_grad()
def _draw(model: DCGAN, z: Tensor, condition: Condition | None, rows: Tensor) -> Tensor:
    """Return G(z) of some rows of z [N, latent_dim], in batches of whole blocks of rows."""
    padded = torch.cat([rows, rows[:1].expand(-len(rows) % ROWS)])
    parts = [
        model.generator(z[part], None if condition is None else condition.take(part))
        for part in torch.split(padded, 256)
    ]
    drawn: Tensor = torch.cat(parts)[: len(rows)]
    return drawn


def _completion(
    model: DCGAN, job: Job, view: _View, found: _Found, index: int, options: Options, seconds: float
) -> Completion:
    order = torch.argsort(found.losses[index, :, 0], stable=True)
    chosen = _distinct(found.drawn[index, order].cpu(), _missing(view), options.candidates)
    candidates = []
    for lane in order[chosen].tolist():
        drawn = found.drawn[index, lane].cpu()
        total, contextual, perceptual = found.losses[index, lane].tolist()
        picture = _join(model, job, view.frame, drawn, options.method)
        candidates.append(
            Candidate(
                picture, total, contextual, perceptual, found.best_z[index, lane].cpu().numpy()
            )
        )
    return Completion(
        name=job.name,
        original=job.picture,
        mask=job.mask,
        candidates=tuple(candidates),
        snapshots={
            step: to_pixels(images[index])
            for step, images in found.snapshots.items()
            if step <= found.steps[index]
        },
        history=found.history[: found.steps[index] + 1, index].cpu().numpy(),
        method=options.method.name,
        steps=found.steps[index],
        seed=options.seed,
        seconds=seconds,
    )


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


def _join(model: DCGAN, job: Job, frame: Frame, drawn: Tensor, method: Method) -> Picture:
    """Put G's image back where it was seen, and blend it into the hole at the image's own size and depth."""
    pixels, background = job.picture.pixels, _background(model)
    channels = next(name for name in CHANNELS if channel_count(name) == pixels.shape[-1])
    native = to_tensor(to_channels(to_pixels(drawn, pixels.dtype), channels, background))
    # The colours of wholly transparent pixels are nobody's: they must not flow into the hole.
    image = to_tensor(to_channels(pixels, channels, background))
    known = torch.from_numpy(job.mask.known)
    blended = BLENDS[method.blend](image, frame.put_back(native, image), known)
    if len(blended) == 4 and len(drawn) != 4:
        # A model without alpha draws opaque pixels, whatever is transparent around them.
        blended[3] = torch.where(known, image[3], torch.ones_like(image[3]))
    return job.picture.replace_where(job.mask.hole, to_pixels(blended, pixels.dtype))
