"""Arguments and options that several verbs share."""

from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from pixmend.errors import InputError

if TYPE_CHECKING:
    from pixmend.storage import StorePath

ModelName = Annotated[
    str, Argument(help="Model file, run directory, URL of one, or bundled model's name.")
]
Seed = Annotated[int, Option(min=0, help="Random seed.")]
Device = Annotated[str, Option(help="auto, cpu, cuda ...")]
Cluster = Annotated[
    str | None,
    Option(
        metavar="auto|ray://HOST",
        help="Ray cluster: auto (RAY_ADDRESS, a running or a local one), ray://HOST or HOST:PORT.",
    ),
]


def check_model(model: str) -> None:
    """Raise a ModelFileError for a wrong MODEL, before torch is imported, which takes seconds."""
    from pixmend.model_header import local_model, read_header
    from pixmend.storage import split_pin

    if not split_pin(model)[1] and (file := local_model(model)):
        read_header(file, "model")


def check_source(text: str) -> "StorePath":
    """Return the place of a folder or file; InputError if nothing is there."""
    from pixmend.storage import StorePath

    place = StorePath.of(text)
    if not place.exists():
        raise InputError(f"{place}: no such file or folder; check the path")
    return place
