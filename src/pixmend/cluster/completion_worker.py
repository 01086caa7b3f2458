"""A worker that completes parts of the inputs, and keeps what an earlier run completed."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from pixmend.api import Model, load
from pixmend.cluster.input_listing import CompletionInput, InputPlan
from pixmend.cluster.session import missing_on_node
from pixmend.cluster.worker_pool import JobWorker, RetryPolicy
from pixmend.completion import (
    Completion,
    CompletionOptions,
    Preview,
    Task,
    mask_file,
    open_mask,
    write_completion,
)
from pixmend.errors import InputError, StoppedError, StoreError
from pixmend.images import lossless_suffix, open_image
from pixmend.records.pack_progress import JobProgress
from pixmend.storage import StorePath, parse_json

LEDGER = ".complete"  # the sub-folder of OUT with the ledger
JOB_FILE = "job.json"
_REPORT_STEPS = 50  # of a search, between reports


@dataclass(frozen=True)
class CompletionSpec:
    """What all parts share."""

    options: CompletionOptions
    mask: str
    plan: InputPlan
    out: StorePath
    device: str


@dataclass(frozen=True)
class InputPart:
    """Some lines of the listing, for one worker."""

    number: int
    lines: bytes


@dataclass(frozen=True)
class LedgerEntry:
    """What became of an input."""

    digest: str  # of the input and of its mask
    facts: dict[str, Any]  # the line of `results.jsonl`
    files: dict[str, str]  # SHA-256 of each file by its name relative to OUT; none if it failed


def ledger_path(number: int) -> PurePath:
    """Return the path of a part's ledger relative to OUT."""
    return PurePath(LEDGER, f"part-{number:06d}.jsonl")


def read_ledger(path: StorePath) -> list[LedgerEntry]:
    """Return the entries of a part; none if the ledger is missing or damaged."""
    try:
        return [LedgerEntry(**parse_json(line)) for line in path.read_bytes().splitlines()]
    except (InputError, ValueError, TypeError):
        return []


def load_model_bytes(content: bytes, device: str) -> Model:
    """Load a model from the content of its file."""
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(content)
        file.flush()
        return load(file.name, device=device)


class CompletionWorker(JobWorker):
    """The actor, which holds the model, and the state of the current part."""

    def setup(self, model: bytes, spec: CompletionSpec) -> None:
        """Load the model; a machine that does not see OUT is a ClusterError."""
        if not (spec.out / LEDGER / JOB_FILE).exists():
            raise missing_on_node(spec.out)
        self.model, self.spec = load_model_bytes(model, spec.device), spec
        self.options = self.model.for_model(spec.options)

    def work(self, part: InputPart, policy: RetryPolicy) -> tuple[JobProgress, int, bytes]:
        """Complete the missing inputs of a part and write its ledger; return also how many were there."""
        self.number, self.policy, self.stopped = part.number, policy, False
        self.inputs = inputs = self.spec.plan.inputs(part.lines)
        self.digests: dict[int, str] = {}
        self.mask_files: dict[int, StorePath | None] = {}
        ledger = self.spec.out / ledger_path(part.number)
        self.entries = entries = self._earlier_entries(read_ledger(ledger))
        earlier = len(entries)
        self._complete([position for position in range(len(inputs)) if position not in entries])
        failed = [position for position, entry in entries.items() if not entry.files]
        # What could not be read a moment ago may be readable now.
        self._complete([position for position in failed if position not in policy.left_out])
        lines = [json.dumps(asdict(entries[position])) + "\n" for position in range(len(inputs))]
        # Returned too, for that of the folder may be replaced by another command's.
        content = "".join(lines).encode()
        ledger.write_bytes(content)
        return self._progress(str(inputs[-1].path)), earlier, content

    def _digest(self, image: CompletionInput) -> str:
        mask = mask_file(self.spec.mask, image.path, image.relative)
        digests = [image.path.sha256(), "" if mask is None else mask.sha256()]
        return hashlib.sha256("\n".join(digests).encode()).hexdigest()

    def _earlier_entries(self, ledger: Sequence[LedgerEntry]) -> dict[int, LedgerEntry]:
        """Return an earlier run's entries of unchanged inputs whose files are as written."""
        entries = {entry.facts["file"]: entry for entry in ledger}
        return {
            position: entries[name]
            for position, image in enumerate(self.inputs)
            if (name := str(image.path)) in entries and self._is_valid(entries[name], image)
        }

    def _is_valid(self, entry: LedgerEntry, image: CompletionInput) -> bool:
        # A new input may have been given a name that was this one's.
        planned = ({str(file) for file in names.files()} for names in image.names.values())
        if not entry.files or not any(entry.files.keys() <= files for files in planned):
            return False
        try:
            whole = all((self.spec.out / file).sha256() == sha for file, sha in entry.files.items())
            return whole and entry.digest == self._digest(image)
        except (InputError, StoreError):
            return False

    def _complete(self, positions: Sequence[int]) -> None:
        options = self.options
        if self.policy.careful:  # one at a time shows whose search a worker dies of
            options = replace(options, batch=1)
        results = self.model.complete_tasks(
            self._tasks(positions),
            options,
            on_preview=self._on_preview,
            should_stop=lambda: self.stopped,
        )
        for result in results:
            if self.stopped:  # a search that was cut short must not be kept
                raise StoppedError
            self._write(result)
        if self.stopped:
            raise StoppedError

    def _tasks(self, positions: Sequence[int]) -> Iterator[Task]:
        for position in positions:
            image = self.inputs[position]
            if position in self.policy.left_out:
                self._fail(position, self.policy.left_out[position])
                continue
            if self.policy.careful:
                self.reporter.begin(self.number, position)
            try:
                picture = open_image(image.path)
                self.digests[position] = self._digest(image)
                file = mask_file(self.spec.mask, image.path, image.relative)
                self.mask_files[position] = file
                mask = open_mask(file or self.spec.mask, picture, seed=self.spec.options.seed)
                task = Task(picture, mask, str(image.path))
                task.check()
            except (InputError, StoreError) as error:
                self._fail(position, str(error))
                continue
            yield task

    def _fail(self, position: int, reason: str) -> None:
        facts = {"file": str(self.inputs[position].path), "error": reason}
        self.entries[position] = LedgerEntry("", facts, {})

    def _write(self, result: Completion) -> None:
        position = [str(image.path) for image in self.inputs].index(result.name)
        plan = self.inputs[position].names
        suffix = lossless_suffix(next(iter(plan)), result.original.mode)
        facts, files = write_completion(result, self.spec.out, plan[suffix])
        if self.mask_files[position] is not None:
            facts["mask_file"] = str(self.mask_files[position])
        self.entries[position] = LedgerEntry(self.digests[position], facts, files)
        self._report(result.name)

    def _progress(self, current: str) -> JobProgress:
        bad = sum(not entry.files for entry in self.entries.values())
        return JobProgress(len(self.entries), bad, current)

    def _report(self, current: str) -> None:
        self.stopped |= self.reporter.report(self.number, self._progress(current))

    def _on_preview(self, preview: Preview) -> None:
        if preview.step % _REPORT_STEPS == 0:
            self._report(preview.tasks[-1].name)
