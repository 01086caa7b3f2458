"""pixmend complete."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, cast

from typer import Argument, Exit, Option

from pixmend.cli.options import Cluster, Device, ModelName, Seed
from pixmend.cli.terminal import print_failures, progress_bar, stderr, stdout, stop_on_signal
from pixmend.errors import SettingsError, StoppedError

if TYPE_CHECKING:
    from pixmend.api import Model
    from pixmend.cli.completion_run import CompletionRun
    from pixmend.cli.input_files import InputFile
    from pixmend.client import RemoteModel
    from pixmend.cluster import CompletionSummary
    from pixmend.completion import Answer, Blend, CompletionOptions, View
    from pixmend.storage import StorePath

Inputs = Annotated[list[str], Argument(metavar="INPUT...", help="Images, folders, globs or URLs.")]
MaskSpec = Annotated[
    str,
    Option(
        help="center[:0.5], half[:left|right|top|bottom], random[:0.8], grid, lowres[:4], strokes; "
        "alpha, color:#ff00ff[:8], nan or auto, read from the image; "
        "a mask image, or a folder of masks matched by file stem (or a URL); white = hole."
    ),
]
MethodName = Annotated[
    str,
    Option(
        help="default, instant, best (slow), or a published method: "
        "classic, yeh, bamos, chengbinjin, moodoki, csgm, surgery."
    ),
]
Steps = Annotated[int | None, Option(help="Search steps; default: the method's.")]
Seconds = Annotated[float | None, Option(help="Search time per batch, seconds; replaces --steps.")]
AnswerKind = Annotated[
    str, Option(help="sharp, or average: mean of samples, accurate but blurred.")
]
Uncertainty = Annotated[bool, Option("--uncertainty", help="Write uncertainty per pixel.")]
BlendName = Annotated[
    str | None, Option(metavar="paste|feather|poisson", help="Blending; default: the method's.")
]
ViewName = Annotated[
    str, Option(metavar="whole|window", help="Model input: whole image, or a window per hole.")
]
Animation = Annotated[
    str | None, Option(help="GIF of the search; several images get a folder of that name.")
]
Json = Annotated[bool, Option("--json", help="Print one JSON line per image on stdout.")]
ServerUrl = Annotated[
    str | None,
    Option(metavar="URL", help="pixmend server that has MODEL; its token is in PIXMEND_TOKEN."),
]


def complete(
    model: ModelName,
    inputs: Inputs,
    out: Annotated[str, Option("--out", help="Output folder or URL.")],
    mask: MaskSpec = "center",
    method: MethodName = "default",
    steps: Steps = None,
    seconds: Seconds = None,
    snapshots: Annotated[str, Option(help="Steps shown on the contact sheet.")] = "500,1000",
    candidates: Annotated[int, Option(help="Distinct candidates per image, best first.")] = 1,
    answer: AnswerKind = "sharp",
    uncertainty: Uncertainty = False,
    seed: Seed = 0,
    blend: BlendName = None,
    view: ViewName = "whole",
    animation: Animation = None,
    as_json: Json = False,
    batch: Annotated[int, Option(help="Images per batch; limits memory, changes no result.")] = 16,
    device: Device = "auto",
    server: ServerUrl = None,
    cluster: Cluster = None,
) -> None:
    """Complete the missing pixels of images.

    Each completion keeps its input's name in OUT, with a contact sheet and a line in results.jsonl.
    Several images also share sheets of 40 rows: sheet.png, sheet-2.png ... Ctrl-C ends the search,
    writes the best results so far and skips the remaining images.
    """
    from pixmend.cli.completion_run import Animations, CompletionRun
    from pixmend.completion import CompletionOptions, find_method
    from pixmend.storage import StorePath

    _check_mask(mask)
    options = CompletionOptions(
        find_method(method, steps=steps, blend=cast("Blend | None", blend)),
        candidates,
        _parse_steps(snapshots),
        seed,
        batch,
        seconds,
        answer=cast("Answer", answer),
        view=cast("View", view),
    )
    folder = StorePath.of(out)
    if cluster is not None:
        _refuse_with("--cluster", {"--server": server, "--animation": animation})
        _complete_on(cluster, model, inputs, folder, options, mask, uncertainty, device, as_json)
        return
    files = _input_files(inputs, folder)
    animations = None if animation is None else Animations(animation, files)
    loaded = _load(model, device, server, animation)
    run = CompletionRun(loaded, files, mask, folder, options, uncertainty, animations, as_json)
    run.run()
    _report(run, as_json)
    if run.stopped:
        remaining = len(files) - run.done - run.failed
        stderr.print(f"stopped: kept the best results so far; {remaining} not started")
    if run.stopped or run.failures:
        raise Exit(130 if run.stopped else 2)


def _input_files(inputs: list[str], out: "StorePath") -> "list[InputFile]":
    """Return the inputs, and tell of the files of other kinds in their folders."""
    from pixmend.cli.input_files import expand_inputs
    from pixmend.images import passed_over
    from pixmend.storage import StorePath

    files = expand_inputs(inputs, out=out)
    for note in filter(None, (passed_over(StorePath.of(text), out) for text in inputs)):
        stderr.print(note)
    return files


def _check_mask(mask: str) -> None:
    """Report a misspelt mask once rather than for each image."""
    from pixmend.masks import check_spec, is_spec
    from pixmend.storage import StorePath

    if is_spec(mask) or not StorePath.of(mask).exists():
        check_spec(mask)


def _parse_steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise SettingsError(
            f"--snapshots {text}: give comma-separated steps such as 500,1000"
        ) from None


def _refuse_with(option: str, others: Mapping[str, object]) -> None:
    for name, value in others.items():
        if value is not None:
            raise SettingsError(f"{name}: not supported with {option}; leave out one of them")


def _load(
    model: str, device: str, server: str | None, animation: str | None
) -> "Model | RemoteModel":
    from pixmend import api

    if server is None:
        return api.load(model, device=device)
    _refuse_with("--server", {"--animation": animation})
    try:
        from pixmend.client import Client
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"--server needs {error.name}; pip install 'pixmend[client]'"
        ) from error
    return Client(server, os.environ.get("PIXMEND_TOKEN")).model(model)


def _complete_on(
    address: str,
    model: str,
    inputs: list[str],
    out: "StorePath",
    options: "CompletionOptions",
    mask: str,
    uncertainty: bool,
    device: str,
    as_json: bool,
) -> None:
    """Complete one folder, or image files, on a cluster."""
    from pixmend.cli.input_files import folder_or_files
    from pixmend.cluster import complete, connect
    from pixmend.cluster.completion_job import CompletionProgress

    images = folder_or_files(inputs, out=out)
    with connect(address) as cluster, stop_on_signal() as should_stop, progress_bar() as bar:
        task = bar.add_task("completing", total=None, note="listing")

        def show(progress: CompletionProgress) -> None:
            note = f"{progress.failed:,} failed" if progress.failed else ""
            bar.update(task, completed=progress.done, total=progress.total, note=note)

        def check_stop() -> None:
            if should_stop():
                raise StoppedError

        completed = complete(
            cluster, model, images, out, options,
            mask=mask, uncertainty=uncertainty, device=device, on_progress=show, on_tick=check_stop,
        )  # fmt: skip
    if as_json:
        with completed.results.open() as lines:
            for line in lines:
                print(line.decode(), end="")
    _report(completed, as_json, earlier=completed.kept)
    if completed.failed:
        raise Exit(2)


def _report(outcome: "CompletionRun | CompletionSummary", as_json: bool, earlier: int = 0) -> None:
    results, failed = outcome.results, outcome.failed
    note = f", {earlier:,} of them earlier" if earlier else ""
    # With --json, stdout holds nothing but the records.
    console = stderr if as_json else stdout
    console.print(f"{outcome.done:,} completed{note} -> {results.parent} (facts in {results.name})")
    print_failures(outcome.failures)
    if failed:
        stderr.print(f"{failed:,} of {outcome.done + failed:,} inputs failed")
