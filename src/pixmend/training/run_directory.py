"""A run directory: what is where in it, and that it holds one run only.

RUN/settings.toml               the resolved settings
RUN/run.json                    format, data set (path, digest, count), version, number of processes
RUN/held_out.json               which images training never sees
RUN/log.jsonl                   a line every `log_every` steps
RUN/monitor.jsonl               scores at each checkpoint
RUN/checkpoints/step-*.safetensors
RUN/samples/step-*.png          G's images of the same latents over time
RUN/film.gif                    the same, moving
RUN/model.safetensors           the model file, of the last checkpoint
RUN/best.safetensors            the model file of the checkpoint with the best scores
RUN/report.html                 the run on one page
RUN/tensorboard/                for TensorBoard, when `track` is set
RUN/records/                    the packed images, when DATA was an image folder
"""

import contextlib
import fcntl
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pixmend.errors import OutputError, RunError, SettingsError
from pixmend.storage import make_folder, parse_json, remove_leftovers, write_text
from pixmend.training.settings import TrainSettings, free_in, read_recipe, resolve, to_toml

_FORMAT = 1


@dataclass(frozen=True)
class RunDirectory:
    """The paths of a run directory."""

    path: Path

    @property
    def settings(self) -> Path:
        """The resolved settings."""
        return self.path / "settings.toml"

    @property
    def facts(self) -> Path:
        """Format, data set and version."""
        return self.path / "run.json"

    @property
    def split(self) -> Path:
        """Which images are held out, by number, and their families."""
        return self.path / "held_out.json"

    @property
    def log(self) -> Path:
        """A JSON object a line."""
        return self.path / "log.jsonl"

    @property
    def scores(self) -> Path:
        """A JSON object a checkpoint: `Scores`."""
        return self.path / "monitor.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of sample grids."""
        return self.path / "samples"

    @property
    def film(self) -> Path:
        """The sample grids as an animation."""
        return self.path / "film.gif"

    @property
    def model(self) -> Path:
        """The exported model file."""
        return self.path / "model.safetensors"

    @property
    def best(self) -> Path:
        """The model file with the best scores so far."""
        return self.path / "best.safetensors"

    @property
    def report(self) -> Path:
        """The run on one page."""
        return self.path / "report.html"

    @property
    def tensorboard(self) -> Path:
        """The folder for TensorBoard."""
        return self.path / "tensorboard"

    @property
    def records(self) -> Path:
        """The packed images, when the data was an image folder."""
        return self.path / "records"


@dataclass(frozen=True)
class RunFacts:
    """Which data a run is trained on (its digest tells whether they changed), and by how many processes."""

    data: str
    data_digest: str
    data_count: int
    processes: int = 1


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory."""
    return (path / "run.json").is_file() and (path / "settings.toml").is_file()


def processes_of(path: Path) -> int:
    """Return how many processes trained the run in ``path`` last; 1 where that is not said."""
    try:
        return int(parse_json(RunDirectory(path).facts.read_text())["processes"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1  # no run yet, one of an older version, or a damaged one, which `open_run` tells of


def parts_of(path: Path) -> int:
    """Return in how many parts the processes of the run in ``path`` worked on their shares; 1 where that is not said."""
    try:
        return int(read_recipe(RunDirectory(path).settings)["gradient_accumulation"])
    except (SettingsError, ValueError, KeyError, TypeError):
        return 1


@contextlib.contextmanager
def open_run(path: Path, settings: TrainSettings, facts: RunFacts) -> Iterator[RunDirectory]:
    """Start the run directory ``path``, or go on with it, holding a lock against a second process.

    Raises
    ------
    RunError
        Another process trains there; it holds a run of other settings or data; it holds something else.
    OutputError
        It cannot be written.
    """
    run = RunDirectory(path)
    make_folder(path)
    with _locked(path):
        if is_run(path):
            _check_same(run, settings, facts)
        elif run.checkpoints.exists() or run.log.exists():
            raise RunError(f"{path}: holds parts of a run but no run.json; choose another folder")
        for folder in (path, run.checkpoints, run.samples):
            remove_leftovers(folder)
        write_text(run.settings, to_toml(settings))
        write_text(run.facts, json.dumps(_facts(facts), indent=1) + "\n")
        yield run


def _facts(facts: RunFacts) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "pixmend": version("pixmend"),
        "data": facts.data,
        "data_digest": facts.data_digest,
        "data_count": facts.data_count,
        "processes": facts.processes,
    }


def _check_same(run: RunDirectory, settings: TrainSettings, facts: RunFacts) -> None:
    try:
        before = resolve(read_recipe(run.settings)).model_dump()
    except SettingsError as error:
        raise RunError(
            f"{run.settings}: a run of another version of pixmend ({error}); go on with that version, or start a new run directory"
        ) from error
    try:
        held = parse_json(run.facts.read_text())
        same_data = held["data_digest"] == facts.data_digest
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run.facts}: damaged ({error}); choose another folder") from error
    now = settings.model_dump()
    free = free_in(settings)
    changed = [key for key in now if key not in free and now[key] != before[key]]
    if changed:
        list_of = ", ".join(f"{key} ({before[key]} there, {now[key]} now)" for key in changed)
        raise RunError(
            f"{run.path}: holds a run of other settings: {list_of}; choose another folder or the same settings"
        )
    if not same_data:
        raise RunError(
            f"{run.path}: was trained on other images ({held['data']}); choose another folder or the same data"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The lock goes with the process, so a killed run leaves none behind.
    try:
        file = (path / ".lock").open("w")
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}; free some space there, or choose another folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                f"{path}: another process is training there; wait for it or choose another folder"
            ) from error
        yield
