"""pixmend demo."""

from pathlib import Path
from typing import Annotated

import typer

# Which bundled glyphs are damaged how: one line a row of the sheet.
_DAMAGE = (
    ("Sample002", "half:top"),
    ("Sample006", "center"),
    ("Sample011", "strokes:0.35"),
    ("Sample014", "half:right"),
    ("Sample018", "random:0.8"),
    ("Sample028", "center:0.6"),
    ("Sample036", "grid"),
    ("Sample041", "half:bottom"),
    ("Sample049", "lowres:4"),
    ("Sample060", "random:0.9"),
)


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder for the results.")] = Path("demo"),
) -> None:
    """Complete damaged characters of fonts that the bundled model has never seen, and say what to open."""
    from pixmend import api
    from pixmend.cli.terminal import out as terminal
    from pixmend.cli.terminal import progress_bar
    from pixmend.completion import CompletionOptions, Task, find_method, open_mask
    from pixmend.images import (
        contact_sheet,
        encode_png,
        find_images,
        open_image,
        save_image,
        to_channels,
    )
    from pixmend.models import BUNDLED
    from pixmend.storage import write_bytes

    model = api.load("characters")
    jobs = []
    for label, spec in _DAMAGE:
        picture = open_image(next(find_images(BUNDLED / "characters" / label)))
        jobs.append(Task(picture, open_mask(spec, picture), f"{label}-{spec.replace(':', '-')}"))
    ways = [
        model.for_model(CompletionOptions(find_method(name), batch=len(jobs)))
        for name in ("classic", "default")
    ]
    with progress_bar() as bar:
        of = f"{len(jobs)} characters"
        task = bar.add_task("searching", total=sum(each.method.steps + 1 for each in ways), note=of)
        by_seed, results = (
            list(model.complete_tasks(jobs, each, on_preview=lambda _: bar.advance(task)))
            for each in ways
        )
    for result in results:
        save_image(result.candidates[0].picture, out / f"{result.name}.png")
        save_image(result.original, out / "originals" / f"{result.name}.png")
        write_bytes(out / "masks" / f"{result.name}.png", encode_png(result.mask.to_pixels()))
        write_bytes(out / f"{result.name}.sheet.png", encode_png(result.sheet_pixels()))
    # What a search over z alone has come to, as in the seed system, beside the answer.
    rows = [
        [
            ours.row()[0],
            ours.row()[1],
            *(to_channels(each, "L") for each in searched.snapshots.values()),
            ours.row()[-1],
        ]
        for ours, searched in zip(results, by_seed, strict=True)
    ]
    after = [f"seed after {step:,}" for step in by_seed[0].snapshots]
    sheet = contact_sheet(rows, ["original", "masked", *after, "completed"], cell=128)
    write_bytes(out / "sheet.png", encode_png(sheet))
    terminal.print(f"{len(results)} characters completed; open {out / 'sheet.png'}", markup=False)
