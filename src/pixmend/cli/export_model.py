"""pixmend export."""

from typing import Annotated

from typer import Argument, Option

import pixmend
from pixmend.cli.options import ModelName
from pixmend.cli.terminal import print_facts
from pixmend.errors import SettingsError, install_hint
from pixmend.storage import StorePath


def export(
    model: ModelName,
    out: Annotated[str, Argument(metavar="OUT.onnx", help="ONNX file to write.")],
    half: Annotated[bool, Option("--half", help="Store weights as float16.")] = False,
) -> None:
    """Write a model as one ONNX file, which onnxruntime completes images with."""
    path = StorePath.of(out).on_this_machine("an ONNX file")
    if path.suffix != ".onnx":
        raise SettingsError(f"{out}: needs a name that ends in .onnx")
    try:
        from pixmend.onnx.onnx_file import export_onnx
    except ModuleNotFoundError as error:
        raise SettingsError(f"export needs {error.name}; {install_hint('export')}") from error
    from pixmend.models import find_model, load_model, read_header

    source = find_model(model)
    exported = export_onnx(
        load_model(source), path, half=half, version=pixmend.__version__, digest=read_header(source)["digest"],
    )  # fmt: skip
    facts = exported.facts
    print_facts(
        {
            "file": f"{path}, {path.stat().st_size / 2**20:.1f} MiB, weights {facts['weights']}",
            "images": f"up to {facts['max_side']} px a side; the model sees {facts['size']} px {facts['channels']}",
            "next": f"pixmend complete {path} IMAGES --mask MASK --out DONE",
        }
    )
