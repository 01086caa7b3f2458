"""pixmend export."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

import pixmend
from pixmend.cli.options import ModelName
from pixmend.cli.terminal import print_facts
from pixmend.errors import SettingsError, install_hint
from pixmend.storage import StorePath


def export(
    model: ModelName,
    out: Annotated[
        str, Argument(metavar="OUT", help="File to write, .onnx or .safetensors; or a folder.")
    ],
    half: Annotated[
        bool, Option("--half", help="Store weights as float16; not .safetensors.")
    ] = False,
    retrieval: Annotated[
        int, Option(min=0, help="Keep so many of the retrieval images; 0: all.")
    ] = 0,
    examples: Annotated[
        int, Option(min=0, max=8, help="Held-out images to put into the .safetensors file.")
    ] = 0,
    page: Annotated[
        bool, Option("--page", help="Write a web page that completes in the browser.")
    ] = False,
    single_file: Annotated[
        bool, Option("--single-file", help="Write the page as one HTML file.")
    ] = False,
) -> None:
    """Write a model as one ONNX file, which onnxruntime completes images with, as a page, or as .safetensors.

    With --examples, the server's page offers these images of the run to all who have the file.
    """
    path = StorePath.of(out).on_this_machine("a page" if page else "a model file")
    _check_name(out, path, page=page, single=single_file)
    if (examples, half or retrieval)[path.suffix == ".safetensors"]:
        raise SettingsError(
            f"{out}: --half and --retrieval are for .onnx files and pages, --examples for .safetensors"
        )
    if path.suffix == ".safetensors":
        _copy(model, path, examples)
        return
    try:
        from pixmend.onnx.onnx_file import export_onnx, with_retrieval
    except ModuleNotFoundError as error:
        raise SettingsError(f"export needs {error.name}; {install_hint('export')}") from error
    from pixmend.models import find_model, load_model, read_header

    source = find_model(model)
    networks = with_retrieval(load_model(source), retrieval)
    if page:
        from pixmend.api import Model
        from pixmend.static_page import export_page

        loaded, name = Model(networks, "cpu"), StorePath.of(model).stem
        sizes = export_page(source, loaded, name, path, half=half, single=single_file)
        whole, runtime, size = (sizes[part] / 1e6 for part in ("page", "runtime", "model"))
        content = f"onnxruntime-web {runtime:.1f} MB, the model {size:.1f} MB"
        opened = f"open {path}" if single_file else f"python3 -m http.server -d {path}"
        print_facts({"page": f"{path}, {whole:.1f} MB: {content}", "next": opened})
        return
    exported = export_onnx(
        networks, path, half=half, version=pixmend.__version__, digest=read_header(source)["digest"]
    )
    print_facts(_file_facts(path, exported.facts))


def _copy(model: str, path: Path, examples: int) -> None:
    from pixmend.publish import copy_model

    copy_model(model, path, examples=examples)
    size = f"{path.stat().st_size / 2**20:.1f} MiB"
    contents = f", with {examples} held-out images" if examples else ""
    print_facts({"file": f"{path}, {size}{contents}", "next": f"pixmend serve {path}"})


def _check_name(out: str, path: Path, *, page: bool, single: bool) -> None:
    if single and not page:
        raise SettingsError("--single-file: a page alone can be one file; add --page")
    endings = {(True, True): (".html",), (True, False): ()}.get(
        (page, single), (".onnx", ".safetensors")
    )
    if endings and path.suffix not in endings:
        raise SettingsError(f"{out}: needs a name that ends in {' or '.join(endings)}")
    if page and not single and path.suffix in (".onnx", ".html", ".safetensors"):
        raise SettingsError(f"{out}: --page writes a folder; --single-file writes one .html file")


def _file_facts(path: Path, facts: Mapping[str, object]) -> dict[str, str]:
    return {
        "file": f"{path}, {path.stat().st_size / 2**20:.1f} MiB, weights {facts['weights']}",
        "images": f"up to {facts['max_side']} px a side; the model sees {facts['size']} px {facts['channels']}",
        "next": f"pixmend complete {path} IMAGES --mask MASK --out DONE",
    }
