"""Publish a model: its file, its card and a picture, in a folder here or in any store."""

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np

from pixmend.api import Model, load
from pixmend.errors import InputError, OutputError, SettingsError
from pixmend.images import Pixels, encode_png, find_images, grid
from pixmend.model_header import held_out_folder
from pixmend.models import find_model, read_tensors, write_tensors
from pixmend.page import render
from pixmend.storage import StorePath, sha256_of
from pixmend.training.monitor import read_scores

_COLUMNS = 8  # samples in the picture
_STEPS = 200  # of a search for it
_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .,+()/-]{0,99}")


def push(
    model: str | Path, target: str | Path, *, licence: str, evaluation: str | Path | None = None
) -> str:
    """Write model.safetensors, gallery.png and README.md below ``target``; return its pinned URL.

    The model file is written as it is. Scores are those of the folder ``evaluation``, which
    `pixmend.evaluate` wrote about this file, or else those of the run's monitor. SettingsError: the
    licence is no name. InputError: the evaluation is of another model. OutputError: nothing can be
    written there.
    """
    if not _LICENCE.fullmatch(licence):
        raise SettingsError(
            "licence: give the name under which others may use the model, such as CC-BY-4.0, or a "
            "line of up to 100 letters, digits and simple signs"
        )
    place = StorePath.of(target)
    if place.address.startswith(("https:", "http:")):
        raise OutputError(
            f"{place}: a web address cannot be written; give hf://USER/NAME or a store"
        )
    file = find_model(model)
    content, digest = file.read_bytes(), sha256_of(file)
    loaded = load(file)
    scores = (
        _monitored(file) if evaluation is None else _evaluated(StorePath.of(evaluation), digest)
    )
    retrieval = loaded.networks.retrieval
    card = render(
        "model_card.md",
        name=place.name,
        url=str(place) + ("" if place.local else f"#sha256:{digest}"),
        licence=licence,
        facts=loaded.card,
        settings=loaded.settings,
        contained=0 if retrieval is None else len(retrieval),
        scores=scores,
    )
    # The card comes last, because it stands for all.
    (place / "model.safetensors").write_bytes(content)
    (place / "gallery.png").write_bytes(encode_png(_gallery(loaded)))
    (place / "README.md").write_bytes(card.encode())
    return f"{place}#sha256:{digest}"


def copy_model(model: str | Path, path: Path, *, examples: int) -> None:
    """Copy a model's file, with so many held-out images of its run in the card, PNG in base64.

    SettingsError: there are fewer, as beside a model file alone.
    """
    file = find_model(model)
    folder = held_out_folder(file)
    files = [] if folder is None else list(find_images(folder))
    if len(files) < examples:
        raise SettingsError(
            f"--examples {examples}: {len(files)} held-out images are beside {file}; "
            "give a run directory, or a smaller number"
        )
    tensors, header = read_tensors(file, kind="model")
    card = dict(header.get("card", {}))
    card.pop("examples", None)
    if examples:
        chosen = files[:: len(files) // examples][:examples]
        card["examples"] = [base64.b64encode(each.read_bytes()).decode() for each in chosen]
    write_tensors(path, tensors, kind="model", header={**header, "card": card})


def _gallery(model: Model) -> Pixels:
    """Draw samples, the same with a hole, and their completions, uint8 [H, W, 3]."""
    samples = np.asarray(model.sample(_COLUMNS))
    steps = None if model.settings.inpainter_filters else _STEPS
    results = model.complete(samples, "center", steps=steps)
    holes = np.stack([result.mask.hole for result in results])[..., None]
    completed = np.stack([np.asarray(result.best) for result in results])
    damaged = np.where(holes, np.uint8(255), samples)
    return grid(np.concatenate([samples, damaged, completed]), _COLUMNS, min_cell=64)


def _monitored(file: Path) -> dict[str, Any]:
    """Return the scores of a run's best checkpoint by its monitor, or nothing."""
    best = next(
        (each for each in read_scores(file.parent / "monitor.jsonl")[::-1] if each.best), None
    )
    if best is None or not best.psnr or file.name != "best.safetensors":
        return {}
    return {
        "verdict": f"Held-out images of the run, at step {best.step:,}.",
        "masks": list(best.psnr),
        "rows": {"this model": best.psnr, "mean training image": best.psnr_of_mean},
    }


def _evaluated(folder: StorePath, digest: str) -> dict[str, Any]:
    """Return verdict and mean hole PSNR, by method and mask, of an evaluation of this model."""
    try:
        plan, report = ((folder / name).read_json() for name in ("plan.json", "report.json"))
        rows: dict[str, dict[str, float]] = {}
        for cell in report["table"]:
            rows.setdefault(cell["method"], {})[cell["mask"]] = float(cell["psnr"]["mean"])
        scores = {
            "verdict": f"{report['verdict']} ({report['images']['count']:,} unseen images.)",
            "masks": list(dict.fromkeys(cell["mask"] for cell in report["table"])),
            "rows": rows,
        }
        evaluated = plan["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: holds no finished evaluation; run it again") from error
    if evaluated != digest:
        raise InputError(f"{folder}: evaluates another model file; evaluate this one")
    return scores
