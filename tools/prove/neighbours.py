"""Folders with other users: links, pipes, and commands at the same time touch nothing and lose nothing."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from pixmend.cluster import session
from pixmend.models import load_model, save_model
from tools.prove.children import attempt, program, start
from tools.prove.hostile import judge
from tools.prove.tally import Row, Scale, counted
from tools.prove.world import Verb, World, make_world, verbs_of
from tools.untrained import untrained

__all__ = [
    "at_once",
    "foreign_cluster",
    "foreign_files",
    "neighbours",
    "odd_files",
    "replaced_models",
]

_SECRET = b"what belongs to others\n"
_FOREIGN = (".notes.20261129.tmp", ".a.b.abcdefgh.tmp", "x.tmp", ".results.jsonl.swp")
_WRITERS = 3


def neighbours(scale: Scale, folder: Path) -> list[Row]:
    """Share every verb's folder with others."""
    world = make_world(folder)
    verbs = verbs_of(world)
    return [
        *(odd_files(verb, folder / "odd") for verb in verbs),
        *(foreign_files(verb, folder / "foreign") for verb in verbs),
        at_once(world, folder / "together", scale.rounds),
        replaced_models(folder / "models", scale.rounds),
        foreign_cluster(folder / "cluster"),
    ]


def odd_files(verb: Verb, folder: Path) -> Row:
    """Put a link, a pipe, a device or a huge hole in the place of each file that a verb made, then run it again."""
    with counted(f"{verb.name}: links, pipes and holes in the place of its files") as row:
        folder.mkdir(exist_ok=True)
        whole, victim = folder / f"{verb.name}-whole", folder / "victim"
        ended = attempt(verb.command(whole))
        row.expect(ended.code == 0, f"undisturbed: {ended.kind}: {ended.last_words}")
        names = _names_of_each_kind(whole)
        puts: dict[str, Callable[[Path], object]] = {
            "link": lambda path: path.symlink_to(victim),
            "pipe": os.mkfifo,
            "device": lambda path: path.symlink_to("/dev/zero"),
            "hole": _hole,
        }
        for name in names:
            for how, put in puts.items():
                victim.write_bytes(_SECRET)
                out = folder / verb.name
                shutil.copytree(whole, out)
                (out / name).unlink()
                put(out / name)
                judge(row, f"{how} at {name}", attempt(verb.command(out)))
                row.expect(victim.read_bytes() == _SECRET, f"{how} at {name}: written through")
                shutil.rmtree(out)
    return row


def foreign_files(verb: Verb, folder: Path) -> Row:
    """Run a verb twice in a folder that has temporary files of other programs."""
    with counted(f"{verb.name}: temporary files of others") as row:
        out = folder / verb.name
        attempt(verb.command(out))  # records go into no folder with other files
        for name in _FOREIGN:
            (out / name).write_bytes(_SECRET)
        ended = attempt(verb.command(out))
        row.note(ended.kind)
        row.expect(ended.is_clean, f"{ended.kind}: {ended.last_words}")
        for name in _FOREIGN:
            kept = (out / name).is_file() and (out / name).read_bytes() == _SECRET
            row.expect(kept, f"{name} is gone")
    return row


def at_once(world: World, folder: Path, rounds: int) -> Row:
    """Complete a part of the images into one folder from each of several commands at once."""
    with counted(f"complete: {_WRITERS} commands at once into one folder") as row:
        images = sorted(world.images.rglob("*.png"))
        for number in range(rounds):
            out = folder / f"out-{number}"
            shares = [folder / f"in-{number}-{part}" for part in range(_WRITERS)]
            for part, share in enumerate(shares):
                share.mkdir(parents=True)
                for image in images[part::_WRITERS]:
                    shutil.copy(image, share / f"{part}-{image.name}")
            children = [start(_completing(world, share, out)) for share in shares]
            for ended in [child.end() for child in children]:
                row.note(ended.kind)
                row.expect(ended.code == 0, f"{ended.kind}: {ended.last_words}")
            lines = (out / "results.jsonl").read_text().splitlines()
            told = {Path(json.loads(line)["file"]).name for line in lines}
            row.expect(len(told) == len(images), f"{len(told)} of {len(images)} results told")
    return row


def replaced_models(folder: Path, rounds: int) -> Row:
    """Load a model again and again while another process puts a new one in its place."""
    with counted("load: a model that is replaced meanwhile") as row:
        folder.mkdir()
        path = folder / "model.safetensors"
        save_model(untrained(), path)
        count = 20 * rounds
        saving = start(
            lambda: [save_model(untrained(latent_dim=6 + n % 2), path) for n in range(count)]
        )
        for _ in range(count):
            ended = attempt(lambda: load_model(path))
            row.note(ended.kind)
            row.expect(ended.code == 0, f"{ended.kind}: {ended.last_words}")
        row.expect(saving.end().code == 0, "the model could not be saved")
    return row


def foreign_cluster(folder: Path) -> Row:
    """Look for a Ray cluster where somebody else may name one, as `--cluster auto` does."""
    with counted("--cluster auto: an address that others may write") as row:
        path, elsewhere = folder / "ray" / "ray_current_cluster", folder / "elsewhere"
        path.parent.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as server:
            elsewhere.write_text(f"127.0.0.1:{server.getsockname()[1]}\n")
            puts: dict[str, Callable[[], object]] = {
                "its own": lambda: shutil.copy(elsewhere, path),
                "writable by all": lambda: (shutil.copy(elsewhere, path), path.chmod(0o666)),
                "a link": lambda: path.symlink_to(elsewhere),
                "a pipe": lambda: os.mkfifo(path),
                "a device": lambda: path.symlink_to("/dev/zero"),
            }
            for how, put in puts.items():
                put()
                joins = attempt(lambda: sys.exit(3 if _auto_address(folder) else 0)).code == 3
                row.note("joined" if joins else "left alone")
                row.expect(joins == (how == "its own"), f"{how}: {row.counts}")
                path.unlink()
    return row


def _auto_address(folder: Path) -> str | None:
    os.environ["RAY_TMPDIR"] = str(folder)
    return session._own_cluster()


def _names_of_each_kind(whole: Path) -> list[Path]:
    """Return one file of each suffix and folder depth, and those that begin with a dot."""
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    kinds = {
        (path.name if path.name.startswith(".") else path.suffix, len(path.parts)): path
        for path in files
    }
    return sorted(kinds.values())


def _hole(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(20 * 2**30)


def _completing(world: World, images: Path, out: Path) -> Callable[[], None]:
    return program(
        "complete", "--mask", "center", world.model, images, "--out", out, "--method", "classic", "--steps", 1,
        "--device", "cpu",
    )  # fmt: skip
