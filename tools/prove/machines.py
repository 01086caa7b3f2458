"""Hypothesis state machines of packing and of training: any order of kills, changes and damage."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import ClassVar
from unittest import mock

import hypothesis
import numpy as np
import torch
import torch._dynamo
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pixmend.errors import InputError, ModelFileError, RunError, StoppedError
from pixmend.images import encode_png
from pixmend.models import load_model, read_tensors
from pixmend.records import Manifest, PackSettings, Records, pack
from pixmend.training import RunDirectory, export, resolve, train
from tools.prove.children import attempt
from tools.prove.crash import at_line
from tools.prove.tally import Row, Scale, counted

__all__ = ["PackMachine", "RunMachine", "machines", "run_machine"]

_PACKING = PackSettings(size=8, channels="L", images_per_shard=3)
_NAMES = st.sampled_from(["a.png", "b.png", "x/c.png", "x/d.png", "y/e.png", "y/f.png", "y/g.png"])
_SEEDS = st.integers(0, 99)
_LINES = st.integers(1, 220)
_LENGTH = 12  # rules per sequence
_TRAINING = resolve(
    {"size": 16, "channels": "L", "filters": 4, "latent_dim": 6, "batch_size": 4, "grid_images": 4,
     "checkpoint_every": 2, "log_every": 1, "device": "cpu", "monitor": False, "keep_checkpoints": 2},
)  # fmt: skip


def machines(scale: Scale, folder: Path) -> list[Row]:
    """Run both machines."""
    del folder
    torch.set_num_threads(1)
    return [run_machine(PackMachine, scale.machines), run_machine(RunMachine, scale.machines)]


def run_machine(machine: type["_Machine"], sequences: int) -> Row:
    """Run ``sequences`` random sequences of a machine's rules; report the shortest failing one."""
    with counted(machine.what) as row:
        machine.seen = row.counts
        few = hypothesis.settings(
            max_examples=sequences,
            stateful_step_count=_LENGTH,
            deadline=None,
            database=None,
            derandomize=True,
            print_blob=False,
            phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        # Syncing the disk would dominate the time.
        with mock.patch("os.fsync"):
            try:
                run_state_machine_as_test(machine, settings=few)
            except Exception as error:  # any exception of a rule is the finding
                notes = "; ".join(getattr(error, "__notes__", ()))
                row.expect(False, f"{type(error).__name__}: {error}; {notes}")
        row.tried = sum(row.counts.values())
    return row


class _Machine(RuleBasedStateMachine):
    """A machine with its own folder that counts its rules."""

    what = ""
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="prove-machine-"))

    def note(self, what: str) -> None:
        self.seen[what] += 1

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


