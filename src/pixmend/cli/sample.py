"""pixmend sample."""

from pathlib import Path
from typing import Annotated

import typer


def sample(
    model: Annotated[
        str, typer.Argument(help="A model file, a run directory or a bundled model's name.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The grid, a PNG.")],
    count: Annotated[int, typer.Option(min=1, max=4096, help="Images in the grid.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    walk: Annotated[
        Path | None, typer.Option(help="Also a walk through latent space, a GIF.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Draw a grid of images from a model, and a walk through its latent space."""
    from pixmend import api
    from pixmend.cli.terminal import out as terminal
    from pixmend.errors import OutputError
    from pixmend.images import encode_png, grid, write_animation
    from pixmend.storage import write_bytes

    for path, suffix in ((out, ".png"), (walk, ".gif")):
        if path is not None and path.suffix.lower() != suffix:
            raise OutputError(
                f"{path}: is written as {suffix[1:].upper()}; give it a name that ends in {suffix}"
            )
    loaded = api.load(model, device=device)
    write_bytes(out, encode_png(grid(loaded.sample(count, seed=seed), min_cell=64)))
    terminal.print(f"grid  {out}", markup=False)
    if walk is not None:
        frames = loaded.walk(seed=seed)
        write_animation(
            [grid(frame[None], min_cell=192) for frame in frames], walk, seconds_per_frame=0.06
        )
        terminal.print(f"walk  {walk}", markup=False)
