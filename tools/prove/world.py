"""A small world to break: images, records, a model, and four verbs with the promises of their folders."""

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch._dynamo

from pixmend.evaluation.results import ResultRow
from pixmend.images import encode_png, open_image
from pixmend.masks import make_mask
from pixmend.models import load_model, read_tensors, save_model
from pixmend.records import Manifest, PackSettings, pack
from pixmend.records.tfrecord import read_records
from pixmend.storage import sha256_of
from pixmend.training import export
from tools.prove.children import program
from tools.untrained import untrained

__all__ = ["Verb", "World", "leftovers", "make_world", "verbs_of"]

SIDE = 16
STEPS = 6
_TRAINING = {
    "size": SIDE,
    "channels": "L",
    "filters": 4,
    "latent_dim": 6,
    "batch_size": 8,
    "grid_images": 4,
    "checkpoint_every": 2,
    "log_every": 1,
    "device": "cpu",
    "monitor": "false",
}


@dataclass(frozen=True)
class World:
    """Paths of the inputs.

    Attributes
    ----------
    images
        A folder of images in two classes.
    records
        Other images, packed.
    model
        An untrained model.
    """

    images: Path
    records: Path
    model: Path


@dataclass(frozen=True)
class Verb:
    """A verb that writes into a folder.

    Attributes
    ----------
    name
        Its name on the command line.
    command
        Output folder -> function to run.
    done
        Output folder at any moment -> reports of finished work; raises for half-written files.
    result
        Finished output folder -> everything that interruptions must not change.
    """

    name: str
    command: Callable[[Path], Callable[[], None]]
    done: Callable[[Path], frozenset[str]]
    result: Callable[[Path], dict[str, str]]


def make_world(folder: Path, *, images: int = 12) -> World:
    """Create a small world in an empty folder."""
    torch.set_num_threads(1)
    # They would dominate the time of a tiny run.
    export.recompute_batchnorm = partial(export.recompute_batchnorm, batches=1, batch_size=8)
    world = World(folder / "images", folder / "records", folder / "model.safetensors")
    make_images(world.images, images)
    make_images(folder / "training", 2 * images, first=images)
    pack(folder / "training", world.records, PackSettings(size=SIDE, channels="L"), workers=1)
    save_model(untrained(), world.model)
    return world


def make_images(folder: Path, count: int, *, first: int = 0) -> None:
    """Write images of different sizes to two sub-folders."""
    for number in range(first, first + count):
        shape = (SIDE + number % 3, SIDE + number % 5, 1)
        pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        path = folder / f"Sample{number % 2 + 1:03}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(pixels))


def verbs_of(world: World) -> list[Verb]:
    """Return the four verbs with this world's inputs."""
    settings = [f"--set={key}={value}" for key, value in _TRAINING.items()]

    def packing(out: Path) -> Callable[[], None]:
        return program(
            "pack", world.images, out, "--size", SIDE, "--workers", 1, "--images-per-shard", 5
        )

    def training(out: Path) -> Callable[[], None]:
        return program("train", world.records, out, "--steps", STEPS, *settings)

    def completing(out: Path) -> Callable[[], None]:
        return program(
            "complete", "--mask", "center", world.model, world.images, "--out", out, "--method", "classic", "--steps", 3,
            "--batch", 4, "--candidates", 2, "--uncertainty", "--device", "cpu",
        )  # fmt: skip

    def evaluating(out: Path) -> Callable[[], None]:
        return program(
            "evaluate", world.model, world.images, "--out", out, "--masks", "center,grid", "--methods",
            "classic:0.002,mean", "--train-data", world.records, "--n", 12, "--batch", 4, "--device", "cpu",
        )  # fmt: skip

    def completed(out: Path) -> frozenset[str]:
        return _completed(out, world.images)

    return [
        Verb("pack", packing, _packed, _records_result),
        Verb("train", training, _trained, _run_result),
        Verb("complete", completing, completed, _completion_result),
        Verb("evaluate", evaluating, _evaluated, _evaluation_result),
    ]


