"""The protocol: the same images, masks and seeds for all methods, batch by batch."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from pixmend.errors import StoppedError
from pixmend.evaluation import metrics
from pixmend.evaluation.baselines import Images
from pixmend.evaluation.evaluated_methods import EvaluatedMethod, MethodOutput, ShouldStop
from pixmend.evaluation.held_out import HeldOut, digest_of
from pixmend.evaluation.peak_memory import watch_memory
from pixmend.evaluation.results import BatchResult, ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.masks import Mask


@dataclass(frozen=True)
class Step:
    """A batch is done: ``done`` of ``total`` answers; ``fresh`` unless an earlier call did it."""

    done: int
    total: int
    mask: str
    label: str
    fresh: bool


@dataclass(frozen=True, eq=False)
class EvaluationBatch:
    """A batch of images for one method to complete with one mask."""

    number: int  # of the batch, in the order in which one process runs them
    image_numbers: tuple[int, ...]  # positions in the random draw
    images: Images  # uint8 [B, S, S, C]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    digests: tuple[str, ...]
    mask: str  # SPEC
    label: str  # of the method
    seed: int  # of the masks


class EvaluationEngine(Protocol):
    """Runs batches elsewhere than in this process."""

    def run(
        self, batches: Iterable[EvaluationBatch], *, should_stop: ShouldStop
    ) -> Iterator[tuple[EvaluationBatch, BatchResult]]:
        """Yield the result of each batch in any order; raise StoppedError when asked to stop."""
        ...


def run_protocol(
    held_out: HeldOut,
    methods: Sequence[EvaluatedMethod],
    spec: EvaluationSpec,
    store: ResultStore,
    *,
    engine: EvaluationEngine | None = None,
    should_stop: ShouldStop = lambda: False,
) -> Iterator[Step]:
    """Complete each image with each mask by each method, skipping what the store has.

    All methods complete a batch of images before the next, so that progress predicts the time left.
    An ``engine`` runs all batches but those of external methods.
    """
    done, total = 0, len(held_out.images) * len(spec.masks) * len(methods)
    pending = []
    for batch, method in _batches(held_out, methods, spec):
        if should_stop():
            raise StoppedError
        images = zip(batch.image_numbers, batch.digests, strict=True)
        fresh = not store.has([method.key(*image, batch.mask) for image in images])
        if fresh and engine is not None and method.external is None:
            pending.append(batch)
            continue
        if fresh:
            store.add(run_batch(batch, method, should_stop))
        done += len(batch.image_numbers)
        yield Step(done, total, batch.mask, batch.label, fresh)
    if engine is None:
        return
    for batch, result in engine.run(pending, should_stop=should_stop):
        store.add(result)
        done += len(batch.image_numbers)
        yield Step(done, total, batch.mask, batch.label, True)


def run_batch(
    batch: EvaluationBatch, method: EvaluatedMethod, should_stop: ShouldStop = lambda: False
) -> BatchResult:
    """Complete a batch and measure the answers."""
    masks = draw_masks(batch.mask, batch.image_numbers, batch.images.shape[1], batch.seed)
    cases = list(zip(batch.image_numbers, batch.images, masks, strict=True))
    with watch_memory() as peak:
        if method.external is None:
            outputs = method.run(batch.images, masks, should_stop)
        else:
            read, seconds = method.external.read, method.external.seconds
            outputs = [MethodOutput((read(batch.mask, *case),), seconds) for case in cases]
    if should_stop():  # the searches ended early
        raise StoppedError
    rows = [
        _measure(batch, method, place, mask, output, peak.mib)
        for place, (mask, output) in enumerate(zip(masks, outputs, strict=True))
    ]
    maps = [output.uncertainty for output in outputs if output.uncertainty is not None]
    levels = np.clip(2 * np.stack(maps), 0, 255).round().astype(np.uint8) if maps else None
    answers = np.stack([output.pixels for output in outputs])
    return BatchResult(rows, answers, None if levels is None else levels[..., None])


def _measure(
    batch: EvaluationBatch,
    method: EvaluatedMethod,
    place: int,
    mask: Mask,
    output: MethodOutput,
    peak_mib: float | None,
) -> ResultRow:
    image, answer = batch.images[place], output.pixels
    hole, whole = mask.hole, np.ones_like(mask.known)
    ssim = metrics.ssim_map(answer, image)
    predicted = None
    if output.uncertainty is not None:
        predicted = math.sqrt(np.square(output.uncertainty.astype(np.float64))[hole].mean())
    return ResultRow(
        number=batch.image_numbers[place],
        image=batch.names[place],
        group=batch.groups[place],
        digest=batch.digests[place],
        mask=batch.mask,
        missing=mask.missing,
        method=method.method,
        answer=method.answer,
        psnr=metrics.psnr(answer, image, hole),
        ssim=float(ssim[hole].mean()),
        l1=metrics.l1(answer, image, hole),
        whole_psnr=metrics.psnr(answer, image, whole),
        whole_ssim=float(ssim.mean()),
        whole_l1=metrics.l1(answer, image, whole),
        boundary=metrics.boundary_step(answer, mask.known),
        boundary_original=metrics.boundary_step(image, mask.known),
        predicted_error=predicted,
        observed_error=metrics.rmse(answer, image, hole),
        confidence=output.confidence,
        correct=metrics.correct_share(answer, image, hole),
        best_of=max(metrics.psnr(each, image, hole) for each in output.candidates),
        diversity=metrics.diversity(output.candidates, hole),
        covered=metrics.covers(output.candidates, image, hole),
        class_correct=None,
        warnings="; ".join(output.warnings),
        peak_mib=peak_mib,
        seconds=output.seconds,
    )


def select_rows(
    held_out: HeldOut,
    methods: Sequence[EvaluatedMethod],
    spec: EvaluationSpec,
    store: ResultStore,
) -> list[ResultRow]:
    """Return the rows of this call, by image, mask and method, with its names and groups."""
    images = zip(held_out.names, held_out.groups, map(digest_of, held_out.images), strict=True)
    return [
        replace(store.rows[method.key(number, digest, mask)], image=name, group=group)
        for number, (name, group, digest) in enumerate(images)
        for mask in spec.masks
        for method in methods
    ]


def _batches(
    held_out: HeldOut, methods: Sequence[EvaluatedMethod], spec: EvaluationSpec
) -> Iterator[tuple[EvaluationBatch, EvaluatedMethod]]:
    number = 0
    for start in range(0, len(held_out.images), spec.batch):
        rows = slice(start, start + spec.batch)
        images = held_out.images[rows]
        numbers = tuple(range(start, start + len(images)))
        names, groups = tuple(held_out.names[rows]), tuple(held_out.groups[rows])
        digests = tuple(map(digest_of, images))
        for mask in spec.masks:
            for method in methods:
                facts = (numbers, images, names, groups, digests, mask, method.label, spec.seed)
                yield EvaluationBatch(number, *facts), method
                number += 1
