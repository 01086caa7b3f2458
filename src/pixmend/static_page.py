"""A page that completes in the browser: the server's page with a back end of onnxruntime-web and a model."""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pixmend
from pixmend.api import Model
from pixmend.errors import OutputError
from pixmend.images import encode_png, grid
from pixmend.model_header import EXAMPLES, held_out_images
from pixmend.onnx.networks import DRAWS
from pixmend.onnx.onnx_file import completion_body
from pixmend.onnx.runtime import MAX_SIDE
from pixmend.storage import write_bytes

_PACKAGE = Path(__file__).parent
_RUNTIME = _PACKAGE / "onnx" / "onnxruntime_web"
_WASM = "ort-wasm-simd-threaded.wasm"
_SERVER_ONLY = {"api.js", "docs.js", "docs.html", "index.html"}
_HIDDEN_FACTS = ("calibration", "data", "examples")  # long; a path on this machine
_EFFORT = {
    "label": "Thorough",
    "method": "default",
    "seconds": None,
    "words": "Compares several answers.",
}


def export_page(
    source: Path, model: Model, name: str, out: Path, *, half: bool = False, single: bool = False
) -> dict[str, int]:
    """Write the page into the folder ``out``, or with ``single`` as one HTML file; return bytes by part.

    ``source`` is the model's file, whose held-out images are the page's examples. SettingsError as of
    `pixmend.onnx.onnx_file.export_onnx`; OutputError if the folder holds other files, or nothing can
    be written.
    """
    body, bank = completion_body(model.networks, half=half, version=pixmend.__version__)
    wasm = (_RUNTIME / f"{_WASM}.gz").read_bytes()
    samples = grid(model.sample(24, seed=0), columns=8, min_cell=48)
    held_out = held_out_images(source, model.card)
    examples = held_out or [encode_png(image) for image in model.sample(EXAMPLES, seed=1)]
    # Names that no server takes for compressed transfers, which browsers would undo.
    contents: dict[str, tuple[str, int, bytes]] = {
        "wasm": (f"model/{_WASM}", *_sized(gzip.decompress(wasm), wasm)),
        "model": ("model/model.bin", *_sized(body, gzip.compress(body, 9, mtime=0))),
        "samples": ("model/samples.png", *_sized(encode_png(samples))),
        **{
            f"example-{number}": (f"model/example-{number}.png", *_sized(content))
            for number, content in enumerate(examples)
        },
    }
    if bank:
        contents["bank"] = ("model/bank.bin", *_sized(bank, gzip.compress(bank, 6, mtime=0)))
    settings = _settings(model, name, contents, drawn=not held_out)
    scripts = {
        path.name: path.read_text()
        for folder in (_PACKAGE / "serve" / "page", _PACKAGE / "onnx" / "page")
        for path in sorted(folder.iterdir())
        if path.name not in _SERVER_ONLY
    }
    scripts["ort.wasm.bundle.min.mjs"] = (_RUNTIME / "ort.wasm.bundle.min.mjs").read_text()
    packed = {key: content for key, (_, _, content) in contents.items()}
    if single:
        write_bytes(out, _single_page(settings | {"single": True}, scripts, packed).encode())
        return {"page": out.stat().st_size, **_budget(packed)}
    if out.is_file() or (
        out.is_dir() and any(out.iterdir()) and not (out / "page/browser.js").is_file()
    ):
        raise OutputError(f"{out}: exists, and is no page of pixmend; name a new folder")
    for script, text in scripts.items():
        write_bytes(out / "page" / script, text.encode())
    for licence in ("LICENSE", "ThirdPartyNotices.txt.gz"):
        content = (_RUNTIME / licence).read_bytes()
        plain = gzip.decompress(content) if licence.endswith(".gz") else content
        write_bytes(out / "onnxruntime-web" / licence.removesuffix(".gz"), plain)
    for key, (path, _, content) in contents.items():
        write_bytes(out / path, gzip.decompress(content) if key == "wasm" else content)
    # The index comes last, because it stands for all.
    write_bytes(out / "index.html", _index(settings, "'self'").encode())
    files = [path for path in out.rglob("*") if path.is_file()]
    return {"folder": sum(path.stat().st_size for path in files), **_budget(packed)}


