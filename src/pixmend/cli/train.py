"""pixmend train."""

import contextlib
import math
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from pixmend.cli.options import check_source
from pixmend.cli.terminal import (
    counting_bar,
    print_facts,
    progress_bar,
    quiet_unless,
    stderr,
    stdout,
    stop_on_signal,
    waiting,
)
from pixmend.errors import counted

if TYPE_CHECKING:
    from pixmend.distributed import Group
    from pixmend.records import Records
    from pixmend.storage import StorePath
    from pixmend.training import Scores, TrainSettings

_FEW_STEPS = 20  # a run that took fewer has hardly begun

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
    from pixmend.storage import StorePath

    source = check_source(data)
    from pixmend import training
    from pixmend.distributed import open_group

    with contextlib.ExitStack() as stack:
        group = stack.enter_context(open_group())
        stack.enter_context(quiet_unless(group.is_main))
        overrides = training.parse_overrides(override or [])
        given = {"steps": steps, "minutes": minutes}
        overrides |= {name: value for name, value in given.items() if value is not None}
        plan = training.plan_training(recipe, overrides)
        packed = folder = StorePath.of(run).on_this_machine("a run")
        if dry_run:
            # What the images decide is known once they are packed.
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="pixmend-"))
            packed = Path(group.broadcast_object(temporary))
        should_stop = stack.enter_context(stop_on_signal())
        with counting_bar("packing", "left out") as show:
            records = training.prepare_records(
                source, packed, plan, skip_bad=skip_bad, on_progress=show,
                should_stop=should_stop, group=group,
            )  # fmt: skip
        for problem in records.bad:
            stderr.print(f"left out: {problem}")
        with contextlib.ExitStack() as timing:
            if "minutes" in plan and not training.is_run(folder) and group.is_main:
                timing.enter_context(waiting("timing networks on this machine, for half a minute"))
            settings = training.resolve_training(plan, records, folder, group=group)
        if dry_run:
            for line in training.to_toml(settings).splitlines():
                stdout.print(line)
            return
        _show_settings(settings, records, folder, group)
        stopped = _train(records, folder, settings, source, group, should_stop)
    if stopped:
        raise Exit(130)


def _show_settings(
    settings: "TrainSettings", records: "Records", run: Path, group: "Group"
) -> None:
    from pixmend.distributed import describe_device

    device = describe_device(group.device(settings.device))
    processes = f", {group.world} processes" if group.world > 1 else ""
    duration, interval = counted(settings.steps, "step"), counted(settings.checkpoint_every, "step")
    if settings.minutes:
        duration, interval = f"{settings.minutes:g} minutes", "tenth of the time"
    print_facts(
        {
            "data": f"{counted(len(records), 'image')}, {settings.held_out:.0%} held out",
            "net": describe_networks(settings.model_dump()),
            "device": f"{device}, {settings.precision}{processes}",
            "time": f"{duration}, batches of {settings.batch_size} images",
            "run": f"{run}: settings.toml; report.html and samples/ every {interval}",
        }
    )
    if len(records) < settings.batch_size:
        stdout.print(
            f"only {counted(len(records), 'image')}, less than a batch; good samples take a few hundred"
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
    from pixmend.models import find_model

    event = note = ""
    shown = set[str]()  # kinds of warnings: the report repeats them, the terminal does not
    with progress_bar() as bar:
        unit, total = "steps", settings.steps
        if settings.minutes is not None:
            unit, total = "s", round(settings.minutes * 60)
        task = bar.add_task("training", total=total, note="")
        for now in training.train(
            records, run, settings, data_name=str(data), should_stop=should_stop, group=group
        ):
            if now.event == "resumed":
                stderr.print(f"resumed at step {now.step:,}")
            if now.scores is not None:
                best = ", best so far" if now.scores.best else ""
                preview = f"; a preview at {now.done:.0%} of the run" if now.done < 0.5 else ""
                stderr.print(f"{describe_scores(now.scores)}{best}{preview}")
            # Advice on a preview would mislead; the report has it all the same.
            advice = now.scores.warnings if now.scores and now.done >= 0.5 else ()
            for warning in (*advice, now.warning):
                kind = warning.partition(":")[0]
                if warning and kind not in shown:
                    stderr.print(f"warning: {warning}")
                    shown.add(kind)
            if math.isfinite(now.loss_d) and math.isfinite(now.loss_g):
                note = (
                    f"{unit}, step {now.step:,}, {now.images_per_second:.0f} images/s, "
                    f"loss of D {now.loss_d:.2f}, G {now.loss_g:.2f}"
                )
            bar.update(task, completed=round(now.done * total), note=note)
            event = now.event or event
    if event == "stopped":
        stderr.print(f"stopped at step {now.step:,}, saved; run the same command again to resume")
        return True
    if settings.minutes is not None and now.step < _FEW_STEPS:
        stderr.print(
            f"warning: only {counted(now.step, 'step')} in {settings.minutes:g} minutes: the machine is slow "
            "or was busy; its completions will be poor; train in a new folder with more --minutes"
        )
    files = training.RunDirectory(run)
    following = f"pixmend complete {shlex.quote(str(run))} IMAGES --mask MASK --out DONE"
    model = find_model(run)
    print_facts(
        {"animation": files.animation, "report": files.report, "model": model, "next": following}
    )
    return False


def describe_scores(scores: "Scores") -> str:
    """Return the step and the scores of a checkpoint in words."""
    parts = [f"KID {scores.text('kid', 4)} ({scores.features} features)"]
    if scores.psnr:
        values = " / ".join(f"{value:.1f}" for value in scores.psnr.values())
        parts.append(f"hole PSNR {values} dB ({' / '.join(scores.psnr)})")
    parts.append(f"diversity {scores.text('diversity')}")
    if scores.nearest is not None:
        parts.append(f"novelty {scores.nearest:.2f}")
    return f"step {scores.step:,}: {', '.join(parts)}"


def describe_networks(settings: Mapping[str, Any]) -> str:
    """Return the settings of networks in words."""
    names = ("filters", "latent_dim", "inpainter_filters", "retrieval_images")
    parts = [f"{name} {settings[name]}" for name in names if settings.get(name)]
    return ", ".join([f"{settings.get('size')} px {settings.get('channels')}", *parts])
