"""Completion on a cluster: parts of the inputs to workers, and one list of results.

OUT/.complete/job.json           the settings that OUT was started with
OUT/.complete/part-000000.jsonl  of each input: digest, facts, and SHA-256 of each file written
OUT/results.jsonl                the facts of all inputs in order, written when all parts are done, after other commands' lines
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

import pixmend
from pixmend.cluster.completion_worker import (
    JOB_FILE,
    LEDGER,
    CompletionSpec,
    CompletionWorker,
    InputPart,
    LedgerEntry,
    read_ledger,
)
from pixmend.cluster.input_listing import InputPlan, part_count, read_parts, write_inputs
from pixmend.cluster.session import Cluster
from pixmend.cluster.worker_pool import WorkerPool
from pixmend.completion import CompletionOptions, conflicting_outputs
from pixmend.errors import InputError, MissingError, OutputError
from pixmend.masks import is_spec
from pixmend.models import find_model
from pixmend.records.pack_progress import JobProgress, PackProgress
from pixmend.storage import StorePath, locked, parse_json, sha256_of, shared

_RESULTS = "results.jsonl"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function; it differs between processes
_NAMED_FAILURES = 20
_FIX = "choose another --out, or delete that one"


@dataclass(frozen=True)
class CompletionSummary:
    """The outcome of a completion on a cluster."""

    done: int  # inputs completed
    kept: int  # of these by an earlier run
    failed: int
    failures: tuple[tuple[str, str], ...]  # name and reason of the first
    results: StorePath  # the facts of every input


def complete(
    cluster: Cluster,
    model: str | Path,
    inputs: StorePath | Sequence[StorePath],
    out: StorePath,
    options: CompletionOptions,
    *,
    mask: str = "center",
    uncertainty: bool = False,
    device: str = "auto",
    workers: int | None = None,
    on_progress: Callable[[PackProgress], None] = lambda progress: None,
    on_tick: Callable[[], None] = lambda: None,
    on_facts: Callable[[str], None] = lambda line: None,
) -> CompletionSummary:
    """Complete the images of a folder, or image files, into ``out``; a rerun does what is missing.

    Each image's files are those that one process writes, whatever workers die; by default there is
    one a GPU, or one a core without any. ``mask`` is a SPEC, a mask file, or a folder of masks. If
    ``on_tick`` raises, the workers stop and finished parts stay. ``on_facts`` is called with each
    input's line of results in the end. InputError: there is no image. OutputError: ``out`` holds
    another job, or cannot be written.
    """
    folder, files = (inputs, []) if isinstance(inputs, StorePath) else (None, list(inputs))
    plan = InputPlan(folder, files, options.candidates, uncertainty)
    spec = CompletionSpec(options, mask, plan, out, device)
    file = find_model(model)
    _claim(out, _settings(spec, sha256_of(file)))
    reserved = [PurePath(_RESULTS), *conflicting_outputs(out, [*files, StorePath.of(mask)])]
    failed = kept = 0
    with contextlib.ExitStack() as held:
        if out.local is not None:  # or another command removes our temporary files
            held.enter_context(shared(out.local, []))
        scratch = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="pixmend-")))
        path = scratch / "listing"
        count = write_inputs(plan, path, outside=out, reserved=reserved, on_tick=on_tick)
        default, gpus = cluster.workers_for(device)
        pool: WorkerPool[InputPart, tuple[JobProgress, int, bytes]] = WorkerPool(
            cluster,
            CompletionWorker,
            (cluster.ray.put(file.read_bytes()), spec),
            workers=min(workers or default, part_count(count)),
            gpus=gpus,
        )
        show = _sum_up(count, on_progress)
        jobs = (InputPart(number, lines) for number, lines in enumerate(read_parts(path)))
        for part, (progress, earlier, ledger) in pool.run(jobs, on_progress=show, on_tick=on_tick):
            show(part.number, progress)
            kept += earlier
            (scratch / f"{part.number}").write_bytes(ledger)
        ledgers = [StorePath(scratch / f"{number}") for number in range(part_count(count))]
        failures, folders = _write_results(out, ledgers)
        for entry in _entries(ledgers):
            failed += "error" in entry.facts
            on_facts(json.dumps(entry.facts))
    if out.local is not None:
        with shared(out.local, [out.local / folder for folder in folders]):
            pass  # the last command removes what dead workers left
    pool.raise_failures(OutputError, f"of {part_count(count)} parts")
    return CompletionSummary(count - failed, kept, failed, failures, out / _RESULTS)


def _sum_up(
    total: int, on_progress: Callable[[PackProgress], None]
) -> Callable[[int, JobProgress], None]:
    """Return a function that takes each part's progress and reports the sum."""
    parts: dict[int, JobProgress] = {}
    done = failed = 0

    def show(number: int, progress: JobProgress) -> None:
        nonlocal done, failed
        before = parts.get(number, JobProgress())
        parts[number] = progress
        done, failed = done + progress.done - before.done, failed + progress.bad - before.bad
        on_progress(PackProgress(done, total, failed, progress.current))

    return show


