"""An evaluation from start to finish: choose images, run the protocol, write the report."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from pixmend.errors import SettingsError, StoppedError, install_hint
from pixmend.evaluation import metrics
from pixmend.evaluation.aggregation import summarise
from pixmend.evaluation.baselines import BASELINES, Images, missing_requirement
from pixmend.evaluation.classifier import classify_answers
from pixmend.evaluation.diagnostics import diagnose, verdict
from pixmend.evaluation.evaluated_methods import (
    EvaluatedMethod,
    MethodOutput,
    ModelUnderTest,
    ShouldStop,
    select_methods,
)
from pixmend.evaluation.external_methods import ExternalMethod
from pixmend.evaluation.held_out import (
    EvaluationImages,
    HeldOut,
    TrainingImages,
    choose_held_out,
    digest_of,
)
from pixmend.evaluation.peak_memory import watch_memory
from pixmend.evaluation.realism import MIN_IMAGES, measure_realism
from pixmend.evaluation.report import Evaluation, write_report
from pixmend.evaluation.results import BatchResult, Key, ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec, draw_masks
from pixmend.masks import Mask

_RANDOM_FEATURES = (
    f"KID in features of photographs needs the extra metrics ({install_hint('metrics')}); "
    "a fixed random network replaces them"
)


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
    start: int  # position of the first image in the random draw
    images: Images  # uint8 [B, S, S, C]
    names: Sequence[str]
    groups: Sequence[str]
    mask: str  # SPEC
    label: str  # of the method
    seed: int  # of the masks

    def keys(self, method: EvaluatedMethod) -> list[Key]:
        numbered = enumerate(self.images, self.start)
        return [method.key(number, digest_of(image), self.mask) for number, image in numbered]


# Runs batches elsewhere than in this process, in any order; StoppedError when asked to stop.
EvaluationEngine: TypeAlias = Callable[
    [Iterable[EvaluationBatch], ShouldStop], Iterator[tuple[EvaluationBatch, BatchResult]]
]


def evaluate(
    models: Sequence[ModelUnderTest],
    source: EvaluationImages,
    out: Path,
    spec: EvaluationSpec | None = None,
    *,
    train: TrainingImages | None = None,
    completions: Mapping[str, Path] | None = None,
    engine: EvaluationEngine | None = None,
    on_images: Callable[[int, int], None] = lambda done, total: None,
    on_step: Callable[[Step], None] = lambda step: None,
    should_stop: ShouldStop = lambda: False,
) -> Evaluation:
    """Evaluate one model, or compare two of one shape, on unseen images; a repeated call resumes in ``out``.

    ``train`` is for the baselines ``mean`` and ``nearest``, the classifiers and near-duplicates.
    ``completions`` are folders of answers by other tools, by name. ``engine`` runs the batches
    elsewhere. Unusable input is a SettingsError, MaskError, InputError, RunError or OutputError.
    """
    spec = spec or EvaluationSpec()
    shapes = [f"{each.model.settings.size} px {each.model.settings.channels}" for each in models]
    if len(set(shapes)) > 1:
        parts = [f"{each.name} is {shape}" for each, shape in zip(models, shapes, strict=True)]
        raise SettingsError(f"{' and '.join(parts)}: compare models of one shape")
    methods = select_methods(models, train, spec)
    model = models[0].model
    held_out = choose_held_out(
        source, model, train, count=spec.count, seed=spec.seed, on_progress=on_images
    )
    count = len(held_out.images)
    for name, folder in (completions or {}).items():
        external = ExternalMethod(name, folder, spec.masks, count)
        methods.append(EvaluatedMethod(name, external=external))
    plan: dict[str, object] = {"format": 3, "model": models[0].digest}
    plan["other"] = models[1].digest if len(models) > 1 else ""
    plan |= {"train-data": "" if train is None else train.digest, "seed": spec.seed}
    plan |= {"batch": spec.batch, "candidates": spec.candidates, "seconds-per-image": spec.seconds}
    store = ResultStore(out, plan)
    done, total = 0, count * len(spec.masks) * len(methods)
    for batch, result in _run_protocol(held_out, methods, spec, store, engine, should_stop):
        if result is not None:
            store.add(result)
        done += len(batch.images)
        on_step(Step(done, total, batch.mask, batch.label, fresh=result is not None))
    images = zip(held_out.names, held_out.groups, map(digest_of, held_out.images), strict=True)
    rows = [  # of this call, by image, mask and method, with its names and groups
        replace(store.rows[method.key(number, digest, mask)], image=name, group=group)
        for number, (name, group, digest) in enumerate(images)
        for mask in spec.masks
        for method in methods
    ]
    evaluation = _judge(models, rows, methods, held_out, train, spec, store, should_stop)
    write_report(evaluation, store)
    return evaluation


def _run_protocol(
    held_out: HeldOut,
    methods: Sequence[EvaluatedMethod],
    spec: EvaluationSpec,
    store: ResultStore,
    engine: EvaluationEngine | None,
    should_stop: ShouldStop,
) -> Iterator[tuple[EvaluationBatch, BatchResult | None]]:
    """Complete each image with each mask by each method; the result is None if the store has it.

    All methods complete a batch of images before the next, so that progress predicts the time left.
    """
    pending, numbers = [], itertools.count()
    for start in range(0, len(held_out.images), spec.batch):
        rows = slice(start, start + spec.batch)
        images = held_out.images[rows], held_out.names[rows], held_out.groups[rows]
        for mask, method in itertools.product(spec.masks, methods):
            if should_stop():
                raise StoppedError
            facts = (mask, method.label, spec.seed)
            batch = EvaluationBatch(next(numbers), start, *images, *facts)
            if store.has(batch.keys(method)):
                yield batch, None
            elif engine is not None and method.external is None:
                pending.append(batch)
            else:
                yield batch, run_batch(batch, method, should_stop)
    if engine is not None:
        yield from engine(pending, should_stop)


def run_batch(
    batch: EvaluationBatch, method: EvaluatedMethod, should_stop: ShouldStop = lambda: False
) -> BatchResult:
    """Complete a batch and measure the answers."""
    numbers = range(batch.start, batch.start + len(batch.images))
    masks = draw_masks(batch.mask, numbers, batch.images.shape[1], batch.seed)
    peak_mib = watch_memory()
    if method.run is not None:
        outputs = method.run(batch.images, masks, should_stop)
    else:
        assert method.external is not None
        read, seconds = method.external.read, method.external.seconds
        tasks = zip(numbers, batch.images, masks, strict=True)
        outputs = [MethodOutput((read(batch.mask, *task),), seconds) for task in tasks]
    peak = peak_mib()
    if should_stop():  # the searches ended early
        raise StoppedError
    cases = zip(batch.keys(method), masks, outputs, strict=True)
    rows = [_measure(batch, place, *case, peak) for place, case in enumerate(cases)]
    maps = [output.uncertainty for output in outputs if output.uncertainty is not None]
    levels = np.clip(2 * np.stack(maps), 0, 255).round().astype(np.uint8) if maps else None
    answers = np.stack([output.pixels for output in outputs])
    return BatchResult(rows, answers, None if levels is None else levels[..., None])


def _measure(
    batch: EvaluationBatch,
    place: int,
    key: Key,
    mask: Mask,
    output: MethodOutput,
    peak_mib: float | None,
) -> ResultRow:
    number, digest, spec, method, kind = key
    image, answer = batch.images[place], output.pixels
    hole, whole = mask.hole, np.ones_like(mask.known)
    ssim = metrics.ssim_map(answer, image)
    predicted = None
    if output.uncertainty is not None:
        predicted = math.sqrt(np.square(output.uncertainty.astype(np.float64))[hole].mean())
    return ResultRow(
        number=number,
        image=batch.names[place],
        group=batch.groups[place],
        digest=digest,
        mask=spec,
        missing=mask.missing,
        method=method,
        answer=kind,
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


def _judge(
    models: Sequence[ModelUnderTest],
    rows: list[ResultRow],
    methods: Sequence[EvaluatedMethod],
    held_out: HeldOut,
    train: TrainingImages | None,
    spec: EvaluationSpec,
    store: ResultStore,
    should_stop: ShouldStop,
) -> Evaluation:
    """Measure sets of answers, and draw conclusions."""
    model = models[0].model
    rows, legibility, no_classes = classify_answers(rows, held_out, train, spec, store)
    store.write(rows)  # in one order, whatever was done when
    features, realism = measure_realism(held_out, rows, store, should_stop)
    summary = summarise(rows, methods, spec.masks, realism)
    count, training = len(held_out.images), None if train is None else len(train.images)
    reasons = {
        _RANDOM_FEATURES: features == "random",
        f"KID needs {MIN_IMAGES} images, and there are {count}": not realism,
        "peak memory needs Linux": rows[0].peak_mib is None,
    }
    images = None if train is None else train.images
    baselines = [missing_requirement(name, images) for name in BASELINES]
    unavailable = [*baselines, no_classes, *(each for each, holds in reasons.items() if holds)]
    return Evaluation(
        verdict=verdict(summary),
        summary=summary,
        rows=rows,
        diagnostics=diagnose(model, summary, rows, held_out, training),
        held_out=held_out,
        spec=spec,
        settings={
            "model": " and ".join(each.name for each in models),
            "images": f"{count:,} of {held_out.available:,}",
            "training images": "not given" if training is None else f"{training:,}",
            "size": f"{model.settings.size} px {model.settings.channels}",
            "candidates": f"{spec.candidates}",
            "seconds per image": f"{spec.seconds:g}" if spec.seconds else "each method's steps",
            "seed": f"{spec.seed}",
            "features": features,
        },
        unavailable=[reason for reason in unavailable if reason is not None],
        facts=legibility,
        report=store.folder / "report.html",
        results=store.folder / "results.csv",
    )
