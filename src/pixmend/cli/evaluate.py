"""pixmend evaluate."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pixmend.evaluation import Evaluation, Step

__all__ = ["evaluate"]


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A model file, a run directory or a bundled model's name.")
    ],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...", help="A record folder, or images, folders or globs; whole ones."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The folder for report and results.")],
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
    train_data: Annotated[
        Path | None,
        typer.Option(
            help="The records that the model was trained on: for mean and nearest, and to leave out copies."
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
) -> None:
    """Judge a model on images that it has not seen, beside what completes images without one.

    OUT gets report.html (opens offline), report.json, results.csv with a row for each image, mask and method, and the answers. The
    same command goes on where it was stopped; more masks, methods or images add to what is there.
    """
    from pixmend import api
    from pixmend.cli.terminal import errors, progress_bar, stop_on_signal
    from pixmend.evaluation import Protocol

    protocol = Protocol(tuple(_words(masks)), seed, batch)
    given, names = _inputs(images, out)
    with stop_on_signal() as should_stop, progress_bar() as bar:
        choosing = bar.add_task("choosing images", total=None, note="")
        task = bar.add_task("completing", total=None, note="", visible=False)

        def chosen(done: int, total: int) -> None:
            bar.update(choosing, completed=done, total=total)

        def show(step: "Step") -> None:
            bar.update(choosing, visible=False)
            note = f"{step.label}, {step.mask}"
            bar.update(task, completed=step.done, total=step.total, note=note, visible=True)

        found = api.evaluate(
            model,
            given,
            out,
            train_data=train_data,
            names=names,
            methods=None if methods is None else _words(methods),
            protocol=protocol,
            count=count,
            candidates=candidates,
            seconds=seconds,
            device=device,
            on_images=chosen,
            on_step=show,
            should_stop=should_stop,
        )
    for reason in found.absent:
        errors.print(f"took no part: {reason}", markup=False)
    for name, reason in found.held_out.failed:
        errors.print(f"failed: {reason if name in reason else f'{name}: {reason}'}", markup=False)
    _show(found, count)
    if found.held_out.failed:
        raise typer.Exit(2)


def _show(found: "Evaluation", count: int) -> None:
    from rich.table import Table

    from pixmend.cli.terminal import errors, out

    summary, held = found.summary, found.held_out
    if len(held.images) < count and len(held.images) < 100:
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
    out.print(found.verdict, markup=False)
    for finding in found.findings:
        out.print(f"- {finding.fact} {finding.advice}", markup=False)
    out.print(f"report  {found.report}\nresults {found.results}", markup=False)


def _inputs(images: list[str], out: Path) -> "tuple[Path | Sequence[Path], Sequence[str] | None]":
    """Return a record folder, or files and their names."""
    from pixmend.cli.outputs import expand_inputs

    if len(images) == 1 and (Path(images[0]) / "manifest.json").is_file():
        return Path(images[0]), None
    found = expand_inputs(images, but=out)
    return [item.path for item in found], [str(item.relative) for item in found]


def _words(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
