"""pixmend demo."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from typer import Option

from pixmend.cli.terminal import progress_bar, stdout

if TYPE_CHECKING:
    from pixmend.completion import Completion
    from pixmend.images import Pixels

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
    from pixmend import api, images
    from pixmend.completion import CompletionOptions, Task, find_method, open_mask
    from pixmend.images import encode_png, save_image
    from pixmend.models import BUNDLED
    from pixmend.storage import StorePath, write_bytes

    folder = StorePath.of(out).on_this_machine("the demo")
    tasks = []
    for label, spec in _DAMAGE:
        picture = images.open_image(next(images.find_images(BUNDLED / "characters" / label)))
        mask, name = open_mask(spec, picture), f"{label}-{spec.replace(':', '-')}"
        save_image(picture, folder / "originals" / f"{name}.png")
        write_bytes(folder / "masks" / f"{name}.png", encode_png(mask.to_pixels()))
        tasks.append(Task(picture, mask, name))
    model = api.load("characters")
    options = CompletionOptions(find_method("default"), candidates=2, batch=len(tasks))
    completed = list(model.complete_tasks(tasks, options))
    for result in completed:
        save_image(result.candidates[0].picture, folder / f"{result.name}.png")
        write_bytes(folder / f"{result.name}.sheet.png", encode_png(result.sheet_pixels()))
    sheet = folder / "sheet.png"
    write_bytes(sheet, encode_png(_sheet(completed)))
    stdout.print(f"{len(completed)} characters completed; open {sheet}")
    # The latent search of `classic` takes longer: its columns come when it ends.
    options = CompletionOptions(find_method("classic"), batch=len(tasks))
    with progress_bar() as bar:
        steps = options.method.steps + 1
        task = bar.add_task("searching, to compare", total=steps, note=f"{len(tasks)} characters")
        searched = list(
            model.complete_tasks(tasks, options, on_preview=lambda _: bar.advance(task))
        )
    write_bytes(sheet, encode_png(_sheet(completed, searched)))
    stdout.print(f"{sheet} now shows the search of method classic beside them")
    stdout.print("next, a model of your own images: pixmend train IMAGES run --minutes 20")


def _sheet(completed: "list[Completion]", searched: "Sequence[Completion]" = ()) -> "Pixels":
    """Return a sheet of completions with two answers each, and snapshots of a search if there is one."""
    from pixmend.images import contact_sheet, to_channels

    after = [f"classic after {step:,}" for step in searched[0].snapshots] if searched else []
    rows = [[*result.row()] for result in completed]
    for row, result in zip(rows, searched, strict=False):
        row[2:2] = [to_channels(pixels, "L") for pixels in result.snapshots.values()]
    return contact_sheet(rows, ["original", "masked", *after, "completed", "or"], cell=128)