def _sized(plain: bytes, packed: bytes | None = None) -> tuple[int, bytes]:
    return len(plain), plain if packed is None else packed


def _budget(packed: Mapping[str, bytes]) -> dict[str, int]:
    """Return what a visitor loads before the first completion, where the server compresses."""
    return {
        "runtime": len(packed["wasm"]),
        "model": len(packed["model"]) + len(packed.get("bank", b"")),
    }


def _settings(
    model: Model, name: str, contents: Mapping[str, tuple[str, int, bytes]], *, drawn: bool
) -> dict[str, Any]:
    """Return what the page reads of itself: see `onnx/page/browser.js`."""
    files = {key: {"path": path, "bytes": size} for key, (path, size, _) in contents.items()}
    return {
        "backend": "./browser.js",
        "files": files,
        "limits": {
            "pixels": MAX_SIDE**2, "side": MAX_SIDE, "body_bytes": 2**40, "candidates": DRAWS,
            "steps": 1, "seconds": 1,
        },
        "model": {
            "id": name,
            "size": model.settings.size,
            "channels": model.settings.channels,
            "inpainter": True,
            "methods": ["default"],
            "efforts": [_EFFORT],
            "examples": sum(key.startswith("example-") for key in contents),
            "drawn_examples": drawn,
            "card": {key: value for key, value in model.card.items() if key not in _HIDDEN_FACTS},
        },
    }  # fmt: skip


def _index(
    settings: Mapping[str, Any], scripts: str, *, styles: str = "'self'", data: str = "'self'"
) -> str:
    """Return the server's index for a browser alone, whose policy lets nothing leave it."""
    policy = (
        f"default-src 'none'; script-src {scripts} 'wasm-unsafe-eval'; style-src {styles}; "
        f"img-src 'self' blob: data:; connect-src {data}; worker-src 'self' blob:; base-uri 'none'; "
        "form-action 'none'"
    )
    facts = json.dumps(settings, sort_keys=True).replace("<", "\\u003c")
    index = (_PACKAGE / "serve" / "page" / "index.html").read_text()
    for old, new in (
        (r'<meta charset="utf-8">', rf'\g<0>\n  <meta http-equiv="Content-Security-Policy" content="{policy}">'),
        (r'(<script id="settings"[^>]*>).*?(?=</script>)', lambda found: found[1] + facts),
        (r"<body>", '<body class="browser">'),
        (r"</body>", '<script src="page/check.js"></script>\n</body>'),
    ):  # fmt: skip
        index, count = re.subn(old, new, index, flags=re.DOTALL)
        assert count == 1, old
    return index


def _single_page(
    settings: Mapping[str, Any], texts: Mapping[str, str], files: Mapping[str, bytes]
) -> str:
    """Return the page with all its files inside; the modules are named by an import map."""

    def address(name: str, kind: str) -> str:
        text = re.sub(r"'\./([\w.]+\.m?js)'", r"'\1'", texts[name])
        return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"

    modules = {
        name: address(name, "text/javascript")
        for name in texts
        if name.endswith("js") and name != "check.js"
    }
    importmap, main = json.dumps({"imports": modules}), "import 'main.js';"
    check, style = texts["check.js"], texts["style.css"]
    settings = {**settings, "backend": "browser.js"}
    allowed = f"{_hashes([importmap, main, check])} data:"
    index = _index(settings, allowed, styles=_hashes([style]), data="data:")
    inside = "\n".join(
        f'<script type="text/plain" id="file-{name}">{base64.b64encode(content).decode()}</script>'
        for name, content in files.items()
    )
    last = (
        f"{inside}\n<script>{check}</script>\n"
        f'<script type="importmap">{importmap}</script>\n<script type="module">{main}</script>'
    )
    for old, new in {
        'href="page/icon.svg"': f'href="{address("icon.svg", "image/svg+xml")}"',
        '<link rel="stylesheet" href="page/style.css">': f"<style>{style}</style>",
        '<script type="module" src="page/main.js"></script>': "",
        '<script src="page/check.js"></script>': last,
    }.items():
        assert index.count(old) == 1, old
        index = index.replace(old, new)
    return index


def _hashes(texts: Iterable[str]) -> str:
    """Return the sources of a policy that allow these inline texts."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in texts)
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
