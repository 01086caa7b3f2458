#!/usr/bin/env python3
"""Render the characters 0-9, A-Z and a-z of many fonts, one small image each.

The layout is that of Chars74K's computer fonts (``EnglishFnt``): black glyphs on white, one folder
per class, from ``Sample001`` (``0``) to ``Sample062`` (``z``)::

    python tools/fonts/render_characters.py FONTS_FOLDER OUT --size 64

writes ``OUT/train/Sample001/<family>__<face>.png``, ``OUT/heldout/Sample001/...``,
``OUT/faces.csv`` (rendered faces) and ``OUT/dropped.csv`` (other files, with the reason).  The font
families listed under ``held_out`` in ``characters_fonts.toml`` are held out as a whole.  Only the
packages listed there are rendered; give ``--fonts`` an empty file to render any folder of fonts.
Equal fonts give equal files.  Needs numpy, Pillow and fontTools.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import logging
import re
import string
import sys
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fontTools import agl, t1Lib, ttLib  # type: ignore[import-untyped]
from PIL import Image, ImageDraw, ImageFont

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
FONT_SUFFIXES = {".ttf", ".otf", ".pfb"}
DEFAULT_FONTS = Path(__file__).with_name("characters_fonts.toml")

MARGIN = 0.11  # of the side, left empty on each side of the largest glyphs
OVERSAMPLING = 4  # glyphs are drawn this much larger, so that hinting does not distort them
PROBE = 32  # side of the images that faces are compared at
MIN_INK = 0.004  # of the image: a glyph with less counts as blank
MIN_DISTINCT = 0.8  # of the glyphs: unicase faces and empty boxes have fewer distinct ones
SAME_FACE = 0.012  # mean absolute difference: the same face in another file
NEAR_FACE = 0.04  # mean absolute difference: too alike to be in both splits

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Face:
    """One face of one font file that has every character."""

    path: Path
    package: str
    family: str
    style: str
    probe: Pixels = field(repr=False, compare=False)  # (characters, PROBE, PROBE)

    @property
    def label(self) -> str:
        """Name of the family and of the face, as in file names."""
        return f"{slug(self.family)}__{slug(self.style)}"


@dataclass(frozen=True)
class Drop:
    """A font file that is not rendered, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class FontList:
    """The list of fonts; an empty list admits every font."""

    packages: dict[str, str] = field(default_factory=dict)
    held_out: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    @classmethod
    def read(cls, path: Path) -> FontList:
        """Read a list such as ``tools/fonts/characters_fonts.toml``."""
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls(
            packages=dict(table.get("packages", {})),
            held_out=frozenset(table.get("held_out", ())),
            excluded=frozenset(table.get("excluded", ())),
        )


class UnusableFontError(Exception):
    """The file has no face that can be rendered; the message is the reason."""


def slug(text: str) -> str:
    """Reduce ``text`` to lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unnamed"


def expand_characters(spec: str) -> str:
    """Expand ranges: ``0-9A-Z`` to ``0123456789ABC...Z``."""
    expanded = re.sub(
        r"(.)-(.)",
        lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))),
        spec,
    )
    return "".join(dict.fromkeys(expanded))


def class_folder(character: str) -> str:
    """Return Chars74K's name of the class: ``Sample001`` is ``0``, ``Sample062`` is ``z``."""
    return f"Sample{CHARACTERS.index(character) + 1:03d}"


def type1_names(path: Path, characters: str) -> tuple[str, str]:
    """Return the family and style of a Type 1 font; raise if it lacks a character."""
    font = t1Lib.T1Font(str(path))
    font.parse()
    glyphs = font["CharStrings"]
    if any(agl.UV2AGL[ord(c)] not in glyphs for c in characters):
        raise UnusableFontError("lacks characters")
    info = font["FontInfo"]
    return str(info.get("FamilyName", path.stem)), str(info.get("FullName", path.stem))


