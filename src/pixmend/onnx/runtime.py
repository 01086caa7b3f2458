"""Models exported to ONNX, completed by onnxruntime; nothing here imports torch."""

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from pixmend.completion.call import complete_images
from pixmend.completion.result import Candidate, Completion
from pixmend.completion.task import CompletionOptions, Task
from pixmend.errors import (
    ImageError,
    ModelFileError,
    SettingsError,
    VersionError,
    install_hint,
)
from pixmend.images import (
    Picture,
    Pixels,
    channel_count,
    parse_colour,
    to_channels,
    to_eight_bits,
)
from pixmend.storage import StorePath, open_file, parse_json

if TYPE_CHECKING:
    from pixmend.completion.animation import Preview
    from pixmend.completion.methods import Method
    from pixmend.completion.task import Answer

FORMAT = 1  # of the facts in a file's metadata; raised when older programs cannot read newer files
KEY = "pixmend"  # of those facts
MAX_SIDE = 1024  # pixels of an image's longer side; memory grows with its area
_NOT_OURS = "not an ONNX file of pixmend; write one with pixmend export MODEL OUT.onnx"
_LARGEST = 2**31


@dataclass(frozen=True)
class OnnxMethod:
    """The method of every ONNX file, as `pixmend.completion.Method` names its own."""

    name: str = "default"
    steps: int = 0


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A model of an ONNX file, with what `pixmend complete` needs of a `pixmend.api.Model`.

    Attributes
    ----------
    facts
        ``size``, ``channels``, ``max_side``, ``max_candidates``, ``weights``, ``licence``, ``card`` and more.
    """

    session: Any
    facts: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path, *, threads: int = 0) -> Self:
        """Load a file of `pixmend export`; a ModelFileError says why it cannot be used.

        ``threads`` of onnxruntime, 0 for one a core.
        """
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise SettingsError(f"{path}: needs onnxruntime; {install_hint('onnx')}") from error
        try:
            with open_file(
                StorePath.of(path).on_this_machine("an ONNX file"), limit=_LARGEST
            ) as file:
                content = file.read()
        except FileNotFoundError:
            raise ModelFileError(f"{path}: no such file; check the path") from None
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read: {error.strerror or error}") from error
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = threads, 4
        try:
            session = onnxruntime.InferenceSession(
                content, settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no public base of its errors
            reason = str(error).partition("\n")[0]
            unknown = re.search(r"[Oo]pset \d+", reason)
            if unknown:
                raise VersionError(
                    f"{path}: needs a newer onnxruntime ({unknown[0]}); pip install -U onnxruntime"
                ) from error
            raise ModelFileError(f"{path}: truncated or damaged, or {_NOT_OURS}") from error
        facts = _read_facts(path, session.get_modelmeta().custom_metadata_map.get(KEY))
        if hashlib.sha256(content[: facts["bytes"]]).hexdigest() != facts["digest"]:
            raise ModelFileError(
                f"{path}: does not match its digest: altered or damaged; get the file again"
            )
        return cls(session, facts)

    @property
    def card(self) -> dict[str, Any]:
        """The model card: data, steps, figures."""
        return dict(self.facts["card"])

    def complete(
        self,
        image: Any,  # noqa: ANN401 - as in `pixmend.api.Model.complete`
        mask: Any = "auto",  # noqa: ANN401
        *,
        candidates: int = 1,
        seed: int = 0,
        answer: "Answer" = "sharp",
    ) -> Any:  # noqa: ANN401
        """Complete one image, or several: see `pixmend.api.Model.complete`. ``seed`` is that of random masks."""
        method = cast("Method", OnnxMethod())
        options = CompletionOptions(method, candidates, seed=seed, answer=answer)
        return complete_images(lambda tasks: self.complete_tasks(tasks, options), image, mask, seed)

    def for_model(self, options: CompletionOptions) -> CompletionOptions:
        """Return the options; a SettingsError refuses those that need the search or torch."""
        most = self.facts["max_candidates"]
        if options.candidates > most:
            raise SettingsError(
                f"candidates = {options.candidates}: an ONNX file gives up to {most}"
            )
        if options.view != "whole":
            raise SettingsError(f"view = {options.view}: an ONNX file sees the whole image")
        return replace(options, snapshots=(), frames=())

    def check_task(self, task: Task) -> None:
        """Raise the errors of `Task.check`, and an ImageError for an image above the bound."""
        task.check()
        picture, most = task.picture, self.facts["max_side"]
        if max(picture.height, picture.width) > most:
            raise ImageError(
                f"{task.name}: {picture.width} x {picture.height} pixels, and an ONNX file takes up to "
                f"{most} a side; crop or shrink it, or use the model file"
            )

    def complete_tasks(
        self,
        tasks: Iterable[Task],
        options: CompletionOptions,
        *,
        on_preview: "Callable[[Preview], None] | None" = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Completion]:
        """Complete images one by one, as `pixmend.api.Model.complete_tasks`, but without previews."""
        del on_preview
        options = self.for_model(options)
        for task in tasks:
            if should_stop():
                return
            yield self._complete(task, options)

    def _complete(self, task: Task, options: CompletionOptions) -> Completion:
        started = time.perf_counter()
        self.check_task(task)
        picture = task.picture
        if task.mask.known.all():
            blank = np.zeros(task.mask.known.shape, np.float32)
            return _completion(task, options, [picture], blank, None, started)
        pixels = to_eight_bits(picture.pixels)
        background = parse_colour(str(self.card.get("background", "white")))
        if self.facts["channels"] == "RGBA":
            pixels = to_channels(pixels, "RGBA", background)
        inputs = {
            "image": np.ascontiguousarray(pixels[None]),
            "mask": task.mask.to_pixels()[None, ..., 0],
            "count": np.array([options.candidates]),
            "average": np.array([options.answer == "average"]),
        }
        _, candidates, uncertainty, confidence = self.session.run(None, inputs)
        pictures = [
            picture.replace_where(task.mask.hole, _at_depth(each, picture, background))
            for each in candidates
        ]
        share = float(confidence[0])
        return _completion(
            task, options, pictures, uncertainty[0], None if np.isnan(share) else share, started
        )


def _completion(
    task: Task,
    options: CompletionOptions,
    pictures: Sequence[Picture],
    uncertainty: NDArray[np.float32],
    confidence: float | None,
    started: float,
) -> Completion:
    kinds = [options.answer, *["sharp"] * (len(pictures) - 1)]
    losses, z = (float("nan"),) * 3, np.empty(0, np.float32)
    return Completion(
        name=task.name,
        original=task.picture,
        mask=task.mask,
        candidates=tuple(
            Candidate(picture, cast("Answer", kind), *losses, z)
            for picture, kind in zip(pictures, kinds, strict=True)
        ),
        uncertainty=uncertainty,
        confidence=confidence,
        seed=options.seed,
        seconds=time.perf_counter() - started,
        warnings=(
            *task.picture.warnings,
            *(["nothing is missing"] if task.mask.known.all() else []),
        ),
    )


def _at_depth(pixels: Pixels, picture: Picture, background: tuple[int, int, int]) -> Pixels:
    """Return an answer, uint8 [H, W, C], in the channels and the depth of the picture."""
    converted = (
        to_channels(pixels, picture.channels, background)
        if pixels.shape[-1] != channel_count(picture.channels)
        else pixels
    )
    return converted if picture.pixels.dtype == np.uint8 else converted.astype(np.uint16) * 257


def _read_facts(path: str | Path, text: str | None) -> dict[str, Any]:
    try:
        facts = parse_json(text or "")
        if facts["format"] != FORMAT:
            raise VersionError(
                f"{path}: of format {facts['format']}; this pixmend reads format {FORMAT}: "
                "use the version that wrote it"
            )
        numbers = [facts[name] for name in ("bytes", "size", "max_side", "max_candidates")]
        if not all(type(number) is int for number in numbers):
            raise ValueError("facts of other types")
        channel_count(facts["channels"])
        return {**facts, "card": dict(facts["card"]), "digest": str(facts["digest"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path}: {_NOT_OURS}") from error
