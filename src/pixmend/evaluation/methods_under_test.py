"""Who takes part in an evaluation: methods of our own and rivals, behind one call."""

import difflib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pixmend.completion import (
    METHODS,
    Answer,
    Completion,
    CompletionOptions,
    Method,
    Task,
    complete,
)
from pixmend.completion import find_method as completion_method
from pixmend.errors import SettingsError
from pixmend.evaluation.rivals import RIVALS, Fill, Images, absent, find_rival
from pixmend.images import open_image
from pixmend.masks import Mask
from pixmend.models import DCGAN

_SEARCHED = 16  # images of one search, unless the caller's batch is smaller

Never = Callable[[], bool]


@dataclass(frozen=True, eq=False)
class Answered:
    """What a contestant made of one image.

    Attributes
    ----------
    pixels
        The whole image, uint8 [H, W, C]; known pixels are the original's.
    candidates
        All its answers, the first of which is ``pixels``.
    uncertainty
        Standard deviations in grey levels, [H, W]; None of a rival.
    confidence, warnings
        As of a `Completion`.
    seconds
        Its share of the batch's wall time; None where nobody told.
    """

    pixels: Images
    candidates: tuple[Images, ...]
    seconds: float | None
    uncertainty: NDArray[np.float32] | None = None
    confidence: float | None = None
    warnings: tuple[str, ...] = ()


class Answers(Protocol):
    """Answers that are there already, by mask and number of the image."""

    seconds: float | None

    def read(self, spec: str, number: int, image: Images, mask: Mask) -> Images:
        """Return one, uint8 [H, W, C]; an InputError where it is none."""
        ...


@dataclass(frozen=True)
class EvaluatedMethod:
    """One row of the table.

    Attributes
    ----------
    method
        As the user named it.
    answer
        ``sharp`` or ``average``; "" of a rival.
    ours
        Whether it asks the model.
    run
        Answers a batch: images, masks, and whether to stop.
    outside
        Where its answers are if it cannot be run.
    searches
        Whether it searches G's latents alone, told nothing by the encoder.
    """

    method: str
    answer: str
    ours: bool
    run: Callable[[Images, Sequence[Mask], Never], list[Answered]]
    outside: Answers | None = None
    searches: bool = False

    @property
    def label(self) -> str:
        """What people read."""
        return f"{self.method}, {self.answer}" if self.answer else self.method


def available(model: DCGAN, train: Images | None) -> tuple[list[str], list[str]]:
    """Return the names that take part where none are asked for, and in words why others do not."""
    names = ["instant", "default"] if model.encoder is not None else ["default"]
    reasons = {name: absent(name, train) for name in RIVALS}
    names += [name for name, reason in reasons.items() if reason is None]
    return names, [reason for reason in reasons.values() if reason is not None]


def find_contestants(
    names: Sequence[str],
    model: DCGAN,
    train: Images | None,
    *,
    seed: int = 0,
    candidates: int = 1,
    seconds: float | None = None,
    of: str = "",
) -> list[EvaluatedMethod]:
    """Return who takes part, by name; `default` also gives its average where the model has an encoder.

    Parameters
    ----------
    names
        Methods of `pixmend.completion.METHODS`, each with its own number of steps or, with ``:share``, that share of them; and rivals.
    seconds
        Of each image, in place of the number of steps.
    of
        The name that this model bears where there are two.

    Raises
    ------
    SettingsError
        Unknown name (the names are offered), or one that needs what is not there.
    """
    found: list[EvaluatedMethod] = []
    for name in dict.fromkeys(names):
        if name in RIVALS:
            found.append(_rival(name, find_rival(name, train)))
            continue
        method = _method(name, model)
        answers: tuple[Answer, ...] = ("sharp",)
        if method.name == "default" and method.uses_encoder(model):
            answers = ("sharp", "average")
        for answer in answers:
            options = CompletionOptions(method, candidates, snapshots=(), seed=seed, answer=answer)
            found.append(_ours(f"{of}:{name}" if of else name, model, options, seconds))
    if not found:
        raise SettingsError(f"--methods: none given; there are {_offered()}")
    return found


def outsider(name: str, answers: Answers) -> EvaluatedMethod:
    """Return a contestant whose answers another tool made.

    Raises
    ------
    SettingsError
        Its name is a method's or a rival's.
    """
    if name in METHODS or name in RIVALS:
        raise SettingsError(f"--completions {name}: there is a method of that name; give another")
    return EvaluatedMethod(name, "", False, _absent, answers)


def _absent(images: Images, masks: Sequence[Mask], should_stop: Never) -> list[Answered]:
    raise AssertionError("its answers are read, it cannot be run")


def _method(name: str, model: DCGAN) -> Method:
    base, _, share = name.partition(":")
    if base not in METHODS:
        near = difflib.get_close_matches(base, [*METHODS, *RIVALS], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SettingsError(f"--methods: no {name!r}; there are {_offered()}{hint}")
    method = completion_method(base).for_model(model)
    if not share:
        return method
    try:
        part = float(share)
    except ValueError:
        part = 0.0
    if not 0 < part <= 100:
        raise SettingsError(
            f"--methods {name}: needs a share of the method's steps above 0, such as {base}:0.5"
        )
    steps = max(1, round(method.steps * part))
    return replace(method, steps=steps, encoded_steps=steps)


def _offered() -> str:
    return f"{', '.join(METHODS)}, and without the model {', '.join(RIVALS)}"


def _ours(
    name: str, model: DCGAN, options: CompletionOptions, seconds: float | None
) -> EvaluatedMethod:
    def run(images: Images, masks: Sequence[Mask], should_stop: Never) -> list[Answered]:
        count = min(len(images), _SEARCHED)
        of_batch = replace(options, batch=count, seconds=seconds and seconds * count)
        jobs = [Task(open_image(image), mask) for image, mask in zip(images, masks, strict=True)]
        started = time.perf_counter()
        results = list(complete(model, jobs, of_batch, should_stop=should_stop))
        each = (time.perf_counter() - started) / len(jobs)
        return [_answered(result, each) for result in results]

    searches = not options.method.uses_encoder(model)
    return EvaluatedMethod(name, options.answer, True, run, searches=searches)


def _answered(result: Completion, seconds: float) -> Answered:
    drawn = tuple(each.picture.pixels.astype(np.uint8) for each in result.candidates)
    return Answered(
        drawn[0], drawn, seconds, result.uncertainty, result.confidence, result.warnings
    )


def _rival(name: str, fill: Fill) -> EvaluatedMethod:
    def run(images: Images, masks: Sequence[Mask], should_stop: Never) -> list[Answered]:
        del should_stop  # none takes long
        started = time.perf_counter()
        filled = fill(images, masks)
        each = (time.perf_counter() - started) / len(images)
        known = np.stack([mask.known for mask in masks])[..., None]
        return [Answered(pixels, (pixels,), each) for pixels in np.where(known, images, filled)]

    return EvaluatedMethod(name, "", False, run)
