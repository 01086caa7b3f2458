"""pixmend demo."""

from typing import Annotated

from typer import Option

from pixmend.cli.terminal import progress_bar, stdout

# Folder of bundled glyphs, and mask: one row of the sheet each.
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
    out: Annotated[str, Option("--out", help="Output folder.")] = "demo",
) -> None:
    """Complete damaged characters of unseen fonts with the bundled model."""
    from pixmend import api
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
    from pixmend.storage import StorePath, write_bytes

    folder = StorePath.of(out).on_this_machine("the demo")
    model = api.load("characters")
    tasks = []
    for label, spec in _DAMAGE:
        picture = open_image(next(find_images(BUNDLED / "characters" / label)))
        tasks.append(Task(picture, open_mask(spec, picture), f"{label}-{spec.replace(':', '-')}"))
    options = [
        model.for_model(CompletionOptions(find_method(name), batch=len(tasks)))
        for name in ("classic", "default")
    ]
    with progress_bar() as bar:
        steps = sum(each.method.steps + 1 for each in options)
        task = bar.add_task("searching", total=steps, note=f"{len(tasks)} characters")
        classic, default = (
            list(model.complete_tasks(tasks, each, on_preview=lambda _: bar.advance(task)))
            for each in options
        )
    for result in default:
        save_image(result.candidates[0].picture, folder / f"{result.name}.png")
        save_image(result.original, folder / "originals" / f"{result.name}.png")
        write_bytes(folder / "masks" / f"{result.name}.png", encode_png(result.mask.to_pixels()))
        write_bytes(folder / f"{result.name}.sheet.png", encode_png(result.sheet_pixels()))
    # The latent search of `classic`, beside the answer of the default method.
    rows = []
    for ours, theirs in zip(default, classic, strict=True):
        original, masked, *_, completed = ours.row()
        searched = [to_channels(pixels, "L") for pixels in theirs.snapshots.values()]
        rows.append([original, masked, *searched, completed])
    after = [f"classic after {step:,}" for step in classic[0].snapshots]
    sheet = contact_sheet(rows, ["original", "masked", *after, "completed"], cell=128)
    write_bytes(folder / "sheet.png", encode_png(sheet))
    stdout.print(f"{len(default)} characters completed; open {folder / 'sheet.png'}")
