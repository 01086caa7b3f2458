"""Make the pictures of the documentation, docs/images/*.png, from the bundled model and glyphs alone.

    python docs/make_pictures.py

Takes a few minutes on a CPU. The same model gives the same pictures; look at each before committing it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import pixmend
from pixmend.api import open_mask
from pixmend.cli.demo import demo
from pixmend.completion import Completion, Job, Options, find_method
from pixmend.completion.objective import contextual_weights
from pixmend.images import (
    Picture,
    Pixels,
    contact_sheet,
    encode_png,
    find_images,
    grid,
    open_image,
)
from pixmend.masks import make_mask
from pixmend.models import BUNDLED
from pixmend.storage import write_bytes

IMAGES = Path(__file__).parent / "images"
MOST_BYTES = 300_000  # all pictures together: they live in the repository
CELL = 128

# Class folder and mask: whole family names are in the file names of the glyphs.
COMPARED = (("Sample006", "center"), ("Sample018", "random:0.8"), ("Sample014", "half:right"))
AMBIGUOUS = ("Sample017", "half:right")
SHAPES = ("center", "half:left", "random", "grid", "lowres", "strokes")


def main() -> None:
    """Make every picture."""
    model = pixmend.load("characters", device="cpu")
    save("completions", completions())
    save("samples", grid(model.sample(60, seed=1), 20, min_cell=32))
    save("search", search(model))
    save("candidates", candidates(model))
    save("methods", methods(model))
    save("blend", blend(model))
    save("masks", masks())
    save("weights", weights())
    total = sum(path.stat().st_size for path in IMAGES.glob("*.png"))
    assert total < MOST_BYTES, f"{total} bytes of pictures: make them smaller"


def completions() -> Pixels:
    """Return the demo's characters side by side: the original, the damaged one, and the completed one."""
    with tempfile.TemporaryDirectory() as name:
        demo(Path(name))
        done = sorted(path for path in find_images(Path(name)) if path.parent == Path(name))
        names = [path.stem for path in done if path.stem != "sheet" and ".sheet" not in path.stem]
        rows: list[list[Pixels]] = [[], [], []]
        for stem in names:
            original = open_image(Path(name) / "originals" / f"{stem}.png")
            mask = open_mask(Path(name) / "masks" / f"{stem}.png", original)
            completed = open_image(Path(name) / f"{stem}.png")
            rows[0].append(original.pixels)
            rows[1].append(Completion(stem, original, mask, ()).masked)
            rows[2].append(completed.pixels)
    captions = [":".join(stem.split("-")[1:]) for stem in names]
    return contact_sheet(rows, captions, cell=CELL)


def search(model: pixmend.Model) -> Pixels:
    """Return what G draws as the search goes on."""
    result = model.complete(glyph("Sample018"), "random:0.8", snapshots=(0, 10, 50, 200, 1000))
    return contact_sheet([result.row()], result.captions(), cell=CELL)


def candidates(model: pixmend.Model) -> Pixels:
    """Return several answers for an image that allows several."""
    label, spec = AMBIGUOUS
    result = model.complete(glyph(label), spec, candidates=6, snapshots=())
    return contact_sheet([result.row()], result.captions(), cell=CELL)


def methods(model: pixmend.Model) -> Pixels:
    """Return the same damage completed by each method."""
    jobs = [job(label, spec) for label, spec in COMPARED]
    found = {
        name: complete(model, jobs, Options(find_method(name)))
        for name in ("default", "seed", "yeh")
    }
    rows = [
        [
            one.original.pixels,
            one.masked,
            *(found[name][index].candidates[0].picture.pixels for name in found),
        ]
        for index, one in enumerate(found["default"])
    ]
    return contact_sheet(rows, ["original", "masked", *found], cell=CELL)


def blend(model: pixmend.Model) -> Pixels:
    """Return what G drew, pasted into the hole, and blended into it."""
    jobs = [job("Sample014", "half:right")]
    (pasted,) = complete(
        model, jobs, Options(find_method("default", blend="paste"), snapshots=(1000,))
    )
    (blended,) = complete(model, jobs, Options(find_method("default", blend="poisson")))
    row = [pasted.masked, pasted.snapshots[1000]]
    row += [result.candidates[0].picture.pixels for result in (pasted, blended)]
    return contact_sheet([row], ["masked", "G(z)", "paste", "poisson"], cell=CELL)


def masks() -> Pixels:
    """Return each shape of mask on one glyph."""
    jobs = [job("Sample036", spec) for spec in SHAPES]
    return contact_sheet(
        [[Completion("", one.picture, one.mask, ()).masked for one in jobs]], SHAPES, cell=CELL
    )


def weights() -> Pixels:
    """Return the contextual weights of each shape of mask at 32 px: white = 1, black = 0."""
    made = [make_mask(spec, 32, 32) for spec in SHAPES]
    known = torch.from_numpy(np.stack([mask.known for mask in made]))[:, None].float()
    levels = (contextual_weights(known)[:, 0] * 255).round().to(torch.uint8).numpy()
    holes = [mask.to_pixels() for mask in made]
    return contact_sheet([holes, [level[..., None] for level in levels]], SHAPES, cell=CELL)


def complete(model: pixmend.Model, jobs: Sequence[Job], options: Options) -> list[Completion]:
    """Complete several images at once."""
    return list(model.complete_jobs(jobs, options))


def job(label: str, spec: str) -> Job:
    """Return the first bundled glyph of a class with a mask."""
    picture = glyph(label)
    return Job(picture, open_mask(spec, picture))


def glyph(label: str) -> Picture:
    """Return the first bundled glyph of a class."""
    return open_image(next(find_images(BUNDLED / "characters" / label)))


def save(name: str, pixels: Pixels) -> None:
    """Write docs/images/NAME.png."""
    write_bytes(IMAGES / f"{name}.png", encode_png(pixels))


if __name__ == "__main__":
    main()
