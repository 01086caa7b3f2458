"""One call of `pixmend complete` in this process: completions, contact sheets and animations."""

import contextlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from pixmend import completion, images
from pixmend.cli.input_files import InputFile, real_path
from pixmend.cli.terminal import progress_bar, stderr, stdout, stop_on_signal
from pixmend.completion import CompletionOptions, Names, Task
from pixmend.errors import InputError, SettingsError, StoreError
from pixmend.images import Limits, Pixels, encode_png, thumbnail
from pixmend.storage import JsonlWriter, StorePath, make_folder, parse_json, shared

if TYPE_CHECKING:
    from pixmend.api import Model
    from pixmend.client import RemoteModel
    from pixmend.completion import Completion, Preview
    from pixmend.onnx.runtime import OnnxModel

_SHEET_ROWS = 40
_CELL_PIXELS = 128
_MAX_WAITING = 8  # completions that wait to be written, a bound on the memory
_FRAME_PIXELS = 256  # longer side of an animation


@dataclass
class CompletionRun:
    """Completes input files into a folder; an unreadable input does not stop the others."""

    model: "Model | RemoteModel | OnnxModel"
    inputs: Sequence[InputFile]
    mask: str  # as in `open_mask`
    out: StorePath
    options: CompletionOptions
    limits: Limits | None = None  # as in `open_image`
    uncertainty: bool = False
    animations: "Animations | None" = None
    as_json: bool = False
    done: int = 0  # this and what follows is the outcome
    failures: list[tuple[str, str]] = field(default_factory=list)  # name and reason of each
    stopped: bool = False  # a signal ended the run early
    confidences: list[float] = field(default_factory=list)  # of the completions that have one

    @property
    def failed(self) -> int:
        return len(self.failures)

    @property
    def results(self) -> StorePath:
        """One line of JSON per input."""
        return self.out / "results.jsonl"

    def run(self) -> None:
        """Complete all inputs; other calls may write to the same folder at the same time."""
        folders = {PurePath(), *(item.relative.parent for item in self.inputs)}
        roots = [self.out.local, self.animations.folder if self.animations else None]
        self._mask_files: dict[str, str] = {}
        self._names = Names()
        self._names.reserve([PurePath(self.results.name)])
        self._sheets = Sheets(self.out, self._names) if len(self.inputs) > 1 else None
        self._sheet: PurePath | None = None  # the one to open
        self._writes: deque[Future[None]] = deque()
        if self.animations:
            make_folder(self.animations.parent)  # or fail before the search
        with contextlib.ExitStack() as locks:
            for root in filter(None, roots):
                locks.enter_context(shared(root, [root / folder for folder in folders]))
            with JsonlWriter(self.results, _latest_lines) as self._lines:
                self._complete_all()

    def print_outcome(self) -> None:
        """Print how far to trust the completions, and which sheet shows them."""
        if values := self.confidences:
            span = " to ".join(f"{value:.0%}" for value in sorted({min(values), max(values)}))
            stdout.print(f"confidence {span}: expected share of correct missing pixels")
        if self._sheet is not None:
            stdout.print(f"open {self.out / self._sheet}")

    def _complete_all(self) -> None:
        options = self.model.for_model(self.options)
        rounds = options.method.steps + 1  # with the initial state
        if self.animations:
            options = replace(options, frames=completion.animation_steps(rounds - 1))
        with (
            stop_on_signal() as should_stop,
            progress_bar() as bar,
            ThreadPoolExecutor(1, "pixmend-write") as self._writer,
        ):
            total = len(self.inputs) * rounds
            task = bar.add_task("searching", total=total, note="")

            def show(preview: "Preview") -> None:
                count = len({task.name for task in preview.tasks})  # one task per window
                steps = min(preview.step + 1, rounds)  # --seconds may exceed the method's steps
                completed = (self.done + self.failed) * rounds + steps * count
                loss = sum(preview.losses) / len(preview.losses)
                note = f"steps, {self.done}/{len(self.inputs)} images, loss {loss:.2f}"
                bar.update(task, completed=completed, note=note)

            for result in self.model.complete_tasks(
                self._tasks(), options, on_preview=show, should_stop=should_stop
            ):
                # Files are compressed and reach the disk while the next images are completed.
                self._submit(self._write, result)
                self.done += 1
            while self._writes:
                self._writes.popleft().result()
            self.stopped = should_stop()
            if not self.stopped:
                bar.update(task, completed=total, note=f"steps, {self.done} images")
        if self._sheets:
            self._sheets.close()
            self._sheet = self._sheets.first

    def _submit(self, write: Callable[..., None], *arguments: object) -> None:
        """Write in the thread of writes, in order; raise what an earlier write raised, and wait if many wait."""
        self._writes.append(self._writer.submit(write, *arguments))
        while self._writes and (len(self._writes) > _MAX_WAITING or self._writes[0].done()):
            self._writes.popleft().result()

    def _tasks(self) -> Iterator[Task]:
        given = [*(item.path for item in self.inputs), StorePath.of(self.mask)]
        self._names.reserve(completion.conflicting_outputs(self.out, given))
        # Names are fixed before the first result, so that they do not depend on which inputs fail.
        targets = completion.plan_targets([item.relative for item in self.inputs], self._names)
        paths = (str(item.path) for item in self.inputs)
        self._targets = dict(zip(paths, targets, strict=True))
        for item in self.inputs:
            try:
                picture = images.open_image(item.path, self.limits)
                file = completion.mask_file(self.mask, item.path, item.relative)
                mask = completion.open_mask(file or self.mask, picture, seed=self.options.seed)
                if file is not None:
                    self._mask_files[str(item.path)] = str(file)
                task = Task(picture, mask, str(item.path))
                # An ONNX file has a bound on the size, too.
                getattr(self.model, "check_task", Task.check)(task)
            except (InputError, StoreError) as error:
                self.failures.append((str(item.path), str(error)))
                self._submit(self._record, {"file": str(item.path), "error": str(error)})
                continue
            yield task

    def _write(self, result: "Completion") -> None:
        """Write the files of a completion and its line of results."""
        target = self._targets[result.name]
        names = self._names.settle(
            target,
            images.lossless_suffix(target.suffix, result.original.mode),
            candidates=len(result.candidates),
            uncertainty=self.uncertainty,
        )
        facts, _ = completion.write_completion(result, self.out, names)
        if result.name in self._mask_files:
            facts["mask_file"] = self._mask_files.pop(result.name)
        if self.animations:
            facts["animation"] = str(self.animations.write(result, names.answers[0]))
        self._record(facts)
        for warning in result.warnings:
            stderr.print(f"warning: {result.name}: {warning}")
        if result.confidence is not None:
            self.confidences.append(result.confidence)
        if self._sheets:
            self._sheets.add(str(names.answers[0]), result)
        else:
            self._sheet = names.sheet

    def _record(self, facts: dict[str, Any]) -> None:
        line = json.dumps(facts, allow_nan=False)
        self._lines.add(line)
        if self.as_json:
            print(line, flush=True)


