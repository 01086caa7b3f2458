"""pixmend train."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pixmend.distributed import Group
    from pixmend.records import Records
    from pixmend.storage import StorePath
    from pixmend.training import Scores, TrainSettings


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="A record folder, or a folder of images (packed into RUN first), or its URL."
        ),
    ],
    run: Annotated[
        str, typer.Argument(help="The run directory; the same command goes on with it.")
    ],
    recipe: Annotated[str | None, typer.Option(help="A recipe by name, or a TOML file.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Iterations; the recipe's if not given.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="Time in place of steps; chooses a net that fits it, unless told."),
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the settings and stop.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave broken records out instead of stopping.")
    ] = False,
) -> None:
    """Train a DCGAN on a folder of images, or go on with a run.

    A checkpoint, a grid of samples and the model file are written every 2,000 steps (checkpoint_every). Ctrl-C saves and stops; the same
    command resumes.
    """
    from pixmend import api, training
    from pixmend.cli.terminal import quiet_unless, stop_on_signal
    from pixmend.distributed import open_group
    from pixmend.storage import StorePath

    with open_group() as group, quiet_unless(group.is_main):
        overrides = training.parse_overrides(override or [])
        if steps is not None:
            overrides["steps"] = steps
        if minutes is not None:
            overrides["minutes"] = minutes
        wanted = api.plan_training(recipe, overrides)
        place, folder = StorePath.of(data), StorePath.of(run).on_this_machine("a run")
        if dry_run:
            _show_plan(place, folder, wanted)
            return
        with stop_on_signal() as should_stop:
            packed = _prepare(
                place, folder, wanted, group, skip_bad=skip_bad, should_stop=should_stop
            )
            settings = api.resolve_training(wanted, packed, folder, group=group)
            _show(settings, packed, folder, group)
            stopped = _train(packed, folder, settings, place, group, should_stop)
    if stopped:
        raise typer.Exit(130)


def _show_plan(data: "StorePath", run: Path, wanted: dict[str, Any]) -> None:
    from pixmend import api, training
    from pixmend.cli.terminal import out
    from pixmend.errors import InputError

    if (data / "manifest.json").is_file():
        settings = api.resolve_training(wanted, api.prepare_records(data, run, wanted), run)
    elif data.exists():
        settings = training.resolve(wanted)
    else:
        raise InputError(f"{data}: no such folder; check the path")
    out.print(training.to_toml(settings), end="", markup=False)


def _prepare(
    data: "StorePath",
    run: Path,
    wanted: dict[str, Any],
    group: "Group",
    *,
    skip_bad: bool,
    should_stop: "Callable[[], bool]",
) -> "Records":
    from pixmend import api
    from pixmend.cli.terminal import errors, progress_bar
    from pixmend.records import PackProgress

    with progress_bar() as bar:
        task = bar.add_task("packing", total=None, note="", visible=False)

        def show(progress: PackProgress) -> None:
            note = f"{progress.bad} left out" if progress.bad else ""
            bar.update(task, completed=progress.done, total=progress.total, note=note, visible=True)

        packed = api.prepare_records(
            data,
            run,
            wanted,
            skip_bad=skip_bad,
            on_progress=show,
            should_stop=should_stop,
            group=group,
        )
    for problem in packed.bad:
        errors.print(f"left out: {problem}", markup=False)
    return packed


def _show(settings: "TrainSettings", packed: "Records", run: Path, group: "Group") -> None:
    from pixmend.cli.terminal import out
    from pixmend.distributed import describe_device
    from pixmend.training import to_toml

    out.print(to_toml(settings), end="", markup=False)
    device = describe_device(group.device(settings.device))
    processes = f", {group.world} processes" if group.world > 1 else ""
    out.print(f"{len(packed):,} images, {device}{processes} -> {run}", markup=False)
    if len(packed) < settings.batch_size:
        out.print(
            f"only {len(packed)} images: fewer than a batch; a few hundred are the least for good samples",
            markup=False,
        )


def _train(
    packed: "Records",
    run: Path,
    settings: "TrainSettings",
    data: "StorePath",
    group: "Group",
    should_stop: "Callable[[], bool]",
) -> bool:
    """Train, and say how it goes; return whether it was stopped before the end."""
    from pixmend import training
    from pixmend.cli.terminal import errors, out, progress_bar

    event = note = ""
    with progress_bar() as bar:
        whole = settings.steps if settings.minutes is None else round(settings.minutes * 60)
        task = bar.add_task("training", total=whole, note="")
        for now in training.train(
            packed, run, settings, data_name=str(data), should_stop=should_stop, group=group
        ):
            if now.event == "resumed":
                errors.print(f"resumed at step {now.step:,}")
            if now.scores is not None:
                _show_scores(now.scores)
            if now.warning:
                errors.print(f"warning: {now.warning}", markup=False)
            if math.isfinite(now.loss_d) and math.isfinite(now.loss_g):
                note = f"D {now.loss_d:.3f} G {now.loss_g:.3f} {now.images_per_second:.0f} images/s"
                if settings.minutes is not None:
                    note = f"step {now.step:,} {note}"
            bar.update(task, completed=round(now.done * whole), note=note)
            event = now.event or event
    if event == "stopped":
        errors.print(f"stopped at step {now.step:,}, saved; the same command goes on", markup=False)
        return True
    directory = training.RunDirectory(run)
    out.print(
        f"model  {directory.model}\nfilm   {directory.film}\nreport {directory.report}",
        markup=False,
    )
    return False


def _show_scores(scores: "Scores") -> None:
    from pixmend.cli.terminal import errors

    parts = [f"KID {scores.kid:.4f} ({scores.features} features)"]
    if scores.psnr:
        values = " / ".join(f"{value:.1f}" for value in scores.psnr.values())
        parts.append(f"hole PSNR {values} dB ({' / '.join(scores.psnr)})")
    parts.append(f"diversity {scores.diversity:.2f}")
    if scores.nearest is not None:
        parts.append(f"novelty {scores.nearest:.2f}")
    best = ", the best so far" if scores.best else ""
    errors.print(f"step {scores.step:,}: {', '.join(parts)}{best}", markup=False)
    for warning in scores.warnings:
        errors.print(f"warning: {warning}", markup=False)
