"""A part of the inputs, completed by one worker; what an earlier run completed is looked at, and kept if it is whole."""

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Any

from pixmend.api import Model, load
from pixmend.cluster.board import Note, Reporter
from pixmend.cluster.inputs import Input, Inputs
from pixmend.cluster.pool import RetryPolicy
from pixmend.cluster.session import WorkerContract
from pixmend.completion import (
    Completion,
    CompletionOptions,
    Preview,
    Task,
    mask_file,
    open_mask,
    write_completion,
)
from pixmend.errors import ClusterError, InputError, StoppedError, StoreError
from pixmend.images import lossless_suffix, open_image
from pixmend.storage import StorePath, parse_json

WORK = ".complete"  # the sub-folder of OUT with the ledger
JOB = "job.json"


@dataclass(frozen=True)
class CompletionJob:
    """What is the same for all parts."""

    options: CompletionOptions
    mask: str
    inputs: Inputs
    out: StorePath
    device: str


@dataclass(frozen=True)
class Part:
    """Some inputs, as lines of the listing."""

    number: int
    lines: bytes


@dataclass(frozen=True)
class PartResult:
    """What came of a part: inputs completed, how many of these were before, how many failed, and the last one's name."""

    number: int
    done: int
    kept: int
    failed: int
    current: str


@dataclass(frozen=True)
class Entry:
    """A line of the ledger.

    Attributes
    ----------
    given
        Digest of the input and of its mask, as they were read.
    facts
        As `results.jsonl` has them: ``file``, and ``error`` or what was found.
    files
        SHA-256 of each file written, by its name relative to OUT; none where it failed.
    """

    given: str
    facts: dict[str, Any]
    files: dict[str, str]


def part_path(number: int) -> PurePath:
    """Return where the ledger of a part is, relative to OUT."""
    return PurePath(WORK, f"part-{number:06d}.jsonl")


def read_entries(place: StorePath) -> list[Entry]:
    """Return the entries of a part's ledger; none where it is not there or not ours."""
    try:
        return [Entry(**parse_json(line)) for line in place.read_bytes().splitlines()]
    except (InputError, ValueError, TypeError):
        return []


def model_of(content: bytes, device: str) -> Model:
    """Load a model from its file's content."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(content)
        file.flush()
        return load(file.name, device=device)


class Completer:
    """The actor: it holds the model."""

    def begin(
        self, terms: WorkerContract, board: object, model: bytes, task: CompletionJob
    ) -> None:
        """Load the model; refuse to work with other versions than the driver's, or without its folders."""
        terms.accept()
        if not (task.out / WORK / JOB).exists():
            raise ClusterError(
                f"node {platform.node()}: sees no {task.out}; all machines need the same folders: a shared file system, "
                "or URLs"
            )
        self.model, self.pen, self.task = model_of(model, task.device), Reporter(board), task
        self.options = self.model.for_model(task.options)

    def work(self, part: Part, care: RetryPolicy) -> PartResult:
        """Complete what of a part is not there yet, then write its ledger anew."""
        inputs = self.task.inputs.inputs(part.lines)
        entries = self._kept(part, inputs)
        kept = len(entries)
        work = _Work(self, part, inputs, care, entries)
        work.complete([position for position in range(len(inputs)) if position not in entries])
        failed = [position for position, entry in entries.items() if not entry.files]
        if failed:  # what could not be read a moment ago may be readable now
            work.complete([position for position in failed if position not in care.left_out])
        lines = [json.dumps(vars(entries[position])) + "\n" for position in range(len(inputs))]
        (self.task.out / part_path(part.number)).write_bytes("".join(lines).encode())
        bad = sum(not entry.files for entry in entries.values())
        return PartResult(part.number, len(inputs) - bad, kept, bad, str(inputs[-1].place))

    def _kept(self, part: Part, inputs: Sequence[Input]) -> dict[int, Entry]:
        """Return the entries of an earlier run that still hold: the same inputs, and every file as it was written.

        All under names that are planned for them now: an input that came in between may have been given a name that was theirs.
        """
        before = {
            entry.facts["file"]: entry
            for entry in read_entries(self.task.out / part_path(part.number))
        }
        kept = {}
        for position, each in enumerate(inputs):
            entry = before.get(str(each.place))
            if entry is not None and _as_planned(entry, each) and self._holds(entry, each):
                kept[position] = entry
        return kept

    def _holds(self, entry: Entry, given: Input) -> bool:
        try:
            whole = all(
                (self.task.out / name).sha256() == told for name, told in entry.files.items()
            )
            return whole and entry.given == self.digest_of(given)
        except (InputError, StoreError):
            return False

    def digest_of(self, given: Input) -> str:
        """Return a digest of an input and of its own mask."""
        own = mask_file(self.task.mask, given.place)
        parts = [given.place.sha256(), "" if own is None else own.sha256()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _as_planned(entry: Entry, given: Input) -> bool:
    """Whether the entry has files, and all are among those that are planned for its input."""
    planned = ({str(file) for file in names.files()} for names in given.names.values())
    return bool(entry.files) and any(entry.files.keys() <= files for files in planned)


class _Work:
    """One part in the making."""

    def __init__(
        self,
        by: Completer,
        part: Part,
        inputs: Sequence[Input],
        care: RetryPolicy,
        entries: dict[int, Entry],
    ) -> None:
        self._by, self._task, self._part = by, by.task, part
        self._inputs, self._care, self._entries = inputs, care, entries
        self._places = {str(each.place): position for position, each in enumerate(inputs)}
        self._given: dict[int, str] = {}  # digests
        self._stopped = False

    def complete(self, positions: Sequence[int]) -> None:
        """Complete the inputs at these positions, and write their files."""
        options = self._by.options
        if self._care.careful:  # one at a time: then it is known whose search a worker dies of
            options = replace(options, batch=1)
        results = self._by.model.complete_tasks(
            self._jobs(positions), options, on_preview=self._tell, should_stop=lambda: self._stopped
        )
        for result in results:
            if self._stopped:  # it is the best so far, not what would have been found
                raise StoppedError
            self._write(result)
        if self._stopped:
            raise StoppedError

    def _jobs(self, positions: Sequence[int]) -> Iterator[Task]:
        for position in positions:
            given = self._inputs[position].place
            if position in self._care.left_out:
                self._fail(position, self._care.left_out[position])
                continue
            if self._care.careful:
                self._by.pen.begin(self._part.number, position)
            try:
                picture = open_image(given)
                self._given[position] = self._by.digest_of(self._inputs[position])
                mask = open_mask(self._task.mask, picture, seed=self._task.options.seed)
                job = Task(picture, mask, str(given))
                job.check()
            except (InputError, StoreError) as error:
                self._fail(position, str(error))
                continue
            yield job

    def _fail(self, position: int, reason: str) -> None:
        facts = {"file": str(self._inputs[position].place), "error": reason}
        self._entries[position] = Entry("", facts, {})

    def _write(self, result: Completion) -> None:
        position = self._places[result.name]
        planned = self._inputs[position].names
        names = planned[lossless_suffix(next(iter(planned)), result.original.mode)]
        facts, files = write_completion(result, self._task.out, names)
        self._entries[position] = Entry(self._given[position], facts, files)
        self._report(result.name)

    def _report(self, current: str) -> None:
        bad = sum(not entry.files for entry in self._entries.values())
        note = Note(len(self._entries), bad, current)
        self._stopped |= self._by.pen.report(self._part.number, note)

    def _tell(self, preview: Preview) -> None:
        if preview.step % 50 == 0:
            self._report(preview.tasks[-1].name)