def sfnt_names(path: Path, characters: str) -> tuple[str, str]:
    """Return the family and style of a TrueType or OpenType font; raise if it lacks a character."""
    with ttLib.TTFont(path, lazy=True) as font:
        cmap = font.getBestCmap() or {}
        names = [cmap.get(ord(c), ".notdef") for c in characters]
        if ".notdef" in names:
            raise UnusableFontError("lacks characters")
        if len(set(names)) < MIN_DISTINCT * len(names):
            raise UnusableFontError("shares glyphs between characters")
        table = font["name"]
        family = table.getBestFamilyName() or path.stem
        style = table.getBestSubFamilyName() or "Regular"
    return str(family), str(style)


def face_names(path: Path, characters: str) -> tuple[str, str]:
    """Return the names of the family and the style, of any format."""
    read = type1_names if path.suffix.lower() == ".pfb" else sfnt_names
    family, style = read(path, characters)
    return " ".join(family.split()), " ".join(style.split())


def load_font(path: Path, size: float) -> ImageFont.FreeTypeFont:
    """Open a font without complex shaping, so that no library version changes the glyphs."""
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def glyph_extents(font: ImageFont.FreeTypeFont, characters: str) -> list[float]:
    """Return the larger side of each glyph's bounding box, in pixels."""
    boxes = [font.getbbox(c) for c in characters]
    return [max(right - left, bottom - top) for left, top, right, bottom in boxes]


def draw_glyph(font: ImageFont.FreeTypeFont, character: str, side: int) -> Image.Image:
    """Draw a glyph, white on black, with its bounding box centred in a square."""
    left, top, right, bottom = font.getbbox(character)
    canvas = Image.new("L", (side, side), 0)
    corner = ((side - (right - left)) / 2 - left, (side - (bottom - top)) / 2 - top)
    ImageDraw.Draw(canvas).text((round(corner[0]), round(corner[1])), character, 255, font)
    return canvas


def render_face(path: Path, characters: str, size: int) -> Pixels:
    """Render all characters of a face, black on white.

    One scale serves the whole face, so that ``o`` stays smaller than ``O``: the scale at which
    nine glyphs in ten fit inside the margins.  The others (a wide ``W``, the swash of a ``Q``) are
    scaled down individually, or a single flourish would make the whole face tiny.

    Parameters
    ----------
    path
        The font.
    characters
        Characters to render.
    size
        Side of each image in pixels.

    Returns
    -------
    Pixels
        An array of shape ``(len(characters), size, size)``.
    """
    side = size * OVERSAMPLING
    room = side * (1 - 2 * MARGIN)
    extents = glyph_extents(load_font(path, side), characters)
    typical = float(np.quantile(extents, 0.9))
    if typical < 1:
        raise UnusableFontError("draws nothing")
    common = load_font(path, side * room / typical)
    pictures = []
    for character, extent in zip(characters, extents, strict=True):
        fits = extent <= typical
        font = common if fits else load_font(path, side * room / extent)
        canvas = draw_glyph(font, character, side).reduce(OVERSAMPLING)
        pictures.append(255 - np.asarray(canvas))
    return np.stack(pictures)


def check_images(pictures: Pixels) -> None:
    """Raise if the images look blank or like one box repeated."""
    ink = 1 - pictures.reshape(len(pictures), -1).mean(axis=1) / 255
    if ink.min() < MIN_INK:
        raise UnusableFontError("has blank glyphs")
    if ink.mean() > 0.6:
        raise UnusableFontError("is nearly all ink")
    distinct = {picture.tobytes() for picture in pictures}
    if len(distinct) < MIN_DISTINCT * len(pictures):
        raise UnusableFontError("shares glyphs between characters")


def probe_file(path: Path, root: Path, characters: str) -> Face | Drop:
    """Open a font file and check its glyphs at a small size."""
    try:
        family, style = face_names(path, characters)
        pictures = render_face(path, characters, PROBE)
        check_images(pictures)
    except UnusableFontError as error:
        return Drop(path, str(error))
    except Exception as error:  # broken fonts fail in many ways; none may stop the others
        return Drop(path, f"broken: {type(error).__name__}: {error}"[:100])
    package = path.relative_to(root).parts[0] if path.parent != root else ""
    return Face(path, package, family, style, pictures)


def find_fonts(root: Path) -> list[Path]:
    """Return every font file below a folder, sorted, each real file once."""
    paths = (p for p in root.rglob("*") if p.suffix.lower() in FONT_SUFFIXES)
    return sorted(p for p in paths if p.is_file() and not p.is_symlink())


