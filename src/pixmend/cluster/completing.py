"""Completing over a cluster: parts of the inputs to workers that hold the model, and one account of what came of them.

OUT/.complete/job.json           what OUT was begun with: model, method, options, mask
OUT/.complete/part-000000.jsonl  of each input: what it was (a digest), the facts, and the SHA-256 of each file written
OUT/results.jsonl                the facts of all inputs, in order; written when all parts are done
"""

import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any

import pixmend
from pixmend.cluster.board import Note
from pixmend.cluster.inputs import Inputs, write_listing
from pixmend.cluster.part import (
    JOB,
    WORK,
    Completer,
    CompletionJob,
    Part,
    PartResult,
    part_path,
    read_entries,
)
from pixmend.cluster.pool import Pool
from pixmend.cluster.session import Cluster
from pixmend.completion import CompletionOptions, conflicting_outputs
from pixmend.errors import InputError, MissingError, OutputError
from pixmend.masks import SHAPES
from pixmend.models import find_model
from pixmend.storage import StorePath, parse_json, remove_leftovers, sha256_of

_RESULTS = "results.jsonl"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a method's functions: another in each process
_NAMED = 20  # failures told by name; results.jsonl has all
_FIX = "choose another --out, or delete that one"


@dataclass(frozen=True)
class CompletedProgress:
    """Inputs done of all, how many of these failed, and the name of a recent one."""

    done: int
    total: int
    failed: int
    current: str


@dataclass(frozen=True)
class Completed:
    """What came of a job.

    Attributes
    ----------
    done, kept
        Inputs completed, and how many of these an earlier run had completed.
    failed
        Inputs that were not.
    failures
        Name and reason of the first of them; ``results`` has all.
    results
        The facts of every input.
    """

    done: int
    kept: int
    failed: int
    failures: tuple[tuple[str, str], ...]
    results: StorePath


@dataclass
class _Count:
    """How far all parts are together."""

    total: int
    on_progress: Callable[[CompletedProgress], None]
    done: int = 0
    failed: int = 0
    kept: int = 0
    running: dict[int, Note] = field(default_factory=dict)

    def note(self, number: int, note: Note) -> None:
        self.running[number] = note
        done = self.done + sum(each.done for each in self.running.values())
        failed = self.failed + sum(each.bad for each in self.running.values())
        self.on_progress(CompletedProgress(done, self.total, failed, note.current))

    def add(self, result: PartResult) -> None:
        self.running.pop(result.number, None)
        self.done += result.done + result.failed
        self.failed += result.failed
        self.kept += result.kept
        self.on_progress(CompletedProgress(self.done, self.total, self.failed, result.current))


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
    on_progress: Callable[[CompletedProgress], None] = lambda progress: None,
    look: Callable[[], None] = lambda: None,
) -> Completed:
    """Complete the images of a folder, or image files, into ``out``; the same call does what is missing there.

    Each image's files are those that one process would write, whatever the number of workers, and whichever of them die.

    Parameters
    ----------
    model
        As `pixmend.load` takes it; its file is sent to the workers.
    mask
        A SPEC, a mask file, or a folder of masks matched by stem.
    device
        Of each worker; with ``auto`` one GPU each where the cluster has any, else one core each.
    workers
        How many; by default one a GPU or core.
    look
        Called a few times a second; may raise, and the workers stop. Parts that are done stay.

    Raises
    ------
    InputError
        There is no image.
    OutputError
        ``out`` holds another job, or cannot be written.
    ClusterError, SettingsError, ModelFileError
        Nothing can be completed so; the message says why.
    """
    file = find_model(model)
    folder, files = (inputs, []) if isinstance(inputs, StorePath) else (None, list(inputs))
    wanted = Inputs(folder, files, options.candidates, uncertainty)
    task = CompletionJob(options, mask, wanted, out, device)
    _begin(out, _origin(task, sha256_of(file)))
    reserved = [PurePath(_RESULTS), *conflicting_outputs(out, [*files, StorePath.of(mask)])]
    with tempfile.TemporaryDirectory(prefix="pixmend-") as scratch:
        path = Path(scratch) / "listing"
        listing = write_listing(wanted, path, outside=out, reserved=reserved, look=look)
        most = cluster.fit(device)
        pool: Pool[Part, PartResult] = Pool(
            cluster,
            Completer,
            (cluster.ray.put(file.read_bytes()), task),
            workers=min(workers or most.workers, len(listing)),
            gpus=most.gpus,
        )
        count = _Count(listing.count, on_progress)
        parts = (Part(number, lines) for number, lines in enumerate(listing.parts()))
        for _, result in pool.run(parts, on_note=count.note, on_tick=look):
            count.add(result)
    failures = _account(out, len(listing))
    if pool.failed:
        raise OutputError(
            f"{len(pool.failed)} of {len(listing)} parts failed twice: {pool.failed[0].reason}; the others are kept: mend "
            "that and run the same command again"
        )
    done = count.done - count.failed
    return Completed(done, count.kept, count.failed, failures, out / _RESULTS)


def _origin(task: CompletionJob, model: str) -> dict[str, Any]:
    """Return what decides the answers besides the inputs, as JSON values."""
    told = {f.name: repr(getattr(task.options, f.name)) for f in fields(CompletionOptions)}
    options = {name: _ADDRESS.sub("", text) for name, text in told.items()}
    options.pop("batch")  # changes no answer
    mask = None if task.mask.partition(":")[0] in SHAPES else StorePath.of(task.mask)
    shown = task.mask if mask is None else str(mask)  # a URL may hold a secret
    return {
        "model": model,
        "pixmend": pixmend.__version__,
        "mask": mask.sha256() if mask is not None and mask.is_file() else shown,
        "uncertainty": task.inputs.uncertainty,
        **options,
    }


def _begin(out: StorePath, origin: dict[str, Any]) -> None:
    """Make ``out`` the folder of this job, unless it is another's."""
    if not out.shared:
        raise OutputError(f"{out}: other processes do not see it; give a folder, s3:// or gs://")
    place = out / WORK / JOB
    try:
        before = parse_json(place.read_bytes())
    except MissingError:
        if (out / _RESULTS).exists():
            raise OutputError(
                f"{out}: holds completions of another command ({_RESULTS}); {_FIX}"
            ) from None
        before = origin
    except (InputError, ValueError) as error:
        raise OutputError(f"{place}: cannot be read; {_FIX}") from error
    differing = sorted(key for key in origin if before.get(key) != origin[key])
    if differing:
        raise OutputError(
            f"{out}: holds completions of another job, with another {', '.join(differing)}; {_FIX}"
        )
    place.write_bytes(json.dumps(origin, indent=1).encode() + b"\n")


def _account(out: StorePath, parts: int) -> tuple[tuple[str, str], ...]:
    """Write the facts of all inputs, part by part, and return the first that failed; remove what killed workers left."""
    failures: list[tuple[str, str]] = []
    folders = {PurePath(), PurePath(WORK)}
    with (out / _RESULTS).writing() as results:
        for number in range(parts):
            for entry in read_entries(out / part_path(number)):
                folders |= {PurePath(name).parent for name in entry.files}
                results.write(json.dumps(entry.facts).encode() + b"\n")
                if "error" in entry.facts and len(failures) < _NAMED:
                    failures.append((entry.facts["file"], entry.facts["error"]))
    if out.local is not None:
        for folder in folders:
            remove_leftovers(out.local / folder)
    return tuple(failures)