class PackMachine(_Machine):
    """Repeated, interrupted packing of a changing folder: the result equals that of one run."""

    what = "pack: change, interrupt, kill, damage, rerun"

    @initialize(seed=_SEEDS)
    def begin(self, seed: int) -> None:
        self.images, self.out = self.folder / "images", self.folder / "records"
        self.damaged = False
        for number, name in enumerate(("a.png", "x/c.png", "y/e.png", "y/f.png")):
            self._put(name, seed + number)

    @rule(name=_NAMES, seed=_SEEDS)
    def put(self, name: str, seed: int) -> None:
        """Add or change an image."""
        self._put(name, seed)
        self.note("image put")

    @rule(name=_NAMES)
    def spoil(self, name: str) -> None:
        """Add an unreadable image, or make one unreadable."""
        (self.images / name).parent.mkdir(exist_ok=True)
        (self.images / name).write_bytes(b"no image")
        self.note("image spoilt")

    @precondition(lambda self: len(self._files()) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        """Delete an image."""
        data.draw(st.sampled_from(self._files())).unlink()
        self.note("image removed")

    @rule(looks=st.integers(0, 12))
    def interrupt(self, looks: int) -> None:
        """Pack, and stop after some checks."""
        left = iter(range(looks))
        try:
            self._pack(self.out, should_stop=lambda: next(left, None) is None)
        except (StoppedError, InputError):
            self.note("interrupted")

    @rule(line=_LINES)
    def kill(self, line: int) -> None:
        """Pack, and kill the process at a line of a write."""
        ended = attempt(at_line(line, lambda: self._pack(self.out)))
        assert ended.killed or ended.is_clean, ended.last_words
        self.note("killed" if ended.killed else "not killed")

    @precondition(lambda self: list(self.out.glob("images-*")))
    @rule(data=st.data(), keep=st.sampled_from([None, 0, 0.5]))
    def damage(self, data: st.DataObject, keep: float | None) -> None:
        """Delete or truncate a shard or an index; an index may be rebuilt from its shard."""
        path = data.draw(st.sampled_from(sorted(self.out.glob("images-*"))))
        if keep is None:
            path.unlink()
        else:
            os.truncate(path, int(path.stat().st_size * keep))
        self.damaged = True
        self.note("shard damaged")

    @rule()
    def finish(self) -> None:
        """Pack to the end: the bytes equal those of a fresh folder."""
        fresh = self.folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            self._pack(fresh)
        except InputError:
            fresh = None
        try:
            self._pack(self.out)
        except InputError:
            assert fresh is None, "refused images that can be packed"
            self.note("refused as nothing can be read")
            return
        assert fresh is not None, "packed records that should be refused"
        found, wanted = _contents(self.out), _contents(fresh)
        lost = {name for name in wanted if name.endswith(".index") and name not in found}
        same = {name for name in wanted if found.get(name) == wanted[name]}
        cut = {name for name in wanted.keys() - same if self.damaged and name.endswith(".index")}
        assert found.keys() - wanted.keys() == set(), found.keys() - wanted.keys()
        assert wanted.keys() - same <= lost | cut, wanted.keys() - same
        records = Records(self.out)
        assert np.array_equal(_all(records), _all(Records(fresh)))
        self.damaged = bool(wanted.keys() - same)
        self.note("packed")

    @invariant()
    def a_manifest_is_kept(self) -> None:
        """Check that a manifest, if any, is whole and matches its shards."""
        if not self.damaged and hasattr(self, "out") and (self.out / "manifest.json").exists():
            assert len(_all(Records(self.out))) == Manifest.read(self.out).count

    def _put(self, name: str, seed: int) -> None:
        path = self.images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 7, 1), np.uint8)
        path.write_bytes(encode_png(pixels))

    def _files(self) -> list[Path]:
        return sorted(path for path in self.images.rglob("*.png") if path.is_file())

    def _pack(self, out: Path, should_stop: Callable[[], bool] = lambda: False) -> None:
        pack(self.images, out, _PACKING, workers=1, should_stop=should_stop)


