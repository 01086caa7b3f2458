"""What the verbs do with --cluster."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pixmend.cluster import CompletionSummary, EvaluationJob, PackingJob
    from pixmend.completion import CompletionOptions
    from pixmend.evaluation import EvaluationSpec
    from pixmend.storage import StorePath

CLUSTER_HELP = "Let a Ray cluster do it: auto (RAY_ADDRESS, this machine's, or a new one of its cores), ray://HOST or HOST:PORT."


@contextmanager
def packing_on(address: str | None, workers: int | None) -> "Iterator[PackingJob | None]":
    """Give the engine for `pixmend.records.pack`; none without an address."""
    if address is None:
        yield None
        return
    from pixmend.cluster import PackingJob, connect

    with connect(address) as cluster:
        yield PackingJob(cluster, workers)


@contextmanager
def evaluating_on(
    address: str | None,
    models: Sequence[str],
    spec: "EvaluationSpec",
    train_data: str | None,
    device: str,
) -> "Iterator[EvaluationJob | None]":
    """Give the engine for `pixmend.api.evaluate`; none without an address."""
    if address is None:
        yield None
        return
    from pixmend.cluster import EvaluationJob, connect

    with connect(address) as cluster:
        yield EvaluationJob(cluster, models, spec, train_data, device)


def complete_on(
    address: str,
    model: str,
    inputs: Sequence[str],
    out: "StorePath",
    options: "CompletionOptions",
    *,
    mask: str,
    uncertainty: bool,
    device: str,
    as_json: bool,
) -> None:
    """Complete a folder's images, or image files, on a cluster, and tell what came of it."""
    from pixmend.cli.terminal import progress_bar, stop_on_signal
    from pixmend.cluster import complete, connect
    from pixmend.cluster.completion_job import CompletionProgress
    from pixmend.errors import StoppedError

    given = _given(inputs, out)
    with connect(address) as cluster, stop_on_signal() as should_stop, progress_bar() as bar:
        task = bar.add_task("completing", total=None, note="listing")

        def show(progress: CompletionProgress) -> None:
            note = f"{progress.failed:,} failed" if progress.failed else ""
            bar.update(task, completed=progress.done, total=progress.total, note=note)

        def look() -> None:
            if should_stop():
                raise StoppedError

        found = complete(
            cluster,
            model,
            given,
            out,
            options,
            mask=mask,
            uncertainty=uncertainty,
            device=device,
            on_progress=show,
            on_tick=look,
        )
    _tell(found, out, as_json)


def _given(inputs: Sequence[str], out: "StorePath") -> "StorePath | list[StorePath]":
    """Return the one folder, or the files, that are named."""
    from pixmend.cli.outputs import expand_inputs
    from pixmend.errors import SettingsError
    from pixmend.storage import StorePath

    if len(inputs) == 1 and StorePath.of(inputs[0]).is_folder():
        return StorePath.of(inputs[0])
    if any(StorePath.of(text).is_folder() for text in inputs):
        raise SettingsError("--cluster: give one folder, or image files, as input")
    return [StorePath.of(item.path) for item in expand_inputs(inputs, but=out)]


def _tell(found: "CompletionSummary", out: "StorePath", as_json: bool) -> None:
    from pixmend.cli.terminal import errors
    from pixmend.cli.terminal import out as said

    if as_json:
        with found.results.open() as lines:
            for line in lines:
                print(line.decode(), end="")
    before = f", {found.kept:,} of them before" if found.kept else ""
    (errors if as_json else said).print(
        f"{found.done:,} completed{before} -> {out} (facts in {found.results.name})", markup=False
    )
    for name, reason in found.failures:
        errors.print(f"failed: {reason if name in reason else f'{name}: {reason}'}", markup=False)
    if found.failed:
        errors.print(
            f"{found.failed:,} of {found.done + found.failed:,} inputs failed", markup=False
        )
        raise typer.Exit(2)