def leftovers(out: Path) -> list[str]:
    """Return the temporary files in a folder."""
    return [path.name for path in out.rglob("*.tmp")]


def _packed(out: Path) -> frozenset[str]:
    """Check that shards with final names are whole and match the manifest."""
    shards = sorted(out.glob("images-*.tfrecord"))
    for shard in shards:
        for _ in read_records(shard):
            pass
    if not (out / "manifest.json").exists():
        return frozenset()
    for info in Manifest.read(out).shards:
        assert sha256_of(out / info.name) == info.sha256, f"{info.name} is not what was packed"
    return frozenset({"manifest", *(shard.name for shard in shards)})


def _trained(out: Path) -> frozenset[str]:
    """Check all checkpoints and the model file; return the steps of the newest checkpoint."""
    paths = out.glob("checkpoints/*.safetensors")
    steps = [0, *(int(read_tensors(path, kind="checkpoint")[1]["step"]) for path in paths)]
    if (out / "model.safetensors").exists():
        load_model(out / "model.safetensors")
    return frozenset(f"step {step}" for step in range(max(steps) + 1))


def _completed(out: Path, images: Path) -> frozenset[str]:
    """Check that each result's files are whole and have the input's known pixels."""
    found = set()
    for facts in _whole_lines(out / "results.jsonl"):
        original, answer = (open_image(path) for path in (facts["file"], out / facts["output"]))
        known = ~make_mask("center", original.height, original.width).hole
        assert np.array_equal(original.native[known], answer.native[known]), facts["output"]
        open_image(out / facts["sheet"])
        assert np.load((out / facts["uncertainty_map"]).with_suffix(".npy")).shape == known.shape
        found.add(str(Path(facts["file"]).relative_to(images)))
    return frozenset(found)


def _whole_lines(path: Path) -> list[dict[str, str]]:
    text = path.read_text() if path.exists() else ""
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue  # a truncated line is no report
    return lines


def _evaluated(out: Path) -> frozenset[str]:
    """Check that each row's answer is whole."""
    rows = _rows(out)
    for row in rows:
        who = f"{row.method}-{row.answer}" if row.answer else row.method
        place = out / "answers" / row.mask.replace(":", "-") / who.replace(":", "-")
        assert any(place.glob("*.png")), f"no answer of {who}"
    for picture in out.glob("answers/**/*.png"):
        open_image(picture)
    return frozenset(f"{row.image} {row.mask} {row.label}" for row in rows)


def _rows(out: Path) -> list[ResultRow]:
    path, found = out / "results.csv", []
    text = path.read_text() if path.exists() else ""
    for cells in csv.reader(text[: text.rfind("\n") + 1].splitlines()):
        try:
            found.append(ResultRow.from_cells(cells))
        except ValueError:
            continue  # the header
    return found


def _records_result(out: Path) -> dict[str, str]:
    return _digests(out, lambda path: path.name != ".pack.json")


def _run_result(out: Path) -> dict[str, str]:
    """Return hashes of all files without times of day, and the steps of logs."""
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    timed = {"log.jsonl", "report.html", ".lock"}
    return _digests(out, lambda path: path.name not in timed) | {"log": str(steps)}


def _completion_result(out: Path) -> dict[str, str]:
    lines = [
        {**facts, "seconds": 0, "warnings": 0} for facts in _whole_lines(out / "results.jsonl")
    ]
    told = sorted(json.dumps(facts, sort_keys=True) for facts in lines)
    return _digests(out, lambda path: path.name != "results.jsonl") | {"lines": "\n".join(told)}


def _evaluation_result(out: Path) -> dict[str, str]:
    figures = [",".join(row.cells()[:-2]) for row in _rows(out)]
    kept = _digests(out / "answers", lambda path: True)
    assert (out / "report.html").stat().st_size > 1000
    return kept | {"figures": "\n".join(sorted(figures))}


def _digests(folder: Path, wanted: Callable[[Path], bool]) -> dict[str, str]:
    """Return file -> hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and wanted(path)
    }
