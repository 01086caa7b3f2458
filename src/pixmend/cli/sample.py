"""pixmend sample."""

from typing import Annotated

from typer import Option

from pixmend.cli.options import Device, ModelName, Seed, check_model
from pixmend.cli.terminal import print_facts
from pixmend.errors import OutputError


def sample(
    model: ModelName,
    out: Annotated[str, Option("--out", help="PNG file of the image grid.")],
    count: Annotated[int, Option(min=1, max=4096, help="Number of images.")] = 64,
    seed: Seed = 0,
    walk: Annotated[str | None, Option(help="GIF file of a walk through latent space.")] = None,
    device: Device = "auto",
) -> None:
    """Generate a grid of images, and optionally a walk through latent space."""
    from pixmend.storage import StorePath, write_bytes

    files = [
        StorePath.of(name).on_this_machine("a picture") for name in (out, walk) if name is not None
    ]
    for path, suffix in zip(files, (".png", ".gif"), strict=False):
        if path.suffix.lower() != suffix:
            raise OutputError(f"{path}: needs a name that ends in {suffix}")
    check_model(model)
    from pixmend import api
    from pixmend.images import encode_png, grid, write_animation

    loaded = api.load(model, device=device)
    write_bytes(files[0], encode_png(grid(loaded.sample(count, seed=seed), min_cell=64)))
    for path in files[1:]:
        frames = [grid(frame[None], min_cell=192) for frame in loaded.walk(seed=seed)]
        write_animation(frames, path, seconds_per_frame=0.06)
    print_facts(dict(zip(("grid", "walk"), files, strict=False)))