def _latest_lines(text: str) -> str:
    """Return the latest line of each file in results.jsonl, in the order of writing.

    Lines of an earlier call stay until a new one replaces them: a killed call loses nothing.
    """
    latest: dict[str, str] = {}
    for line in text.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            name = str(parse_json(line)["file"])
            latest.pop(name, None)
            latest[name] = line
    return "".join(f"{line}\n" for line in latest.values())


class Sheets:
    """Contact sheets of many images, ``sheet.png``, ``sheet-2.png`` ..., each written when full."""

    def __init__(self, folder: StorePath, names: Names) -> None:
        self._folder, self._names = folder, names
        self._rows: list[Mapping[str, Pixels]] = []  # caption -> thumbnail
        self._labels: list[str] = []
        self._count = 0
        self.first: PurePath | None = None  # name of the first sheet written

    def add(self, label: str, result: "Completion") -> None:
        """Add a row: original, masked, snapshots, candidates."""
        thumbnails = (thumbnail(pixels, _CELL_PIXELS) for pixels in result.row())
        self._rows.append(dict(zip(result.captions(), thumbnails, strict=True)))
        self._labels.append(label)
        if len(self._rows) == _SHEET_ROWS:
            self.close()

    def close(self) -> None:
        """Write the remaining rows as a sheet."""
        if not self._rows:
            return
        self._count += 1
        ending = "" if self._count == 1 else f"-{self._count}"
        name = self._names.free(
            PurePath(f"sheet{ending}.png"), PurePath(f"contact-sheet{ending}.png")
        )
        # Images without holes have no snapshots: their rows have gaps.
        captions = max(self._rows, key=len)
        rows = [[row.get(caption) for caption in captions] for row in self._rows]
        sheet = images.contact_sheet(rows, list(captions), cell=_CELL_PIXELS, labels=self._labels)
        (self._folder / name).write_bytes(encode_png(sheet))
        self.first = self.first or name
        self._rows, self._labels = [], []


class Animations:
    """GIFs of searches: PATH itself for one input, a folder named PATH without .gif for several.

    SettingsError if PATH does not end in .gif, or would replace an input.
    """

    def __init__(self, name: str, inputs: Sequence[InputFile]) -> None:
        path = StorePath.of(name).on_this_machine("an animation")
        if path.suffix.lower() != ".gif":
            raise SettingsError(f"--animation {path}: needs a name that ends in .gif")
        self._single = len(inputs) == 1
        self._root = path if self._single else path.with_suffix("")
        self.parent = self._root.parent if self._single else self._root
        self._names = Names()
        root = real_path(self._root)
        for local in (item.path.local for item in inputs if item.path.local is not None):
            if real_path(local).is_relative_to(root):
                raise SettingsError(f"--animation {path}: {local} is an input; give another name")

    @property
    def folder(self) -> Path | None:
        """The folder of several animations; None for a single one, which may lie anywhere."""
        return None if self._single else self._root

    def write(self, result: "Completion", target: PurePath) -> Path:
        """Write the animation of the completion written as ``target``, and return its path."""
        name = completion.beside(target, f"{target.suffix}.gif")
        path = self._root if self._single else self._root / self._names.free(name, name)
        frames = [thumbnail(frame, _FRAME_PIXELS) for frame in completion.animation_frames(result)]
        images.write_animation(frames, path)
        return path
