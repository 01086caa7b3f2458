"""pixmend evaluate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixmend.cli.clustered import CLUSTER_HELP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pixmend.evaluation import Evaluation, Step
    from pixmend.storage import StorePath


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A model file, a run directory or a bundled model's name.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="[OTHER] IMAGES...",
            help="A record folder, or images, folders, globs or URLs; whole ones. Before them, if you like, a second model to compare.",
        ),
    ],
    out: Annotated[
        str | None, typer.Option("--out", help="The folder for report and results.")
    ] = None,
    masks: Annotated[
        str, typer.Option(help="What is missing, with commas between.")
    ] = "center,half,random:0.8,grid,strokes",
    methods: Annotated[
        str | None,
        typer.Option(
            help="With commas between: methods of complete, each with :SHARE of its steps if you like, and the rivals "
            "mean, nearest, telea, navier-stokes, biharmonic; if not given, default, instant and all rivals at hand."
        ),
    ] = None,
    completions: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER", help="Another tool's answers to the tasks, as a method NAME."
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Write the images with holes here, for another tool, and stop."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(help="yeh2017: the masks of that paper, and its published table beside ours."),
    ] = None,
    train_data: Annotated[
        str | None,
        typer.Option(
            help="The records that the model was trained on: for mean and nearest, read rate, KID of samples, and to leave out copies."
        ),
    ] = None,
    count: Annotated[
        int, typer.Option("--n", min=1, help="Images, drawn; the same for all.")
    ] = 512,
    candidates: Annotated[
        int, typer.Option(help="Answers an image; the best of them is a figure of its own.")
    ] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds-per-image", help="Time of each search, in place of the method's steps."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    batch: Annotated[
        int, typer.Option(help="Images at a time; what is lost at most when stopped.")
    ] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
    cluster: Annotated[
        str | None, typer.Option(metavar="auto|ray://HOST", help=CLUSTER_HELP)
    ] = None,
) -> None:
    """Judge a model on images that it has not seen, beside what completes images without one, or beside another model.

    OUT gets report.html (opens offline), report.json, results.csv with a row for each image, mask and method, and the answers. The
    same command goes on where it was stopped; more masks, methods or images add to what is there.
    """
    from pixmend import api
    from pixmend.cli.clustered import evaluating_on
    from pixmend.cli.terminal import errors, progress_bar, stop_on_signal
    from pixmend.cli.terminal import out as said
    from pixmend.errors import SettingsError
    from pixmend.evaluation import YEH_MASKS, EvaluationSpec, parse_completions
    from pixmend.storage import StorePath

    if protocol not in (None, "yeh2017"):
        raise SettingsError(f"--protocol {protocol}: there is yeh2017")
    if out is None and tasks is None:
        raise SettingsError("--out: give the folder for report and results (or --tasks FOLDER)")
    spec = EvaluationSpec(
        masks=YEH_MASKS if protocol else tuple(_words(masks)),
        methods=None if methods is None else _words(methods),
        count=count,
        candidates=candidates,
        seconds=seconds,
        seed=seed,
        batch=batch,
    )
    other, images = _second_model(images)
    report = None if out is None else StorePath.of(out).on_this_machine("a report")
    asked = None if tasks is None else StorePath.of(tasks).on_this_machine("what is asked")
    given, names = _inputs(images, report or asked or Path("tasks"))

    with (
        evaluating_on(
            None if tasks else cluster,
            [model, *([other] if other else [])],
            spec,
            train_data,
            device,
        ) as engine,
        stop_on_signal() as should_stop,
        progress_bar() as bar,
    ):
        choosing = bar.add_task("choosing images", total=None, note="")
        task = bar.add_task("completing", total=None, note="", visible=False)

        def chosen(done: int, total: int) -> None:
            bar.update(choosing, completed=done, total=total)

        def show(step: "Step") -> None:
            bar.update(choosing, visible=False)
            note = f"{step.label}, {step.mask}"
            bar.update(task, completed=step.done, total=step.total, note=note, visible=True)

        if asked is not None:
            written = api.write_tasks(
                model, given, asked, spec, train_data=train_data, names=names, on_images=chosen
            )
            said.print(f"{written} tasks in {asked}", markup=False)
            return
        assert report is not None
        found = api.evaluate(
            model,
            given,
            report,
            spec,
            train_data=train_data,
            names=names,
            other=other,
            completions=parse_completions(completions or []),
            device=device,
            engine=engine,
            on_images=chosen,
            on_step=show,
            should_stop=should_stop,
        )
    for reason in found.unavailable:
        errors.print(f"left out: {reason}", markup=False)
    for name, reason in found.held_out.failed:
        errors.print(f"failed: {reason if name in reason else f'{name}: {reason}'}", markup=False)
    _show(found)
    if found.held_out.failed:
        raise typer.Exit(2)


def _show(found: "Evaluation") -> None:
    from rich.table import Table

    from pixmend.cli.terminal import errors, out
    from pixmend.evaluation import YEH_MASKS, yeh_table

    summary, held = found.summary, found.held_out
    if len(held.images) < found.spec.count and len(held.images) < 100:
        errors.print(
            f"only {len(held.images)} images to judge by ({len(held.duplicates)} are training images): intervals are wide",
            markup=False,
        )
    table = Table(title=f"hole PSNR, dB, of {len(held.images)} images")
    table.add_column("")
    for mask in summary.masks:
        table.add_column(mask, justify="right")
    for label in summary.labels:
        cells = [summary.cells[label, mask] for mask in summary.masks]
        shown = [f"[bold]{c.psnr.mean:.2f}[/]" if c.best else f"{c.psnr.mean:.2f}" for c in cells]
        table.add_row(label, *shown)
    out.print(table)
    if found.spec.masks == YEH_MASKS:
        out.print(yeh_table(summary), markup=False)
    out.print(found.verdict, markup=False)
    for finding in found.diagnostics:
        out.print(f"- {finding.fact} {finding.advice}", markup=False)
    out.print(f"report  {found.report}\nresults {found.results}", markup=False)


def _second_model(images: list[str]) -> tuple[str | None, list[str]]:
    """Return the second model, where the first of several inputs is one, and the images."""
    from pixmend.errors import ModelFileError
    from pixmend.models import find_model

    first = images[0]
    is_image_folder = Path(first).is_dir() and not any(Path(first).glob("*.safetensors"))
    if len(images) < 2 or is_image_folder:
        return None, images
    try:
        file = find_model(first)
    except ModelFileError:
        return None, images
    return (first, images[1:]) if file.suffix == ".safetensors" else (None, images)


def _inputs(
    images: list[str], out: Path
) -> "tuple[StorePath | Sequence[Path | StorePath], Sequence[str] | None]":
    """Return a record folder, or files and their names."""
    from pixmend.cli.outputs import expand_inputs
    from pixmend.storage import StorePath

    if len(images) == 1 and (StorePath.of(images[0]) / "manifest.json").is_file():
        return StorePath.of(images[0]), None
    found = expand_inputs(images, but=out)
    names = (str(item.relative).encode(errors="backslashreplace") for item in found)
    return [item.path for item in found], [name.decode() for name in names]


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
