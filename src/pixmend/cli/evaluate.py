"""pixmend evaluate."""

import contextlib
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from pixmend.cli.options import Cluster, Device, ModelName, Seed, check_model
from pixmend.cli.terminal import (
    escape,
    print_facts,
    print_failures,
    progress_bar,
    stderr,
    stdout,
    stop_on_signal,
)
from pixmend.errors import SettingsError, counted

if TYPE_CHECKING:
    from rich.progress import Progress

    from pixmend.evaluation import Evaluation, Step
    from pixmend.storage import StorePath

ModelAndImages = Annotated[
    list[str],
    Argument(
        metavar="[OTHER] IMAGES...",
        help="Undamaged images: a record folder, or files, folders, globs or URLs; "
        "optionally after a second model to compare.",
    ),
]
Out = Annotated[str | None, Option("--out", help="Folder for the report and the results.")]
Masks = Annotated[str, Option(help="Comma-separated masks.")]
Methods = Annotated[
    str | None,
    Option(
        help="Comma-separated methods of complete, optionally with :FRACTION of their steps, and "
        "baselines: mean, nearest, telea, navier-stokes, biharmonic. "
        "Default: default, instant and all available baselines."
    ),
]
Completions = Annotated[
    list[str] | None,
    Option(metavar="NAME=FOLDER", help="Another tool's completions of the tasks, as method NAME."),
]
Tasks = Annotated[str | None, Option(help="Write masked images here for another tool, and exit.")]
ProtocolName = Annotated[
    str | None, Option(help="yeh2017: that paper's masks, with its published table.")
]
TrainData = Annotated[
    str | None,
    Option(
        help="Training records: for mean, nearest, read rate and sample KID, and to exclude copies."
    ),
]
Count = Annotated[int, Option("--n", min=1, help="Random images, the same for every method.")]
Candidates = Annotated[int, Option(help="Candidates per image; the best one is scored separately.")]
Seconds = Annotated[
    float | None, Option("--seconds-per-image", help="Search time, seconds; replaces the steps.")
]
Batch = Annotated[int, Option(help="Images per batch; an interruption loses at most one batch.")]


def evaluate(
    model: ModelName,
    images: ModelAndImages,
    out: Out = None,
    masks: Masks = "center,half,random:0.8,grid,strokes",
    methods: Methods = None,
    completions: Completions = None,
    tasks: Tasks = None,
    protocol: ProtocolName = None,
    train_data: TrainData = None,
    count: Count = 512,
    candidates: Candidates = 1,
    seconds: Seconds = None,
    seed: Seed = 0,
    batch: Batch = 16,
    device: Device = "auto",
    cluster: Cluster = None,
) -> None:
    """Evaluate a model on unseen images against model-free baselines or another model.

    OUT gets report.html (works offline), report.json, the completions, and results.csv with a row
    per image, mask and method. Run the same command again to resume, or with more masks, methods
    or images to add them.
    """
    _check_early(model, masks, protocol)
    other, images = _second_model(images)
    folder = _folder(out, "a report") if tasks is None else _folder(tasks, "a folder of tasks")
    source, names = _source(images, folder)
    from pixmend import api
    from pixmend.evaluation import YEH_MASKS, EvaluationSpec, parse_completions

    spec = EvaluationSpec(
        YEH_MASKS if protocol else tuple(_split(masks)),
        None if methods is None else _split(methods), count, candidates, seconds, seed, batch,
    )  # fmt: skip
    if tasks is not None:
        with progress_bar() as bar:
            written = api.write_tasks(
                model, source, folder, spec, train_data=train_data, names=names,
                on_images=_Progress(bar).on_images,
            )  # fmt: skip
        stdout.print(f"{counted(written, 'task')} in {folder}")
        return
    with contextlib.ExitStack() as stack:
        engine = None
        if cluster is not None:
            from pixmend.cluster import evaluation_job, session

            on = stack.enter_context(session.connect(cluster))
            engine = evaluation_job.EvaluationJob(on, (model, other), spec, train_data, device)
        should_stop = stack.enter_context(stop_on_signal())
        progress = _Progress(stack.enter_context(progress_bar()))
        evaluation = api.evaluate(
            model, source, folder, spec,
            train_data=train_data, names=names, other=other,
            completions=parse_completions(completions or []), device=device, engine=engine,
            on_images=progress.on_images, on_step=progress.on_step, should_stop=should_stop,
        )  # fmt: skip
    _report(evaluation)