def difference(one: Pixels, other: Pixels) -> float:
    """Return the mean absolute difference of two faces, in [0, 1]."""
    return float(np.abs(one.astype(np.int16) - other.astype(np.int16)).mean()) / 255


class NearestFace:
    """Finds a face that differs from another by less than a limit.

    The difference of block means is a lower bound, so only the few faces within the limit there
    are compared pixel by pixel.
    """

    def __init__(self) -> None:
        self.faces: list[Face] = []
        self._coarse: list[npt.NDArray[np.float32]] = []

    @staticmethod
    def _shrink(face: Face) -> npt.NDArray[np.float32]:
        blocks = face.probe.reshape(len(face.probe), PROBE // 8, 8, PROBE // 8, 8)
        means: npt.NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32) / 255
        return means.ravel()

    def add(self, face: Face) -> None:
        """Add a face to compare with."""
        self.faces.append(face)
        self._coarse.append(self._shrink(face))

    def find(self, face: Face, limit: float) -> Face | None:
        """Return the first face within the limit, or None."""
        if not self.faces:
            return None
        bounds = np.abs(np.stack(self._coarse) - self._shrink(face)).mean(axis=1)
        for index in np.flatnonzero(bounds < limit):
            if difference(self.faces[index].probe, face.probe) < limit:
                return self.faces[index]
        return None


def split_faces(
    faces: Iterable[Face], held_out: frozenset[str]
) -> tuple[list[Face], list[Face], list[Drop]]:
    """Split the faces into training and held-out ones, and drop duplicates.

    Parameters
    ----------
    faces
        All usable faces.
    held_out
        Names of the families to hold out.

    Returns
    -------
    train, heldout, dropped
        Dropped are held-out faces that hardly differ from a training face, and faces that another
        file of the same split already contains.
    """
    drops: list[Drop] = []
    train, heldout = NearestFace(), NearestFace()
    for face in sorted(faces, key=lambda f: (f.family in held_out, f.family, f.style, f.path)):
        mine = heldout if face.family in held_out else train
        if (twin := mine.find(face, SAME_FACE)) is not None:
            drops.append(Drop(face.path, f"same face as {twin.path.name}"))
        elif mine is heldout and (twin := train.find(face, NEAR_FACE)) is not None:
            drops.append(Drop(face.path, f"near a training face: {twin.path.name}"))
        else:
            mine.add(face)
    return train.faces, heldout.faces, drops


def encode_face(path: Path, characters: str, size: int) -> list[bytes]:
    """Render a face as PNG files."""
    files = []
    for picture in render_face(path, characters, size):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "PNG", optimize=True)
        files.append(buffer.getvalue())
    return files


class Writer:
    """Writes images, except exact duplicates within a class."""

    def __init__(self, out: Path, characters: str) -> None:
        self.out = out
        self.characters = characters
        self.repeats = 0
        self.written = {"train": 0, "heldout": 0}
        self._seen: set[tuple[str, bytes]] = set()
        self._labels: set[str] = set()

    def unique_label(self, face: Face) -> str:
        """Return a unique file name for the face."""
        label, number = face.label, 2
        while label in self._labels:
            label, number = f"{face.label}-{number}", number + 1
        self._labels.add(label)
        return label

    def write(self, split: str, label: str, files: Sequence[bytes]) -> None:
        """Write one face."""
        for character, data in zip(self.characters, files, strict=True):
            key = (character, hashlib.sha256(data).digest())
            if key in self._seen:
                self.repeats += 1
                continue
            self._seen.add(key)
            folder = self.out / split / class_folder(character)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{label}.png").write_bytes(data)
            self.written[split] += 1


def wanted(path: Path, root: Path, fonts: FontList) -> bool:
    """Return whether the list of fonts admits this file."""
    relative = path.relative_to(root)
    listed = not fonts.packages or relative.parts[0] in fonts.packages
    return listed and f"{relative.parts[0]}/{relative.name}" not in fonts.excluded


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table of comma-separated values."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer: Any = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def probe_all(
    pool: ProcessPoolExecutor, paths: Sequence[Path], root: Path, characters: str
) -> tuple[list[Face], list[Drop]]:
    """Check all files; return the usable faces and the dropped files."""
    probe = partial(probe_file, root=root, characters=characters)
    probed = list(pool.map(probe, paths, chunksize=8))
    faces = [item for item in probed if isinstance(item, Face)]
    return faces, [item for item in probed if isinstance(item, Drop)]


