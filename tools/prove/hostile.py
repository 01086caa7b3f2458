"""Hostile files: each is refused with a clear error or harmless, within bounded memory."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from pixmend.images import encode_png
from pixmend.models import load_model, save_model
from pixmend.records import Manifest
from pixmend.records.tfrecord import Value, encode_example, frame_record
from pixmend.storage import write_text
from pixmend.training import read_recipe, resolve
from tools.prove.bombs import deflated_zeros, image_bombs, structural_bombs
from tools.prove.children import Ended, attempt, program
from tools.prove.tally import Row, Scale, counted
from tools.prove.world import SIDE, make_images
from tools.untrained import untrained

__all__ = [
    "MEMORY_MIB",
    "bombs_of_images",
    "hostile",
    "links",
    "model_files",
    "models_of_strangers",
    "names",
    "polyglots",
    "records",
    "settings_files",
    "tried",
    "zips",
]

# The largest accepted image has 64 million pixels of 4 bytes, with about three copies at a time.
MEMORY_MIB = 1024.0
_BRIEFLY = ("--methods", "classic:0.002", "--masks", "center")
_DEEP = b'{"a":' * 500_000 + b"1" + b"}" * 500_000
_PROMISES: dict[str, dict[str, object]] = {
    "networks far larger than the file": {"size": 256, "filters": 1024, "latent_dim": 4096},
    "a memory of a million images": {"retrieval_images": 1_000_000},
    "settings that are no settings": {"size": "a" * 10**6},
}
_FAR_MORE = 6 * MEMORY_MIB  # address space of a child, so that a bomb cannot exhaust the machine


def hostile(scale: Scale, folder: Path) -> list[Row]:
    """Try all kinds of hostile files."""
    del scale
    return tried(
        folder,
        [
            bombs_of_images, zips, polyglots, names, links, model_files, models_of_strangers, records,
            settings_files,
        ],
    )  # fmt: skip


def tried(folder: Path, kinds: Sequence[Callable[[Path, Path], Row]]) -> list[Row]:
    """Try kinds of hostile files, each in its own folder with a good model."""
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "model.safetensors"
    save_model(untrained(), model)
    return [kind(folder / kind.__name__, model) for kind in kinds]


def judge(row: Row, what: str, ended: Ended, *, refused: bool | None = None) -> None:
    """Record how a program handled a file: clean end, bounded memory, and the expected refusal."""
    row.note(ended.kind)
    row.most("most MiB", ended.peak)
    row.expect(ended.is_clean, f"{what}: {ended.kind}: {ended.last_words}")
    row.expect("\x1b" not in ended.said, f"{what}: an escape code reached the terminal")
    row.expect(ended.peak <= MEMORY_MIB, f"{what}: took {ended.peak:.0f} MiB")
    if refused is not None:
        row.expect((ended.code == 2) == refused, f"{what}: {ended.kind}: {ended.last_words}")


def bombs_of_images(folder: Path, model: Path) -> Row:
    """Small files of huge images, with huge metadata, or of parts without number."""
    with counted("image bombs") as row:
        folder.mkdir()
        for content_of, refused in ((image_bombs(), True), (structural_bombs(), None)):
            for name, content in content_of.items():
                path = folder / name
                path.write_bytes(content)
                for verb in ("complete", "pack"):
                    judge(row, f"{verb} {name}", _use(verb, path, model), refused=refused)
    return row


def zips(folder: Path, model: Path) -> Row:
    """Zip bombs, path traversal, and members with false headers."""
    with counted("zips: bombs, members that climb") as row:
        folder.mkdir()
        outside = folder / "outside"
        outside.mkdir()
        del model
        for name, make in (("bomb", _zip_bomb), ("overlapping", _overlapping), ("many", _many)):
            path = folder / f"{name}.zip"
            make(path)
            judge(row, name, _use("pack", path, path))
        path = outside / "climbing.zip"
        good = encode_png(np.zeros((SIDE, SIDE, 1), np.uint8))
        climbing = (
            "../../a.png",
            "/tmp/prove-absolute.png",
            "C:\\b.png",
            "..\\c.png",
            "ok/\nd.png",
        )
        with zipfile.ZipFile(path, "w") as archive:
            for name in climbing:
                archive.writestr(name, good)
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(link, "/etc/passwd")
        before = _all_files(folder.parent)
        judge(row, "climbing", _use("pack", path, path), refused=False)
        new = [p for p in _all_files(folder.parent) - before if ".records" not in str(p)]
        row.expect(not new and not Path("/tmp/prove-absolute.png").exists(), f"extracted {new[:3]}")
    return row


def polyglots(folder: Path, model: Path) -> Row:
    """Polyglot and mislabelled files: read as the image that they are, or refused."""
    with counted("polyglots") as row:
        folder.mkdir()
        image = encode_png(np.full((SIDE, SIDE, 1), 9, np.uint8))
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("__main__.py", "raise SystemExit(99)")
        tricks = {
            "png-and-zip.png": image + archive.getvalue(),
            "png-as.gif": image,
            "png-and-html.png": image + b"<script>alert(1)</script>",
            "gif-and-script.gif": b"GIF89a/*" + b"\0" * 20 + b"*/=1;",
            "postscript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
            "svg.png": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
            "script.png": b"#!/bin/sh\ntouch /tmp/prove-ran\n",
            "pickle.png": b"\x80\x04\x95\x1e\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
            "empty.png": b"",
        }
        for name, content in tricks.items():
            path = folder / name
            path.write_bytes(content)
            good = content.startswith(image)
            for verb in ("complete", "pack"):
                judge(row, f"{verb} {name}", _use(verb, path, model), refused=not good)
            if not good:
                judge(row, f"as a model: {name}", attempt(lambda path=path: load_model(path)), refused=True)  # fmt: skip
        row.expect(not Path("/tmp/prove-ran").exists(), "a script was run")
    return row


def names(folder: Path, model: Path) -> Row:
    """File names that trouble terminals, JSON or shells: all are used, none is lost."""
    with counted("odd file names") as row:
        folder.mkdir()
        odd = [b"new\nline.png", b"not-utf8-\xff\xfe.png", b"tab\t.png", b"-rf.png", b"[bold]x.png", b"$(id).png",
                 b"\x1b[31mred.png", "\u202egnp.exe.png".encode(), b"quote\"'.png", b"a" * 250 + b".png", b"%s%n.png",
                 b"back\\slash.png", b" .png", "e\u0301.png".encode(), "\u00e9.png".encode(), b"con.PNG"]  # fmt: skip
        images = folder / "images"
        images.mkdir()
        for number, name in enumerate(odd):
            pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 1), np.uint8)
            with open(os.path.join(os.fsencode(images), name), "wb") as file:  # noqa: PTH118, PTH123 - bytes
                file.write(encode_png(pixels))
        judge(row, "pack", _use("pack", images, model), refused=False)
        packed = Manifest.read(images.with_suffix(".records"))
        row.expect(packed.count == len(odd), f"packed {packed.count} of {len(odd)}")
        out = folder / os.fsdecode(b"out-\xff\n")
        judge(row, "complete", attempt(_completing(model, images, out)), refused=False)
        lines = (out / "results.jsonl").read_text().splitlines()
        told = {json.loads(line)["file"] for line in lines}
        row.expect(len(told) == len(odd), f"{len(told)} of {len(odd)} told of")
        judging = program("evaluate", model, images, "--out", folder / "judged", *_BRIEFLY)
        judge(row, "evaluate", attempt(judging), refused=False)
        run = folder / os.fsdecode(b"run-\xff\n")
        tiny = ("--set=size=16", "--set=filters=4", "--set=batch_size=8", "--set=monitor=false")
        training = program("train", images, run, "--steps", 1, *tiny)
        judge(row, "train", attempt(training), refused=False)
        judge(row, "info", attempt(program("info", run)), refused=False)
        (images / "bad\n\x1b[2J.png").write_text("no image")
        judge(row, "complete, one bad", attempt(_completing(model, images, out)), refused=True)
    return row


def links(folder: Path, model: Path) -> Row:
    """Dangling, circular and device links, and pipes without a writer."""
    with counted("links, pipes, devices") as row:
        images = folder / "images"
        make_images(images, 4)
        (images / "circle").symlink_to(images)
        (images / "itself.png").symlink_to(images / "itself.png")
        (images / "nowhere.png").symlink_to("/nowhere/at/all.png")
        (images / "zero.png").symlink_to("/dev/zero")
        (images / "up.png").symlink_to("../../../../../../etc/passwd")
        (images / "folder.png").mkdir()
        os.mkfifo(images / "pipe.png")
        judge(row, "pack", _use("pack", images, model), refused=False)
        out = folder / "out"
        judge(row, "complete", attempt(_completing(model, images, out)))
        good = (out / "results.jsonl").read_text().count('"output"')
        row.expect(good == 4, f"{good} of 4 good images completed")
        for name in ("itself.png", "nowhere.png", "zero.png", "pipe.png", "folder.png"):
            judge(row, f"complete {name}", _use("complete", images / name, model), refused=True)
        for special in map(Path, ("/dev/zero", "/proc/self/mem", "/")):
            for read in (load_model, read_recipe):
                ended = attempt(partial(read, special), memory_mib=_FAR_MORE)
                judge(row, f"{read.__name__} {special}", ended, refused=True)
    return row


def model_files(folder: Path, model: Path) -> Row:
    """Model files with huge or deep headers, or without the networks that they declare."""
    with counted("model files") as row:
        folder.mkdir()
        content = model.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header, weights = json.loads(content[8 : 8 + length]), content[8 + length :]
        keys = json.dumps(dict.fromkeys(map(str, range(500_000)), 0)).encode()
        tricks: dict[str, Callable[[Path], object]] = {
            "a header of 2 GB": lambda path: _sparse(path, 2 * 2**30),
            "a header of 2^63 bytes": lambda path: path.write_bytes(bytes(7) + b"\x80" + weights),
            "a deep header": lambda path: path.write_bytes(_with_header(_DEEP)),
            "a header of 8 MB of keys": lambda path: path.write_bytes(_with_header(keys)),
        }
        for name, changes in _PROMISES.items():
            changed = _with_settings(header, changes) + weights
            tricks[name] = partial(Path.write_bytes, data=changed)
        for name, make in tricks.items():
            path = folder / f"{name.replace(' ', '-')}.safetensors"
            make(path)
            loaded = attempt(partial(load_model, path), memory_mib=_FAR_MORE)
            judge(row, f"load: {name}", loaded, refused=True)
            judge(row, f"info: {name}", attempt(program("info", path), memory_mib=_FAR_MORE))
            path.unlink()
    return row


def models_of_strangers(folder: Path, model: Path) -> Row:
    """Model files, whole by their digests, with weights or a card that no training writes."""
    with counted("models of strangers") as row:
        folder.mkdir()
        del model
        endless, path = untrained(), folder / "m.safetensors"
        next(endless.generator.parameters()).data.view(-1)[-1] = float("nan")
        calibration = {
            "predicted": "abc", "observed": [0.1], "centre": [0.0], "spread": [1.0], "distance": 2.0,
        }  # fmt: skip
        odd_calibration = replace(untrained(), card={"calibration": calibration})
        escapes = replace(untrained(), card={"licence": "\x1b[2J\x1b]0;forged\x07\nerror: forged"})
        image = folder / "a.png"
        image.write_bytes(encode_png(np.zeros((SIDE, SIDE, 1), np.uint8)))
        for name, each, refused in (
            ("weights that are NaN", endless, True),
            ("a malformed calibration", odd_calibration, True),
            ("a card with escape codes", escapes, False),
        ):
            save_model(each, path)
            judge(row, name, _use("complete", image, path), refused=refused)
            told = attempt(program("info", path))
            judge(row, f"info: {name}", told)
            row.expect("\nerror: forged" not in told.said, f"info: {name}: a forged line")
    return row


def records(folder: Path, model: Path) -> Row:
    """TFRecords with right checksums whose Examples have more parts than memory."""
    with counted("records of many parts") as row:
        folder.mkdir()
        del model
        parts: dict[str, dict[str, Value]] = {
            "a hundred thousand features": {f"{number}": 1 for number in range(10**5)},
            "a name of a megabyte": {"k" * 10**6: 1},
            "four million values": {"image": [0] * (2**22 + 1)},
        }
        for name, features in parts.items():
            path = folder / f"{name.replace(' ', '-')}.tfrecord"
            path.write_bytes(frame_record(encode_example(features)))
            judge(row, name, _use("pack", path, path), refused=True)
            path.unlink()
    return row


def settings_files(folder: Path, model: Path) -> Row:
    """Try settings files with a million keys, deep nesting, or values of a million digits."""
    with counted("settings files") as row:
        folder.mkdir()
        del model
        tricks = {
            "a million keys": "\n".join(f"key{number} = 1" for number in range(10**6)),
            "a million steps": "\n".join(["steps = 1"] * 10**6),
            "deep": "a = " + "[" * 100_000 + "]" * 100_000,
            "a million digits": "steps = " + "9" * 10**6,
            "a long word": f'loss = "{"x" * 10**6}"',
            "not utf-8": "a = 1",
            "nan": "learning_rate = nan",
        }
        for name, text in tricks.items():
            path = folder / f"{name.replace(' ', '-')}.toml"
            path.write_bytes(text.encode() + (b"\xff" if name == "not utf-8" else b""))
            ended = attempt(lambda path=path: resolve(read_recipe(path)), memory_mib=_FAR_MORE)
            judge(row, name, ended, refused=True)
            row.expect(len(ended.said) < 4000, f"{name}: {len(ended.said):,} letters of error")
        run = folder / "run"
        run.mkdir()
        write_text(
            run / "manifest.json", '{"format": 1, "x": ' + "[" * 100_000 + "]" * 100_000 + "}"
        )
        judge(row, "a deep manifest", attempt(lambda: Manifest.read(run)), refused=True)
    return row


def _use(verb: str, path: Path, model: Path) -> Ended:
    out = path.with_suffix(f".{'records' if verb == 'pack' else 'out'}")
    packing = program("pack", path, out, "--size", SIDE, "--workers", 1)
    work = packing if verb == "pack" else _completing(model, path, out)
    return attempt(work, memory_mib=_FAR_MORE)


def _completing(model: Path, images: Path, out: Path) -> Callable[[], None]:
    return program(
        "complete",
        "--mask",
        "center",
        model,
        images,
        "--out",
        out,
        "--method",
        "classic",
        "--steps",
        1,
    )


def _zip_bomb(path: Path) -> None:
    """Members with false small sizes, and one with its true size."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", deflated_zeros(600))
        for number, info in enumerate(archive.filelist):
            info.compress_type = zipfile.ZIP_DEFLATED
            info.file_size = 600 * 2**20 if number == 0 else 1000


def _overlapping(path: Path) -> None:
    """One member of 10 MiB of zeros shared by 2,000 directory entries (Fifield 2019)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", bytes(10 * 2**20))
        (first,) = archive.infolist()
        archive.filelist.extend([first] * 2000)


def _many(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.png", b"")


def _all_files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def _with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def _with_settings(header: dict[str, dict[str, str]], changes: dict[str, object]) -> bytes:
    facts = json.loads(header["__metadata__"]["pixmend"])
    facts["settings"] |= changes
    changed = {**header, "__metadata__": {"pixmend": json.dumps(facts)}}
    return _with_header(json.dumps(changed).encode())


def _sparse(path: Path, length: int) -> None:
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little") + b"{")
        file.truncate(length + 100)
