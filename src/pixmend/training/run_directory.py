"""The files of a run, and the lock that keeps a directory to one run."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pixmend.errors import InputError, MissingError, RunError, SettingsError
from pixmend.storage import (
    StorePath,
    lock,
    make_folder,
    open_file,
    parse_json,
    remove_leftovers,
    write_failure,
    write_text,
)
from pixmend.training.settings import TrainSettings, read_recipe, resolve, to_toml

_FORMAT = 1

# A run may be resumed with other values of these: they change no weight at a given step, except by
# rounding (device) or through batch norm statistics (gradient_accumulation).
_RESUMABLE = {"steps", "minutes", "checkpoint_every", "log_every", "keep_checkpoints"}
_RESUMABLE |= {"monitor", "tensorboard", "device", "memory_mib", "gradient_accumulation"}


class RunDirectory:
    """The paths of a run directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings = path / "settings.toml"  # the resolved settings
        self.facts = path / "run.json"  # format, version, data set, number of processes
        self.split = path / "held_out.json"  # the images that training never sees
        self.examples = path / "held_out"  # some of them, PNG, for people to try
        self.log = path / "log.jsonl"  # a line every `log_every` steps
        self.scores = path / "monitor.jsonl"  # a line of `Scores` per checkpoint
        self.checkpoints = path / "checkpoints"  # step-*.safetensors
        self.samples = path / "samples"  # step-*.png, samples at fixed latents
        self.animation = path / "samples.gif"  # the samples, animated
        self.model = path / "model.safetensors"  # the model of the last checkpoint
        self.best = path / "best.safetensors"  # the model of the checkpoint with the best scores
        self.report = path / "report.html"
        self.tensorboard = path / "tensorboard"
        self.records = path / "records"  # the packed images, if the data is an image folder


def is_run(path: Path) -> bool:
    """Whether ``path`` is a run directory."""
    return all(StorePath(path / name).is_file() for name in ("run.json", "settings.toml"))


def shares_of(path: Path) -> list[int]:
    """Return how many processes, and micro-batches in each, last trained a run; 1 if unknown."""
    run, shares = RunDirectory(path), [1, 1]
    # No run yet, or a damaged one, which `open_run` refuses.
    with contextlib.suppress(InputError, ValueError, KeyError, TypeError, SettingsError):
        shares[0] = int(StorePath(run.facts).read_json()["processes"])
        shares[1] = int(read_recipe(run.settings)["gradient_accumulation"])
    return shares


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file of lines, without damaged ones."""
    lines: list[Any] = []
    with contextlib.suppress(MissingError):
        for line in StorePath(path).read_text().splitlines():
            with contextlib.suppress(ValueError):
                lines.append(parse_json(line))
    return [line for line in lines if isinstance(line, dict)]


@contextlib.contextmanager
def open_run(
    run: RunDirectory, settings: TrainSettings, facts: Mapping[str, Any]
) -> Iterator[None]:
    """Create or resume a run directory, and lock it; ``facts`` describe data and processes.

    RunError: another process trains there, or it holds other settings or data, or no run.
    """
    make_folder(run.path)
    name = run.path / ".lock"
    try:
        file = open_file(name, "ab")
    except OSError as error:
        raise write_failure(name, error) from error
    with file:
        try:
            lock(file)  # until the process ends, so a killed run leaves none behind
        except BlockingIOError as error:
            raise RunError(
                f"{run.path}: another process trains there; wait for it or choose another folder"
            ) from error
        if is_run(run.path):
            _check_same(run, settings, facts)
        elif any(StorePath(path).exists() for path in (run.checkpoints, run.log)):
            raise RunError(
                f"{run.path}: holds parts of a run but no run.json; choose another folder"
            )
        for folder in (run.path, run.checkpoints, run.samples):
            remove_leftovers(folder)
        write_text(run.settings, to_toml(settings))
        content = {"format": _FORMAT, "pixmend": version("pixmend"), **facts}
        write_text(run.facts, json.dumps(content, indent=1) + "\n")
        yield


def _check_same(run: RunDirectory, settings: TrainSettings, facts: Mapping[str, Any]) -> None:
    try:
        before = resolve(read_recipe(run.settings)).model_dump()
    except SettingsError as error:
        raise RunError(
            f"{run.settings}: a run of another version of pixmend ({error}); "
            "resume it with that version, or start a new run directory"
        ) from error
    try:
        data = StorePath(run.facts).read_json()
        same_data = data["data_digest"] == facts["data_digest"]
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run.facts}: damaged ({error}); choose another folder") from error
    now = settings.model_dump()
    scheduled = settings.lr_schedule != "constant" or settings.warmup > 0
    resumable = _RESUMABLE - ({"steps", "minutes"} if scheduled else set())
    changes = ", ".join(
        f"{key} ({before[key]} there, {now[key]} now)"
        for key in now
        if key not in resumable and now[key] != before[key]
    )
    if changes:
        raise RunError(
            f"{run.path}: holds a run of other settings: {changes}; "
            f"resume with its own (--recipe {run.settings}), or choose another folder"
        )
    if not same_data:
        raise RunError(
            f"{run.path}: was trained on other images ({data['data']}); "
            "choose another folder or the same data"
        )
