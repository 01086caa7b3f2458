"""A page that completes in the browser: the server's page with a back end of onnxruntime-web and a model."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pixmend
from pixmend.api import Model
from pixmend.errors import OutputError
from pixmend.images import encode_png, grid
from pixmend.models.examples import EXAMPLES, held_out_images
from pixmend.onnx.networks import DRAWS
from pixmend.onnx.onnx_file import completion_body
from pixmend.onnx.runtime import MAX_SIDE
from pixmend.storage import write_bytes

_PACKAGE = Path(__file__).parent
_PAGE, _BACKEND = _PACKAGE / "serve" / "page", _PACKAGE / "onnx" / "page"
_RUNTIME = _PACKAGE / "onnx" / "onnxruntime_web"
_SERVER_ONLY = ("api.js", "docs.js", "docs.html", "index.html")
_HIDDEN_FACTS = ("calibration", "data", "examples")  # long; a path on this machine
_EFFORT = {"label": "Thorough", "method": "default", "words": "Compares several answers."}


def export_page(
    source: Path, model: Model, name: str, out: Path, *, half: bool = False, single: bool = False
) -> dict[str, int]:
    """Write the page into the folder ``out``, or with ``single`` as one HTML file; return bytes.

    They are those of ``page``, and of ``runtime`` and ``model`` in it. ``source`` is the model's file, whose held-out images are
    the examples. SettingsError as of `pixmend.onnx.onnx_file.export_onnx`; OutputError if the folder holds other files, or nothing
    can be written.
    """
    body, bank = completion_body(model.networks, half=half, version=pixmend.__version__)
    wasm = (_RUNTIME / "ort-wasm-simd-threaded.wasm.gz").read_bytes()
    pictures = {"samples": encode_png(grid(model.sample(24, seed=0), columns=8, min_cell=48))}
    held_out = held_out_images(source, model.card)
    examples = held_out or [encode_png(image) for image in model.sample(EXAMPLES, seed=1)]
    pictures |= {f"example-{place}": example for place, example in enumerate(examples)}
    files = {"model": gzip.compress(body, 9, mtime=0), "wasm": wasm, **pictures}
    lengths = {"model": len(body), "wasm": len(gzip.decompress(wasm))}
    if bank:
        files["bank"], lengths["bank"] = gzip.compress(bank, 6, mtime=0), len(bank)
    # Servers take names of compressed files for compressed transfers, which browsers undo.
    paths = {key: f"model/{key}.{'bin' if key in lengths else 'png'}" for key in files}
    settings = _settings(model, name, pictures, drawn=not held_out)
    settings["files"] = {key: {"path": paths[key], "bytes": lengths.get(key)} for key in files}
    scripts = {
        path.name: path.read_text()
        for path in (*sorted(_PAGE.iterdir()), *sorted(_BACKEND.iterdir()), *_RUNTIME.glob("*.mjs"))
        if path.name not in _SERVER_ONLY
    }
    sizes = {"runtime": len(wasm), "model": len(files["model"]) + len(files.get("bank", b""))}
    if single:
        page = _single_page({**settings, "single": True}, scripts, files).encode()
        write_bytes(out, page)
        return {"page": len(page), **sizes}
    is_other = out.is_dir() and any(out.iterdir()) and not (out / "page/browser.js").is_file()
    if out.is_file() or is_other:
        raise OutputError(f"{out}: exists, and is no page of pixmend; name a new folder")
    contents = {paths[key]: content for key, content in files.items()}
    contents |= {f"page/{script}": text.encode() for script, text in scripts.items()}
    notices = gzip.decompress((_RUNTIME / "ThirdPartyNotices.txt.gz").read_bytes())
    contents["onnxruntime-web/LICENSE"] = (_RUNTIME / "LICENSE").read_bytes()
    contents["onnxruntime-web/ThirdPartyNotices.txt"] = notices
    contents["index.html"] = _index(settings).encode()  # last, because it stands for all
    for path, content in contents.items():
        write_bytes(out / path, content)
    return {"page": sum(map(len, contents.values())), **sizes}


def _settings(model: Model, name: str, pictures: Mapping[str, bytes], *, drawn: bool) -> dict[str, Any]:  # fmt: skip
    """Return what the page reads of itself: see `onnx/page/browser.js`."""
    facts = {
        "id": name, "size": model.settings.size, "channels": model.settings.channels, "inpainter": True,
        "methods": ["default"], "efforts": [_EFFORT], "examples": len(pictures) - 1, "drawn_examples": drawn,
        "card": {key: value for key, value in model.card.items() if key not in _HIDDEN_FACTS},
    }  # fmt: skip
    limits = {"pixels": MAX_SIDE**2, "side": MAX_SIDE, "body_bytes": 2**40, "candidates": DRAWS}
    return {"backend": "./browser.js", "limits": limits, "model": facts}


def _index(settings: Mapping[str, Any], scripts: str = "'self'", styles: str = "'self'", data: str = "'self'") -> str:  # fmt: skip
    """Return the server's index for a browser alone, whose policy lets nothing leave it."""
    policy = (
        f"default-src 'none'; script-src {scripts} 'wasm-unsafe-eval'; style-src {styles}; img-src 'self' blob: data:; "
        f"connect-src {data}; worker-src 'self' blob:; base-uri 'none'; form-action 'none'"
    )
    facts = json.dumps(settings, sort_keys=True).replace("<", "\\u003c")
    index = (_PAGE / "index.html").read_text()
    charset = '<meta charset="utf-8">'
    old = re.search(r'<script id="settings"[^>]*>(.*?)</script>', index, re.DOTALL)
    assert old
    parts = {
        old[1]: facts,
        charset: f'{charset}\n  <meta http-equiv="Content-Security-Policy" content="{policy}">',
        "<body>": '<body class="browser">',
        "</body>": '<script src="page/check.js"></script>\n</body>',
    }
    return _replaced(index, parts)


def _single_page(settings: Mapping[str, Any], texts: Mapping[str, str], files: Mapping[str, bytes]) -> str:  # fmt: skip
    """Return the page with all its files inside; an import map names the modules."""
    modules = {
        name: _data_url(re.sub(r"'\./([\w.]+\.m?js)'", r"'\1'", text), "text/javascript")
        for name, text in texts.items()
        if name.endswith("js") and name != "check.js"
    }
    inline = {
        "<script>": texts["check.js"],
        '<script type="importmap">': json.dumps({"imports": modules}),
        '<script type="module">': "import 'main.js';",
    }
    scripts = [f"{tag}{text}</script>" for tag, text in inline.items()]
    data = [
        f'<script type="text/plain" id="file-{name}">{base64.b64encode(content).decode()}</script>'
        for name, content in files.items()
    ]
    allowed = f"{' '.join(map(_hash, inline.values()))} data:"
    index = _index({**settings, "backend": "browser.js"}, allowed, _hash(texts["style.css"]), "data:")  # fmt: skip
    parts = {
        '"page/icon.svg"': f'"{_data_url(texts["icon.svg"], "image/svg+xml")}"',
        '<link rel="stylesheet" href="page/style.css">': f"<style>{texts['style.css']}</style>",
        '<script type="module" src="page/main.js"></script>': "",
        '<script src="page/check.js"></script>': "\n".join([*data, *scripts]),
    }
    return _replaced(index, parts)


def _replaced(text: str, parts: Mapping[str, str]) -> str:
    for old, new in parts.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def _data_url(text: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _hash(text: str) -> str:
    """Return the source of a policy that allows this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
