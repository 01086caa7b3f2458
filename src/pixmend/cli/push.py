"""pixmend push."""

from typing import Annotated

from typer import Argument, Option

from pixmend.cli.options import ModelName
from pixmend.cli.terminal import print_facts

Target = Annotated[str, Argument(help="Folder or URL, such as hf://USER/NAME.")]
Licence = Annotated[str, Option("--licence", help="Licence of the model, such as CC-BY-4.0.")]
Scores = Annotated[
    str | None, Option(help="Folder of evaluate, for its scores; default: the run's monitor.")
]


def push(model: ModelName, target: Target, licence: Licence, evaluation: Scores = None) -> None:
    """Publish a model with a card: model.safetensors, README.md and gallery.png."""
    from pixmend import publish

    print_facts({"pushed": publish.push(model, target, licence=licence, evaluation=evaluation)})
