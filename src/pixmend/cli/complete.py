"""pixmend complete."""

import contextlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, cast

from typer import Argument, Exit, Option

from pixmend.cli.options import Cluster, Device, ModelName, Seed, check_model
from pixmend.cli.terminal import (
    counting_bar,
    print_failures,
    progress_bar,
    stderr,
    stdout,
    stop_on_signal,
)
from pixmend.errors import ImageError, SettingsError, StoppedError, StoreError, install_hint
from pixmend.loading import is_onnx, load

if TYPE_CHECKING:
    from pixmend.api import Model
    from pixmend.cli.completion_run import CompletionRun
    from pixmend.cli.input_files import InputFile
    from pixmend.client import RemoteModel
    from pixmend.cluster.completion_job import CompletionSummary
    from pixmend.completion import Answer, Blend, CompletionOptions, Method, View
    from pixmend.images import Limits
    from pixmend.onnx.runtime import OnnxModel
    from pixmend.storage import StorePath

Inputs = Annotated[list[str], Argument(metavar="INPUT...", help="Images, folders, globs or URLs.")]
MaskSpec = Annotated[
    str | None,
    Option(
        help="center[:0.5], half[:left|right|top|bottom], random[:0.8], grid, lowres[:4], strokes; "
        "alpha, color:#ff00ff[:8], nan or auto (default), read from the image; "
        "a mask image, or a folder of masks matched by file stem (or a URL); white = hole."
    ),
]
ValueRange = Annotated[
    str | None,
    Option(
        "--range",
        metavar="MIN:MAX",
        help="Values of black and white, if not the ends of the type: of floats, 12 bits ...",
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
RetrievalRecords = Annotated[
    str | None,
    Option(metavar="RECORDS", help="Records to find neighbours in; default: the model's images."),
]


def complete(
    model: ModelName,
    inputs: Inputs,
    out: Annotated[str, Option("--out", help="Output folder or URL.")],
    mask: MaskSpec = None,
    value_range: ValueRange = None,
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
    retrieval: RetrievalRecords = None,
    server: ServerUrl = None,
    cluster: Cluster = None,
) -> None:
    """Complete the missing pixels of images.

    Each completion keeps its input's name in OUT, with a contact sheet and a line in results.jsonl.
    Several images also share sheets of 40 rows: sheet.png, sheet-2.png ... Ctrl-C ends the search,
    writes the best results so far and skips the remaining images.
    """
    from pixmend.images import check_limits
    from pixmend.storage import StorePath

    # What follows comes before torch is imported, which takes seconds.
    if server is None and not is_onnx(model):
        check_model(model)
    folder = StorePath.of(out)
    limits = None if value_range is None else check_limits(value_range.split(":"))
    files = _input_files(inputs, folder) if cluster is None else []
    mask = _resolve_mask(mask, files, limits)
    from pixmend.cli.completion_run import Animations, CompletionRun
    from pixmend.completion import CompletionOptions

    others = {"--animation": animation, "--retrieval": retrieval, "--server": server}
    onnx = {"--seconds": seconds, **others, "--cluster": cluster}
    options = CompletionOptions(
        _find_method(model, method, steps, blend, onnx), candidates,
        _parse_steps(snapshots), seed, batch, seconds,
        answer=cast("Answer", answer), view=cast("View", view),
    )  # fmt: skip
    if cluster is not None:
        _refuse_with("--cluster", {**others, "--range": limits})
        _complete_on(cluster, model, inputs, folder, options, mask, uncertainty, device, as_json)
        return
    run = CompletionRun(
        _load(model, device, server, animation, retrieval), files, mask, folder, options,
        limits, uncertainty, None if animation is None else Animations(animation, files), as_json,
    )  # fmt: skip
    run.run()
    _finish(run, as_json)


def _finish(run: "CompletionRun", as_json: bool) -> None:
    """Report a run; exit if it was stopped, or an input failed."""
    _report(run, as_json)
    if not as_json:
        run.print_outcome()
    if run.stopped:
        remaining = len(run.inputs) - run.done - run.failed
        stderr.print(f"stopped: kept the best results so far; {remaining} not started")
    if run.stopped or run.failures:
        raise Exit(130 if run.stopped else 2)


def _input_files(inputs: list[str], out: "StorePath") -> "list[InputFile]":
    """Return the inputs, and report the files of other kinds in their folders."""
    from pixmend.cli.input_files import expand_inputs
    from pixmend.images import passed_over
    from pixmend.storage import StorePath

    files = expand_inputs(inputs, out=out)
    for note in filter(None, (passed_over(StorePath.of(text), out) for text in inputs)):
        stderr.print(note)
    return files


def _resolve_mask(mask: str | None, files: "list[InputFile]", limits: "Limits | None") -> str:
    """Return the mask; a MaskError, once, for one that is misspelt or was forgotten."""
    from pixmend.images import open_image
    from pixmend.masks import check_spec, is_spec, make_mask
    from pixmend.storage import StorePath

    if mask is not None:
        if is_spec(mask) or not StorePath.of(mask).exists():
            check_spec(mask)
        return mask
    kind = "NaN or transparent"
    for file in files:  # the first image that opens tells whether a mask was forgotten
        with contextlib.suppress(ImageError, StoreError):
            picture = open_image(file.path, limits)
            make_mask("auto", picture.height, picture.width, picture=picture)
            kind = "transparent" if picture.missing is None else "NaN"
            break
    stderr.print(f"no --mask: the {kind} pixels of the images are missing")
    return "auto"


def _parse_steps(text: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(part) for part in text.split(",") if part.strip()}))
    except ValueError:
        raise SettingsError(
            f"--snapshots {text}: give comma-separated steps such as 500,1000"
        ) from None