def _check_early(model: str, masks: str, protocol: str | None) -> None:
    """Raise the error of wrong options before torch is imported, which takes seconds."""
    from pixmend.masks import make_mask

    check_model(model)
    for mask in _split(masks):
        make_mask(mask, 64, 64)
    if protocol not in (None, "yeh2017"):
        raise SettingsError(f"--protocol {protocol}: the only protocol is yeh2017")


class _Progress:
    """Two bars: choosing the images, then completing them."""

    def __init__(self, bar: "Progress") -> None:
        self._bar = bar
        self._choosing = bar.add_task("choosing images", total=None, note="")
        self._completing = bar.add_task("completing", total=None, note="", visible=False)

    def on_images(self, done: int, total: int) -> None:
        self._bar.update(self._choosing, completed=done, total=total)

    def on_step(self, step: "Step") -> None:
        self._bar.update(self._choosing, visible=False)
        note = escape(f"{step.label}, {step.mask}")
        self._bar.update(
            self._completing, completed=step.done, total=step.total, note=note, visible=True
        )


def _report(evaluation: "Evaluation") -> None:
    """Print figures and findings; exit with code 2 if an input failed."""
    from rich.table import Table
    from rich.text import Text

    from pixmend.evaluation import YEH_MASKS, yeh_table

    summary, held_out = evaluation.summary, evaluation.held_out
    for reason in evaluation.unavailable:
        stderr.print(f"left out: {reason}")
    print_failures(held_out.failed)
    images, copies = len(held_out.images), len(held_out.duplicates)
    if images < evaluation.spec.count and images < 100:
        stderr.print(
            f"only {counted(images, 'image')} left (copies of training images: {copies:,}): "
            "intervals are wide"
        )
    table = Table("", title=f"hole PSNR, dB, of {counted(images, 'image')}")
    for mask in summary.masks:
        table.add_column(escape(mask), justify="right")
    for label in summary.labels:
        cells = [summary.cells[label, mask] for mask in summary.masks]
        values = [Text(f"{c.psnr.mean:.2f}", style="bold" if c.best else "") for c in cells]
        table.add_row(escape(label), *values)
    stdout.print(table)
    if evaluation.spec.masks == YEH_MASKS:
        for line in yeh_table(summary).splitlines():
            stdout.print(line)
    stdout.print(evaluation.verdict)
    for finding in evaluation.diagnostics:
        stdout.print(f"- {finding.fact} {finding.advice}")
    print_facts({"report": evaluation.report, "results": evaluation.results})
    if held_out.failed:
        raise Exit(2)


def _folder(text: str | None, content: str) -> Path:
    from pixmend.storage import StorePath

    if text is None:
        raise SettingsError("--out: give the folder for report and results (or --tasks FOLDER)")
    return StorePath.of(text).on_this_machine(content)


def _second_model(images: list[str]) -> tuple[str | None, list[str]]:
    """Split off the second model if the first of several inputs is one."""
    from pixmend.images import is_image
    from pixmend.storage import StorePath, split_pin

    first = images[0]
    url, pin = split_pin(first)
    path = StorePath.of(url)
    if len(images) < 2 or is_image(PurePath(path.name)):
        return None, images
    if path.local is None or path.exists():
        files = (path / name for name in ("best.safetensors", "model.safetensors"))
        model = pin or path.suffix == ".safetensors" or any(file.is_file() for file in files)
    else:
        from pixmend.model_header import BUNDLED

        model = path.name == first and (BUNDLED / f"{first}.safetensors").is_file()
    return (first, images[1:]) if model else (None, images)


def _source(
    images: list[str], out: Path
) -> "tuple[StorePath | Sequence[StorePath], Sequence[str] | None]":
    """Return a record folder, or image files and their names."""
    from pixmend.cli.input_files import expand_inputs
    from pixmend.storage import StorePath

    if len(images) == 1 and (StorePath.of(images[0]) / "manifest.json").is_file():
        return StorePath.of(images[0]), None
    files = expand_inputs(images, out=StorePath(out))
    names = (str(file.relative).encode(errors="backslashreplace") for file in files)
    return [file.path for file in files], [name.decode() for name in names]


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
