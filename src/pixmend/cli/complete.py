"""pixmend complete."""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pixmend.cli.clustered import CLUSTER_HELP

if TYPE_CHECKING:
    from pixmend.api import Model
    from pixmend.cli.outputs import Input
    from pixmend.cli.watching import Films, Sheets
    from pixmend.client import RemoteModel
    from pixmend.completion import (
        Answer,
        Blend,
        Completion,
        CompletionOptions,
        Preview,
        Task,
        View,
    )
    from pixmend.storage import StorePath


def complete(
    model: Annotated[
        str, typer.Argument(help="A model file, a run directory or a bundled model's name.")
    ],
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, folders, globs or URLs.")
    ],
    out: Annotated[str, typer.Option("--out", help="The folder for the results, or its URL.")],
    mask: Annotated[
        str,
        typer.Option(
            help="center[:0.5], half[:left|right|top|bottom], random[:0.8], grid, lowres[:4], strokes, "
            "a mask image, or a folder of masks matched by stem (or a URL); white = hole."
        ),
    ] = "center",
    method: Annotated[
        str,
        typer.Option(
            help="default, instant, best (slow), or as published: classic, yeh, bamos, chengbinjin, moodoki, csgm, surgery."
        ),
    ] = "default",
    steps: Annotated[
        int | None, typer.Option(help="Steps of the search; the method's own if not given.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Search for so long, for each batch, whatever the number of steps."),
    ] = None,
    snapshots: Annotated[str, typer.Option(help="Steps whose state the sheet shows.")] = "500,1000",
    candidates: Annotated[int, typer.Option(help="Distinct answers an image, best first.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    answer: Annotated[
        str,
        typer.Option(
            help="sharp, to look at; average, the mean of all answers: errs least, blurs."
        ),
    ] = "sharp",
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Write how sure each pixel is: PNG and array.")
    ] = False,
    blend: Annotated[
        str | None,
        typer.Option(
            metavar="paste|feather|poisson",
            help="How the hole is joined to the known pixels; the method's own if not given.",
        ),
    ] = None,
    view: Annotated[
        str,
        typer.Option(
            metavar="whole|window",
            help="What the model sees: the image as its training images were seen, or a square around each hole.",
        ),
    ] = "whole",
    film: Annotated[
        Path | None,
        typer.Option(
            help="Also a film of the search, a GIF; of several images, a folder of that name without .gif."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the facts of each image as a line of JSON on stdout."),
    ] = False,
    batch: Annotated[
        int, typer.Option(help="Images at a time; bounds memory, changes no result.")
    ] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Let a pixmend serve do it, MODEL being an id there; a token is read from PIXMEND_TOKEN.",
        ),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="auto|ray://HOST", help=CLUSTER_HELP)
    ] = None,
) -> None:
    """Complete images: each under its own name in OUT, with a contact sheet beside it and a line in results.jsonl.

    Several images also share sheets, sheet.png, sheet-2.png ..., of 40 rows each. Ctrl-C ends the search,
    keeps the best found so far, and begins no further image.
    """
    from pixmend import api
    from pixmend.cli.clustered import complete_on
    from pixmend.cli.outputs import expand_inputs
    from pixmend.cli.watching import Films
    from pixmend.completion import CompletionOptions, find_method
    from pixmend.masks import SHAPES, make_mask
    from pixmend.storage import StorePath

    shape = mask.partition(":")[0]
    if shape in SHAPES or not StorePath.of(mask).exists():
        make_mask(mask, 64, 64)  # what is misspelt is told once, not for each image
    chosen = find_method(method, steps=steps, blend=cast("Blend | None", blend))
    options = CompletionOptions(
        chosen,
        candidates,
        _steps_of(snapshots),
        seed,
        batch,
        seconds,
        answer=cast("Answer", answer),
        view=cast("View", view),
    )
    place = StorePath.of(out)
    if cluster is not None:
        _refuse_beside_cluster(server, film)
        complete_on(
            cluster, model, inputs, place, options,
            mask=mask, uncertainty=uncertainty, device=device, as_json=as_json,
        )  # fmt: skip
        return
    found = expand_inputs(inputs, but=place)
    here = [item.path for item in found if isinstance(item.path, Path)]
    films = None if film is None else Films(film, here, one=len(found) == 1)
    if server is None:
        loaded: Model | RemoteModel = api.load(model, device=device)
    else:
        loaded = _model_of(server, model, film)
    _Batch(loaded, found, mask, place, options, uncertainty, films, as_json).run()