def write_faces(
    pool: ProcessPoolExecutor, writer: Writer, splits: dict[str, list[Face]], size: int
) -> list[tuple[str, str, Face]]:
    """Render and write all faces; return the split and the file name of each."""
    chosen = [(split, face) for split, faces in splits.items() for face in faces]
    encode = partial(encode_face, characters=writer.characters, size=size)
    encoded = pool.map(encode, [face.path for _, face in chosen], chunksize=4)
    written = []
    for (split, face), files in zip(chosen, encoded, strict=True):
        label = writer.unique_label(face)
        writer.write(split, label, files)
        written.append((split, label, face))
    return written


def write_tables(
    out: Path, root: Path, fonts: FontList, written: list[tuple[str, str, Face]], drops: list[Drop]
) -> None:
    """Write ``faces.csv`` and ``dropped.csv``."""
    rows = [
        (f.family, f.style, f.package, fonts.packages.get(f.package, "unknown"), split, label)
        for split, label, f in written
    ]
    header = ("family", "face", "package", "licence", "split", "file")
    write_table(out / "faces.csv", header, rows)
    lost = sorted((str(drop.path.relative_to(root)), drop.reason) for drop in drops)
    write_table(out / "dropped.csv", ("path", "reason"), lost)


def report(writer: Writer, splits: dict[str, list[Face]], drops: list[Drop]) -> None:
    """Print the counts of written and dropped files, and the broken ones."""
    for drop in drops:
        if drop.reason.startswith("broken"):
            print(f"skipped {drop.path}: {drop.reason}", file=sys.stderr)
    for split, faces in splits.items():
        families = len({face.family for face in faces})
        print(f"{split}: {writer.written[split]} glyphs, {len(faces)} faces, {families} families")
    print(f"left out: {len(drops)} files (see dropped.csv), {writer.repeats} repeated glyphs")


def run(args: argparse.Namespace) -> int:
    """Render all fonts; return the exit status."""
    root, out = args.fonts_folder, args.out
    fonts = FontList.read(args.fonts) if args.fonts else FontList()
    paths = [path for path in find_fonts(root) if wanted(path, root, fonts)]
    out.mkdir(parents=True, exist_ok=True)
    writer = Writer(out, args.characters)
    with ProcessPoolExecutor(args.workers) as pool:
        faces, drops = probe_all(pool, paths, root, args.characters)
        train, heldout, repeats = split_faces(faces, fonts.held_out)
        splits = {"train": train, "heldout": heldout}
        written = write_faces(pool, writer, splits, args.size)
    drops += repeats
    write_tables(out, root, fonts, written, drops)
    report(writer, splits, drops)
    return 0 if written else 1


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Render the characters of many fonts.")
    parser.add_argument("fonts_folder", type=Path, help="Folder with one sub-folder per package.")
    parser.add_argument("out", type=Path, help="Output folder.")
    parser.add_argument("--size", type=int, default=128, help="Side of an image in pixels.")
    parser.add_argument(
        "--fonts",
        type=Path,
        default=DEFAULT_FONTS if DEFAULT_FONTS.is_file() else None,
        help="List of fonts (TOML): packages to render, families to hold out.",
    )
    parser.add_argument(
        "--characters", default="0-9A-Za-z", help="Characters to render, with ranges."
    )
    parser.add_argument("--workers", type=int, default=2, help="Number of processes.")
    args = parser.parse_args(argv)
    args.characters = expand_characters(args.characters)
    if unknown := set(args.characters) - set(CHARACTERS):
        parser.error(f"Chars74K has no class for {sorted(unknown)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    # fontTools warns about harmless flaws of old fonts.
    logging.getLogger("fontTools").setLevel(logging.CRITICAL)
    return run(parse_arguments(argv))


if __name__ == "__main__":
    sys.exit(main())
