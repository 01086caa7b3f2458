"""Arguments and options that several verbs share."""

from typing import Annotated

from typer import Argument, Option

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
