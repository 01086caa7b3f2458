"""pixmend export."""

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
    out: Annotated[str, Argument(metavar="OUT.onnx|FOLDER", help="ONNX file or folder to write.")],
    half: Annotated[bool, Option("--half", help="Store weights as float16.")] = False,
    retrieval: Annotated[
        int, Option(min=0, help="Keep so many of the retrieval images; 0: all.")
    ] = 0,
    page: Annotated[
        bool, Option("--page", help="Write a web page that completes in the browser.")
    ] = False,
    single_file: Annotated[
        bool, Option("--single-file", help="Write the page as one HTML file.")
    ] = False,
) -> None:
    """Write a model as one ONNX file, which onnxruntime completes images with, or as a page without a server."""
    path = StorePath.of(out).on_this_machine("a page" if page else "an ONNX file")
    _check_name(out, path, page=page, single=single_file)
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
    facts = exported.facts
    print_facts(
        {
            "file": f"{path}, {path.stat().st_size / 2**20:.1f} MiB, weights {facts['weights']}",
            "images": f"up to {facts['max_side']} px a side; the model sees {facts['size']} px {facts['channels']}",
            "next": f"pixmend complete {path} IMAGES --mask MASK --out DONE",
        }
    )


def _check_name(out: str, path: Path, *, page: bool, single: bool) -> None:
    if single and not page:
        raise SettingsError("--single-file: a page alone can be one file; add --page")
    wanted = (".html" if single else "") if page else ".onnx"
    if wanted and path.suffix != wanted:
        raise SettingsError(f"{out}: needs a name that ends in {wanted}")
    if page and not single and path.suffix in (".onnx", ".html"):
        raise SettingsError(f"{out}: --page writes a folder; --single-file writes one .html file")
