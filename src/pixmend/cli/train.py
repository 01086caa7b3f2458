"""pixmend train."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from pixmend.cli.terminal import progress_bar, quiet_unless, stderr, stdout, stop_on_signal
from pixmend.errors import InputError

if TYPE_CHECKING:
    from pixmend.distributed import Group
    from pixmend.records import Records
    from pixmend.storage import StorePath
    from pixmend.training import Scores, TrainSettings

Data = Annotated[
    str, Argument(help="Record folder, or image folder (packed into RUN first); path or URL.")
]
Run = Annotated[str, Argument(help="Run directory; the same command resumes.")]
Recipe = Annotated[str | None, Option(help="Recipe name or TOML file.")]
Minutes = Annotated[
    float | None, Option(help="Training time; replaces --steps and selects the network size.")
]
Overrides = Annotated[
    list[str] | None, Option("--set", metavar="KEY=VALUE", help="Any setting; may be repeated.")
]


def train(
    data: Data,
    run: Run,
    recipe: Recipe = None,
    steps: Annotated[int | None, Option(help="Training steps; default: the recipe's.")] = None,
    minutes: Minutes = None,
    override: Overrides = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Show the settings and exit.")] = False,
    skip_bad: Annotated[bool, Option("--skip-bad", help="Skip broken records.")] = False,
) -> None:
    """Train a DCGAN on a folder of images, or resume a run.

    Every 2,000 steps (checkpoint_every) it writes a checkpoint, a sample grid and the model file.
    Ctrl-C saves and stops.
    """
    from pixmend import api, training
    from pixmend.distributed import open_group
    from pixmend.storage import StorePath

    with open_group() as group, quiet_unless(group.is_main):
        overrides = training.parse_overrides(override or [])
        given = {"steps": steps, "minutes": minutes}
        overrides |= {name: value for name, value in given.items() if value is not None}
        plan = api.plan_training(recipe, overrides)
        source, folder = StorePath.of(data), StorePath.of(run).on_this_machine("a run")
        if dry_run:
            _show_plan(source, folder, plan)
            return
        with stop_on_signal() as should_stop:
            records = _prepare(
                source, folder, plan, group, skip_bad=skip_bad, should_stop=should_stop
            )
            settings = api.resolve_training(plan, records, folder, group=group)
            _show_settings(settings, records, folder, group)
            stopped = _train(records, folder, settings, source, group, should_stop)
    if stopped:
        raise Exit(130)


def _show_plan(data: "StorePath", run: Path, plan: dict[str, Any]) -> None:
    from pixmend import api, training

    if (data / "manifest.json").is_file():
        settings = api.resolve_training(plan, api.prepare_records(data, run, plan), run)
    elif data.exists():
        settings = training.resolve(plan)
    else:
        raise InputError(f"{data}: no such folder; check the path")
    stdout.print(training.to_toml(settings), end="")


def _prepare(
    data: "StorePath",
    run: Path,
    plan: dict[str, Any],
    group: "Group",
    *,
    skip_bad: bool,
    should_stop: Callable[[], bool],
) -> "Records":
    from pixmend import api
    from pixmend.records import PackProgress

    with progress_bar() as bar:
        task = bar.add_task("packing", total=None, note="", visible=False)

        def show(progress: PackProgress) -> None:
            note = f"{progress.bad} left out" if progress.bad else ""
            bar.update(task, completed=progress.done, total=progress.total, note=note, visible=True)

        records = api.prepare_records(
            data, run, plan,
            skip_bad=skip_bad, on_progress=show, should_stop=should_stop, group=group,
        )  # fmt: skip
    for problem in records.bad:
        stderr.print(f"left out: {problem}")
    return records


def _show_settings(
    settings: "TrainSettings", records: "Records", run: Path, group: "Group"
) -> None:
    from pixmend.distributed import describe_device
    from pixmend.training import to_toml

    stdout.print(to_toml(settings), end="")
    device = describe_device(group.device(settings.device))
    processes = f", {group.world} processes" if group.world > 1 else ""
    stdout.print(f"{len(records):,} images, {device}{processes} -> {run}")
    if len(records) < settings.batch_size:
        stdout.print(
            f"only {len(records)} images, less than a batch; good samples take a few hundred"
        )


def _train(
    records: "Records",
    run: Path,
    settings: "TrainSettings",
    data: "StorePath",
    group: "Group",
    should_stop: Callable[[], bool],
) -> bool:
    """Train with progress on the terminal; return whether a signal stopped it."""
    from pixmend import training

    event = note = ""
    with progress_bar() as bar:
        total = settings.steps if settings.minutes is None else round(settings.minutes * 60)
        task = bar.add_task("training", total=total, note="")
        for now in training.train(
            records, run, settings, data_name=str(data), should_stop=should_stop, group=group
        ):
            if now.event == "resumed":
                stderr.print(f"resumed at step {now.step:,}")
            if now.scores is not None:
                _show_scores(now.scores)
            if now.warning:
                stderr.print(f"warning: {now.warning}")
            if math.isfinite(now.loss_d) and math.isfinite(now.loss_g):
                note = f"D {now.loss_d:.3f} G {now.loss_g:.3f} {now.images_per_second:.0f} images/s"
                if settings.minutes is not None:
                    note = f"step {now.step:,} {note}"
            bar.update(task, completed=round(now.done * total), note=note)
            event = now.event or event
    if event == "stopped":
        stderr.print(f"stopped at step {now.step:,}, saved; run the same command again to resume")
        return True
    files = training.RunDirectory(run)
    stdout.print(f"model  {files.model}\nfilm   {files.film}\nreport {files.report}")
    return False


def _show_scores(scores: "Scores") -> None:
    parts = [f"KID {scores.kid:.4f} ({scores.features} features)"]
    if scores.psnr:
        values = " / ".join(f"{value:.1f}" for value in scores.psnr.values())
        parts.append(f"hole PSNR {values} dB ({' / '.join(scores.psnr)})")
    parts.append(f"diversity {scores.diversity:.2f}")
    if scores.nearest is not None:
        parts.append(f"novelty {scores.nearest:.2f}")
    best = ", best so far" if scores.best else ""
    stderr.print(f"step {scores.step:,}: {', '.join(parts)}{best}")
    for warning in scores.warnings:
        stderr.print(f"warning: {warning}")