def _settings(spec: CompletionSpec, model: str) -> dict[str, Any]:
    """Return what decides the answers besides the inputs, as JSON values."""
    options = {
        each.name: _ADDRESS.sub("", repr(getattr(spec.options, each.name)))
        for each in fields(CompletionOptions)
        if each.name != "batch"  # changes no answer
    }
    mask = spec.mask
    if not is_spec(mask):
        file = StorePath.of(mask)
        mask = file.sha256() if file.is_file() else str(file)  # which leaves out secrets of a URL
    return {
        "model": model,
        "pixmend": pixmend.__version__,
        "mask": mask,
        "uncertainty": spec.plan.uncertainty,
        **options,
    }


def _claim(out: StorePath, settings: dict[str, Any]) -> None:
    """Make ``out`` the folder of this job, unless it holds another one."""
    if not out.shared:
        raise OutputError(f"{out}: other processes do not see it; give a folder, s3:// or gs://")
    path = out / LEDGER / JOB_FILE
    with locked(path.with_name("lock")):
        try:
            earlier = path.read_json()
        except MissingError:
            if (out / _RESULTS).exists():
                raise OutputError(
                    f"{out}: holds completions of another command ({_RESULTS}); {_FIX}"
                ) from None
            earlier = settings
        except (InputError, ValueError) as error:
            raise OutputError(f"{path}: cannot be read; {_FIX}") from error
        changes = sorted(key for key in settings if earlier.get(key) != settings[key])
        if changes:
            raise OutputError(
                f"{out}: holds completions of another job, with another {', '.join(changes)}; {_FIX}"
            )
        path.write_bytes(json.dumps(settings, indent=1).encode() + b"\n")


def _write_results(
    out: StorePath, ledgers: Sequence[StorePath]
) -> tuple[tuple[tuple[str, str], ...], set[PurePath]]:
    """Add the facts of all inputs to those of other commands; return the first failures, and the folders of results."""
    failures: list[tuple[str, str]] = []
    folders = {PurePath(), PurePath(LEDGER)}
    names = set[int]()  # hashes, for there may be millions
    path = out / _RESULTS
    with locked(path):
        earlier = path.exists() and path.size() > 0
        for entry in _entries(ledgers):
            if earlier:
                names.add(hash(entry.facts["file"]))
            folders |= {PurePath(name).parent for name in entry.files}
            if "error" in entry.facts and len(failures) < _NAMED_FAILURES:
                failures.append((entry.facts["file"], entry.facts["error"]))
        with path.writing() as results:
            for line in path.lines() if earlier else ():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # half a line
                    if hash(parse_json(line)["file"]) not in names:
                        results.write(line.rstrip(b"\n") + b"\n")
            for entry in _entries(ledgers):
                results.write(json.dumps(entry.facts).encode() + b"\n")
    return tuple(failures), folders


def _entries(ledgers: Sequence[StorePath]) -> Iterator[LedgerEntry]:
    return chain.from_iterable(map(read_ledger, ledgers))