def _model_of(server: str, model: str, film: Path | None) -> "RemoteModel":
    from pixmend.errors import SettingsError

    try:
        from pixmend.client import Client
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--server needs {error.name}; pip install 'pixmend[client]'"
        ) from error
    if film is not None:
        raise SettingsError("--film: a server sends no film; leave it out, or leave out --server")
    return Client(server, os.environ.get("PIXMEND_TOKEN")).model(model)


def _refuse_beside_cluster(server: str | None, film: Path | None) -> None:
    from pixmend.errors import SettingsError

    if server is not None:
        raise SettingsError("--server: not with --cluster; give one of them")
    if film is not None:
        raise SettingsError(
            "--film: a cluster writes no film; leave it out, or leave out --cluster"
        )


def _steps_of(text: str) -> tuple[int, ...]:
    from pixmend.errors import SettingsError

    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise SettingsError(
            f"--snapshots {text}: give steps with commas between, such as 500,1000"
        ) from None


@dataclass
class _Batch:
    """One call of the verb: reads the inputs as they are needed, and loses none to another's fault."""

    model: "Model | RemoteModel"
    inputs: Sequence["Input"]
    mask: str
    out: "StorePath"
    options: "CompletionOptions"
    uncertainty: bool
    films: "Films | None" = None
    as_json: bool = False
    failed: list[tuple[str, str]] = field(default_factory=list)

    def run(self) -> None:
        """Complete all, into a folder that other calls may write to as well."""
        from pixmend.storage import shared

        parts = {PurePath(), *(item.relative.parent for item in self.inputs)}
        roots = [self.out.local, self.films.folder if self.films else None]
        with contextlib.ExitStack() as held:
            for root in filter(None, roots):
                held.enter_context(shared(root, [root / part for part in parts]))
            self._run()

    def _run(self) -> None:
        from pixmend.cli.watching import Sheets
        from pixmend.completion import Names
        from pixmend.storage import JsonlWriter

        self.names = Names()
        self.names.reserve([PurePath("results.jsonl")])
        sheets = Sheets(self.out, self.names) if len(self.inputs) > 1 else None
        self.results = self.out / "results.jsonl"
        with JsonlWriter(self.results, self._latest()) as self.lines:
            stopped, done = self._complete_all(sheets)
        self.results.write_bytes(self._latest().encode())
        self._tell(stopped, done)

    def _complete_all(self, sheets: "Sheets | None") -> tuple[bool, int]:
        """Complete what can be, and return whether it was stopped and how many were completed."""
        from pixmend.cli.terminal import progress_bar, stop_on_signal
        from pixmend.completion import animation_steps

        self.options = self.model.for_model(self.options)
        rounds, done = self.options.method.steps + 1, 0  # the start is looked at too
        if self.films:
            self.options = replace(self.options, frames=animation_steps(rounds - 1))
        with stop_on_signal() as should_stop, progress_bar() as bar:
            task = bar.add_task("searching", total=len(self.inputs) * rounds, note="")

            def show(preview: "Preview") -> None:
                loss = sum(preview.losses) / len(preview.losses)
                note = f"{done}/{len(self.inputs)} images, loss {loss:.2f}"
                before = (done + len(self.failed)) * rounds
                images = len({task.name for task in preview.tasks})  # a task for each window
                # With --seconds steps go on past the method's own.
                now = min(preview.step + 1, rounds) * images
                bar.update(task, completed=before + now, note=note)

            for result in self.model.complete_tasks(
                self._jobs(), self.options, on_preview=show, should_stop=should_stop
            ):
                target = self._write(result)
                if sheets:
                    sheets.add(str(target), result)
                done += 1
            stopped = should_stop()
            if not stopped:
                bar.update(task, completed=len(self.inputs) * rounds, note=f"{done} images")
        if sheets:
            sheets.close()
        return stopped, done

    def _tell(self, stopped: bool, done: int) -> None:
        from pixmend.cli.terminal import errors, out

        # With --json nothing but the records is on stdout.
        (errors if self.as_json else out).print(
            f"{done} completed -> {self.out} (facts in {self.results.name})", markup=False
        )
        if self.failed:
            for name, reason in self.failed:
                errors.print(
                    f"failed: {reason if name in reason else f'{name}: {reason}'}", markup=False
                )
            errors.print(f"{len(self.failed)} of {len(self.inputs)} inputs failed", markup=False)
        if stopped:
            rest = len(self.inputs) - done - len(self.failed)
            errors.print(f"stopped: kept the best found so far; {rest} not begun")
            raise typer.Exit(130)
        if self.failed:
            raise typer.Exit(2)

    def _jobs(self) -> Iterator["Task"]:
        from pixmend.completion import Task, open_mask
        from pixmend.errors import InputError, StoreError
        from pixmend.images import open_image

        # Names are settled before the first result is written, so that they do not depend on what fails.
        self.targets = self._plan()
        for item in self.inputs:
            try:
                picture = open_image(item.path)
                job = Task(
                    picture, open_mask(self.mask, picture, seed=self.options.seed), str(item.path)
                )
                job.check()
            except (InputError, StoreError) as error:
                self.failed.append((str(item.path), str(error)))
                self._note({"file": str(item.path), "error": str(error)})
                continue
            yield job

    def _plan(self) -> dict[str, PurePath]:
        """Return the output name of each input as if it kept its suffix; those that do keep it come first."""
        from pixmend.completion import conflicting_outputs, plan_targets
        from pixmend.storage import StorePath

        given = [StorePath.of(item.path) for item in self.inputs] + [StorePath.of(self.mask)]
        self.names.reserve(conflicting_outputs(self.out, given))
        targets = plan_targets([item.relative for item in self.inputs], self.names)
        return {str(item.path): target for item, target in zip(self.inputs, targets, strict=True)}

    def _write(self, result: "Completion") -> PurePath:
        """Write all there is of a completion, and return the name of the best answer."""
        from pixmend.cli.terminal import errors
        from pixmend.completion import write_completion
        from pixmend.images import lossless_suffix

        target = self.targets[result.name]
        names = self.names.settle(
            target,
            lossless_suffix(target.suffix, result.original.mode),
            candidates=len(result.candidates),
            uncertainty=self.uncertainty,
        )
        facts, _ = write_completion(result, self.out, names)
        if self.films:
            facts["film"] = str(self.films.write(result, names.answers[0]))
        self._note(facts)
        for words in result.warnings:
            errors.print(f"warning: {result.name}: {words}", markup=False)
        return names.answers[0]

    def _latest(self) -> str:
        """Return the last line of results.jsonl of each file.

        Lines of an earlier call stay until another is written, so that a call that is killed takes nothing back that was told.
        """
        text = self.results.read_bytes().decode(errors="replace") if self.results.is_file() else ""
        latest: dict[str, str] = {}
        for line in text.splitlines():
            name = _file_of(line)
            if name is not None:
                latest.pop(name, None)  # to the end: lines are in the order of writing
                latest[name] = line
        return "".join(f"{line}\n" for line in latest.values())

    def _note(self, facts: dict[str, Any]) -> None:
        line = json.dumps(facts)
        self.lines.add(line)
        if self.as_json:
            print(line, flush=True)


def _file_of(line: str) -> str | None:
    from pixmend.storage import parse_json

    try:
        return str(parse_json(line)["file"])
    except (ValueError, KeyError, TypeError):
        return None
