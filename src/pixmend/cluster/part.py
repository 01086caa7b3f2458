"""A part of the inputs, completed by one worker; what an earlier run completed is looked at, and kept if it is whole."""

import hashlib
import json
import platform
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from pixmend.api import Model, load, mask_file, open_mask
from pixmend.cluster.board import Note, Pen
from pixmend.cluster.inputs import Input, Inputs
from pixmend.cluster.pool import Care
from pixmend.cluster.session import Terms
from pixmend.completion import Completion, Job, Options, OutputNames, SearchState, write_completion
from pixmend.errors import ClusterError, InputError, StoppedError
from pixmend.images import lossless_suffix, open_image
from pixmend.storage import sha256_of, write_text

__all__ = [
    "WORK",
    "Completer",
    "Entry",
    "Part",
    "PartResult",
    "Task",
    "model_of",
    "part_path",
    "read_entries",
]

WORK = ".complete"  # the sub-folder of OUT with the ledger


@dataclass(frozen=True)
class Task:
    """What is the same for all parts."""

    options: Options
    mask: str
    out: Path
    uncertainty: bool
    device: str


@dataclass(frozen=True)
class Part:
    """Some inputs, as lines of the listing."""

    number: int
    lines: bytes
    inputs: Inputs


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


def read_entries(path: Path) -> list[Entry]:
    """Return the entries of a part's ledger; none where it is not there or not ours."""
    try:
        return [Entry(**json.loads(line)) for line in path.read_bytes().splitlines()]
    except (OSError, ValueError, TypeError):
        return []


def model_of(content: bytes, device: str) -> Model:
    """Load a model from its file's content."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(content)
        file.flush()
        return load(file.name, device=device)


class Completer:
    """The actor: it holds the model."""

    def begin(self, terms: Terms, board: object, model: bytes, task: Task) -> None:
        """Load the model; refuse to work with other versions than the driver's, or without its folders."""
        terms.accept()
        if not (task.out / WORK).is_dir():
            raise ClusterError(
                f"node {platform.node()}: sees no {task.out}; all machines need the same folders: a shared file system, "
                "or URLs"
            )
        self.model, self.pen, self.task = model_of(model, task.device), Pen(board), task
        self.options = self.model.fitted(task.options)

    def work(self, part: Part, care: Care) -> PartResult:
        """Complete what of a part is not there yet, then write its ledger anew."""
        inputs = part.inputs.inputs(part.lines)
        entries = self._kept(part, inputs)
        kept = len(entries)
        work = _Work(self, part, inputs, care, entries)
        work.complete([place for place in range(len(inputs)) if place not in entries])
        failed = [place for place, entry in entries.items() if not entry.files]
        if failed:  # what could not be read a moment ago may be readable now
            work.complete([place for place in failed if place not in care.left_out])
        lines = [json.dumps(vars(entries[place])) + "\n" for place in range(len(inputs))]
        write_text(self.task.out / part_path(part.number), "".join(lines))
        bad = sum(not entry.files for entry in entries.values())
        return PartResult(part.number, len(inputs) - bad, kept, bad, str(inputs[-1].path))

    def _kept(self, part: Part, inputs: Sequence[Input]) -> dict[int, Entry]:
        """Return the entries of an earlier run that still hold: the same inputs, and every file as it was written."""
        before = {
            entry.facts["file"]: entry
            for entry in read_entries(self.task.out / part_path(part.number))
        }
        kept = {}
        for place, each in enumerate(inputs):
            entry = before.get(str(each.path))
            if entry is not None and entry.files and self._holds(entry, each):
                kept[place] = entry
        return kept

    def _holds(self, entry: Entry, given: Input) -> bool:
        try:
            whole = all(
                sha256_of(self.task.out / name) == told for name, told in entry.files.items()
            )
            return whole and entry.given == self.digest_of(given)
        except (OSError, InputError):
            return False

    def digest_of(self, given: Input) -> str:
        """Return a digest of an input and of its own mask."""
        own = mask_file(self.task.mask, given.path)
        parts = [sha256_of(given.path), "" if own is None else sha256_of(own)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Work:
    """One part in the making."""

    def __init__(
        self,
        by: Completer,
        part: Part,
        inputs: Sequence[Input],
        care: Care,
        entries: dict[int, Entry],
    ) -> None:
        self._by, self._task, self._part = by, by.task, part
        self._inputs, self._care, self._entries = inputs, care, entries
        self._places = {str(each.path): place for place, each in enumerate(inputs)}
        self._stopped = False

    def complete(self, places: Sequence[int]) -> None:
        """Complete the inputs at these places, and write their files."""
        options = self._by.options
        if self._care.careful:  # one at a time: then it is known whose search a worker dies of
            options = replace(options, batch=1)
        results = self._by.model.complete_jobs(
            self._jobs(places), options, on_state=self._tell, should_stop=lambda: self._stopped
        )
        for result in results:
            if self._stopped:  # it is the best so far, not what would have been found
                raise StoppedError
            self._write(result)
        if self._stopped:
            raise StoppedError

    def _jobs(self, places: Sequence[int]) -> Iterator[Job]:
        for place in places:
            path = self._inputs[place].path
            if place in self._care.left_out:
                self._fail(place, self._care.left_out[place])
                continue
            if self._care.careful:
                self._by.pen.begin(self._part.number, place)
            try:
                picture = open_image(path)
                mask = open_mask(self._task.mask, picture, seed=self._task.options.seed)
                job = Job(picture, mask, str(path))
                job.check()
            except InputError as error:
                self._fail(place, str(error))
                continue
            yield job

    def _fail(self, place: int, reason: str) -> None:
        facts = {"file": str(self._inputs[place].path), "error": reason}
        self._entries[place] = Entry("", facts, {})

    def _write(self, result: Completion) -> None:
        place = self._places[result.name]
        given = self._inputs[place]
        planned = next(iter(given.names))
        names = given.names[lossless_suffix(planned, result.original.mode)]
        facts = write_completion(result, self._task.out, names)
        files = {str(name): sha256_of(self._task.out / name) for name in _files(names, result)}
        self._entries[place] = Entry(self._by.digest_of(given), facts, files)
        self._report(result.name)

    def _report(self, current: str) -> None:
        bad = sum(not entry.files for entry in self._entries.values())
        note = Note(len(self._entries), bad, current)
        self._stopped |= self._by.pen.report(self._part.number, note)

    def _tell(self, jobs: Sequence[Job], state: SearchState) -> None:
        if state.step % 50 == 0:
            self._report(jobs[-1].name)


def _files(names: OutputNames, result: Completion) -> list[PurePath]:
    """Return the names that were used: there may be fewer answers than were asked for."""
    return replace(names, answers=names.answers[: len(result.candidates)]).files()