class RunMachine(_Machine):
    """A run that is stopped, killed, resumed, extended, damaged: its weights equal undisturbed ones."""

    what = "run: train, kill, resume, export, tamper"

    @initialize()
    def begin(self) -> None:
        self.run = RunDirectory(self.folder / "run")
        self.steps = 0

    @rule(more=st.integers(0, 3), stop_after=st.none() | st.integers(1, 4))
    def train(self, more: int, stop_after: int | None) -> None:
        """Resume training, to the end or until a stop."""
        self.steps = max(1, self.steps + more)
        if not self._can_go_on():
            return
        _train(self.run.path, self.steps, stop_after)
        if stop_after is None:
            self._is_as_left_in_peace()
        self.note("trained" if stop_after is None else "stopped")

    @rule(line=_LINES, more=st.integers(0, 3))
    def kill(self, line: int, more: int) -> None:
        """Resume training, kill it at a line of a write, then resume to the end."""
        self.steps = max(1, self.steps + more)
        if not self._can_go_on():
            return
        damaged = {
            path: path.read_bytes()
            for path in self.run.checkpoints.glob("*.safetensors")
            if not _is_whole(path)
        }
        ended = attempt(at_line(line, lambda: _train(self.run.path, self.steps)))
        assert ended.killed or ended.code == 0, ended.last_words
        self.note("killed" if ended.killed else "not killed")
        for path in self.run.checkpoints.glob("*.safetensors"):
            if path.read_bytes() != damaged.get(path):  # damaged checkpoints may remain
                read_tensors(path, kind="checkpoint")
        _train(self.run.path, self.steps)
        self._is_as_left_in_peace()

    @precondition(lambda self: list(self.run.checkpoints.glob("*.safetensors")))
    @rule(data=st.data(), how=st.sampled_from(["cut", "flip", "delete", "swap"]))
    def tamper(self, data: st.DataObject, how: str) -> None:
        """Damage a checkpoint; training must not resume from it."""
        path = data.draw(st.sampled_from(sorted(self.run.checkpoints.glob("*.safetensors"))))
        content = bytearray(path.read_bytes())
        if how == "delete":
            path.unlink()
        elif how == "swap":  # another step's content: the step comes from the content, not the name
            other = sorted(self.run.checkpoints.glob("*.safetensors"))[0]
            path.write_bytes(other.read_bytes())
        elif content:  # not emptied before
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] ^= 1
            path.write_bytes(content[:at] if how == "cut" else content)
        self.note(f"checkpoint tampered with: {how}")

    @precondition(lambda self: self.run.model.exists())
    @rule(at=st.floats(0, 1, exclude_max=True))
    def tamper_with_model(self, at: float) -> None:
        """Flip a bit of the model file: it is refused, and the next run rewrites it."""
        content = bytearray(self.run.model.read_bytes())
        content[int(len(content) * at)] ^= 4
        self.run.model.write_bytes(content)
        try:
            load_model(self.run.model)
        except ModelFileError:
            self.note("tampered model refused")
        else:
            raise AssertionError(f"a model with byte {int(len(content) * at)} changed was loaded")
        self.run.model.unlink()

    @precondition(lambda self: self.run.model.exists())
    @rule()
    def use(self) -> None:
        """Load the exported model and sample from it."""
        assert load_model(self.run.model).settings == _TRAINING.networks()
        self.note("exported model loaded")

    def _can_go_on(self) -> bool:
        """Whether a checkpoint is intact or none exists; else training refuses, and the run restarts."""
        paths = list(self.run.checkpoints.glob("*.safetensors"))
        if not paths or any(_is_whole(path) for path in paths):
            return True
        try:
            _train(self.run.path, self.steps)
        except RunError:
            self.note("refused: no checkpoint is whole")
        else:
            raise AssertionError("resumed although no checkpoint is intact")
        shutil.rmtree(self.run.path)
        return False

    def _is_as_left_in_peace(self) -> None:
        newest = max((_step(path), path) for path in self.run.checkpoints.glob("*.safetensors") if _is_whole(path))  # fmt: skip
        steps, weights = _in_peace(newest[0])
        assert newest[0] >= self.steps
        found, _ = read_tensors(newest[1], kind="checkpoint")
        assert steps == newest[0]
        assert found.keys() == weights.keys()
        assert all(torch.equal(found[name], weights[name]) for name in found)
        assert load_model(self.run.model).card["steps"] == steps
        assert not list(self.run.path.rglob("*.tmp"))


@cache
def _records() -> Records:
    """Return records of a dozen images, cached per process."""
    folder = Path(tempfile.mkdtemp(prefix="prove-records-"))
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 1), np.uint8)
        (folder / f"{number}.png").write_bytes(encode_png(pixels))
    pack(folder, folder / "records", PackSettings(size=16, channels="L"), workers=1)
    return Records(folder / "records")


@cache
def _in_peace(steps: int) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the result of an undisturbed run of ``steps`` steps."""
    folder = Path(tempfile.mkdtemp(prefix="prove-peace-"))
    _train(folder / "run", steps)
    newest = max((folder / "run" / "checkpoints").glob("*.safetensors"))
    tensors, header = read_tensors(newest, kind="checkpoint")
    shutil.rmtree(folder)
    return int(header["step"]), tensors


def _train(run: Path, steps: int, stop_after: int | None = None) -> None:
    """Train to ``steps`` steps, or until a stop after the given number of checks."""
    looks = iter(range(stop_after)) if stop_after is not None else None
    settings = resolve(_TRAINING.model_dump(exclude_none=True), {"steps": steps})
    quick = partial(export.recompute_batchnorm, batches=1, batch_size=4)
    with mock.patch.object(export, "recompute_batchnorm", quick):
        for _ in train(_records(), run, settings, should_stop=lambda: looks is not None and next(looks, None) is None):  # fmt: skip
            pass


def _step(path: Path) -> int:
    return int(read_tensors(path, kind="checkpoint")[1]["step"])


def _is_whole(path: Path) -> bool:
    try:
        read_tensors(path, kind="checkpoint")
    except ModelFileError:
        return False
    return True


def _all(records: Records) -> np.ndarray:
    return records.images(range(len(records)))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".pack.json"}