def _find_method(
    model: str, name: str, steps: int | None, blend: str | None, others: Mapping[str, object]
) -> "Method":
    """Return the method; a SettingsError for options that an ONNX file cannot follow."""
    if not is_onnx(model):
        from pixmend.completion import find_method

        return find_method(name, steps=steps, blend=cast("Blend | None", blend))
    from pixmend.onnx.runtime import OnnxMethod

    method = None if name == "default" else name
    options = {"--method": method, "--steps": steps, "--blend": blend, **others}
    if given := [option for option, value in options.items() if value is not None]:
        raise SettingsError(
            f"{given[0]}: an ONNX file holds the method default, without a search; complete with the model file"
        )
    return cast("Method", OnnxMethod())


def _refuse_with(option: str, others: Mapping[str, object]) -> None:
    for name, value in others.items():
        if value is not None:
            raise SettingsError(f"{name}: not supported with {option}; leave out one of them")


def _load(
    model: str,
    device: str,
    server: str | None,
    animation: str | None,
    retrieval: str | None,
) -> "Model | RemoteModel | OnnxModel":
    if server is None:
        loaded = load(model, device=device)
        if retrieval is None:
            return loaded
        with progress_bar() as bar:
            task = bar.add_task("reading neighbours", total=None, note="")
            return cast("Model", loaded).with_retrieval(
                retrieval,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    _refuse_with("--server", {"--animation": animation, "--retrieval": retrieval})
    try:
        from pixmend.client import Client
    except ModuleNotFoundError as error:
        raise SettingsError(f"--server needs {error.name}; {install_hint('client')}") from error
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
    from pixmend.cluster.completion_job import complete
    from pixmend.cluster.session import connect

    images = folder_or_files(inputs, out=out)
    with (
        connect(address) as cluster,
        stop_on_signal() as should_stop,
        counting_bar("completing", "failed") as show,
    ):

        def check_stop() -> None:
            if should_stop():
                raise StoppedError

        completed = complete(
            cluster, model, images, out, options,
            mask=mask, uncertainty=uncertainty, device=device, on_progress=show, on_tick=check_stop,
            on_facts=print if as_json else lambda line: None,
        )  # fmt: skip
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
