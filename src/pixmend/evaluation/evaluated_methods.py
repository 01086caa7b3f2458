"""The methods of an evaluation: the model's methods, baselines and external methods."""

import contextlib
import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from pixmend.completion import METHODS, CompletionOptions, Method, Task, complete
from pixmend.completion import find_method as find_completion_method
from pixmend.errors import SettingsError
from pixmend.evaluation.baselines import (
    BASELINES,
    Images,
    Inpaint,
    find_baseline,
    missing_requirement,
)
from pixmend.evaluation.external_methods import ExternalMethod
from pixmend.evaluation.held_out import TrainingImages
from pixmend.evaluation.results import Key
from pixmend.evaluation.settings import EvaluationSpec
from pixmend.images import open_image
from pixmend.masks import Mask
from pixmend.models import DCGAN

_NAMES = f"{', '.join(METHODS)}, and the baselines {', '.join(BASELINES)}"
_SEARCH_BATCH = 16  # images searched at once, at most

ShouldStop = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A model to evaluate, its display name and the digest of its file."""

    model: DCGAN
    name: str = "model"
    digest: str = ""


@dataclass(frozen=True, eq=False)
class MethodOutput:
    """One method's completion of one image."""

    candidates: tuple[Images, ...]  # whole images, uint8 [H, W, C], best first, known pixels kept
    seconds: float | None  # share of the batch's wall time, None if unknown
    uncertainty: NDArray[np.float32] | None = None  # standard deviations, grey levels, [H, W]
    confidence: float | None = None  # as of a `Completion`
    warnings: tuple[str, ...] = ()

    @property
    def pixels(self) -> Images:
        return self.candidates[0]


Run = Callable[[Images, Sequence[Mask], ShouldStop], list[MethodOutput]]


@dataclass(frozen=True)
class EvaluatedMethod:
    """A row of the report's tables."""

    method: str  # as the user named it
    answer: str = ""  # sharp or average, "" without the model
    ours: bool = False  # whether it uses the model
    run: Run | None = None  # completes a batch of images [B, H, W, C]
    external: ExternalMethod | None = None  # whose answers are read, without `run`

    @property
    def label(self) -> str:
        return f"{self.method}, {self.answer}" if self.answer else self.method

    def key(self, number: int, digest: str, mask: str) -> Key:
        """Return the key of a row; changed answers of an external method are other rows."""
        if self.external is not None:
            digest += f"-{self.external.digest}"
        return number, digest, mask, self.method, self.answer


def select_methods(
    models: Sequence[ModelUnderTest], train: TrainingImages | None, spec: EvaluationSpec
) -> list[EvaluatedMethod]:
    """Return the methods, the models' first; by default all that are available."""
    images = None if train is None else train.images
    methods: dict[str, EvaluatedMethod] = {}
    for letter, under_test in zip("AB", models, strict=False):
        model, prefix = under_test.model, f"{letter}:" if len(models) > 1 else ""
        names = available_methods(model, images) if spec.methods is None else spec.methods
        for method in find_methods(names, model, images, spec, prefix=prefix):
            methods.setdefault(method.label, method)
    return sorted(methods.values(), key=lambda method: not method.ours)


def available_methods(model: DCGAN, train: Images | None) -> list[str]:
    """Return the names of the default methods and of the available baselines."""
    names = ["instant", "default"] if model.inpainter is not None else ["default"]
    return names + [name for name in BASELINES if missing_requirement(name, train) is None]


def find_methods(
    names: Sequence[str],
    model: DCGAN,
    train: Images | None,
    spec: EvaluationSpec | None = None,
    *,
    prefix: str = "",
) -> list[EvaluatedMethod]:
    """Return methods by name; SettingsError for an unknown or an unavailable one.

    Names are those of `pixmend.completion.METHODS`, with an optional ``:share`` of their steps, and
    of baselines. `default` adds its average if there is an inpainter. ``prefix`` names the model.
    """
    spec = spec or EvaluationSpec()
    methods: list[EvaluatedMethod] = []
    for name in dict.fromkeys(names):
        if name in BASELINES:
            run = _run_baseline(find_baseline(name, train))
            methods.append(EvaluatedMethod(name, run=run))
            continue
        method = _completion_method(name, model)
        inpainted = method.uses_inpainter(model)
        options = CompletionOptions(method, spec.candidates, snapshots=(), seed=spec.seed)
        for answer in (
            ("sharp", "average") if inpainted and method.name == "default" else ("sharp",)
        ):
            run = _run_model(model, replace(options, answer=answer), spec.seconds)
            label = f"{prefix}{name}"
            methods.append(EvaluatedMethod(label, answer, True, run))
    if not methods:
        raise SettingsError(f"--methods: none given; the methods are {_NAMES}")
    return methods


def _completion_method(name: str, model: DCGAN) -> Method:
    base, _, share = name.partition(":")
    if base not in METHODS:
        near = difflib.get_close_matches(base, [*METHODS, *BASELINES], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"--methods: no {name!r}; the methods are {_NAMES}{hint}")
    method = find_completion_method(base).for_model(model)
    if not share:
        return method
    factor = 0.0
    with contextlib.suppress(ValueError):
        factor = float(share)
    if not 0 < factor <= 100:
        raise SettingsError(
            f"--methods {name}: needs a share of the method's steps above 0, such as {base}:0.5"
        )
    steps = max(1, round(method.steps * factor))
    return replace(method, steps=steps, inpainter="never")


def _run_model(model: DCGAN, options: CompletionOptions, seconds: float | None) -> Run:
    def run(images: Images, masks: Sequence[Mask], should_stop: ShouldStop) -> list[MethodOutput]:
        count = min(len(images), _SEARCH_BATCH)
        of_batch = replace(options, batch=count, seconds=seconds and seconds * count)
        tasks = [Task(open_image(image), mask) for image, mask in zip(images, masks, strict=True)]
        started = time.perf_counter()
        completions = list(complete(model, tasks, of_batch, should_stop=should_stop))
        each = (time.perf_counter() - started) / len(tasks)
        outputs = []
        for one in completions:
            candidates = (c.picture.pixels.astype(np.uint8) for c in one.candidates)
            facts = (one.uncertainty, one.confidence, one.warnings)
            outputs.append(MethodOutput(tuple(candidates), each, *facts))
        return outputs

    return run


def _run_baseline(inpaint: Inpaint) -> Run:
    def run(images: Images, masks: Sequence[Mask], _: ShouldStop) -> list[MethodOutput]:
        started = time.perf_counter()
        answers = inpaint(images, masks)
        each = (time.perf_counter() - started) / len(images)
        known = np.stack([mask.known for mask in masks])[..., None]
        return [MethodOutput((pixels,), each) for pixels in np.where(known, images, answers)]

    return run
