"""pixmend info."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from pixmend.cli.pack import describe_records
from pixmend.cli.terminal import print_facts, to_json
from pixmend.cli.train import describe_networks, describe_scores
from pixmend.errors import counted
from pixmend.loading import is_onnx
from pixmend.storage import StorePath, split_pin


def info(
    path: Annotated[str, Argument(help="Model, checkpoint, run directory or record folder.")],
    as_json: Annotated[bool, Option("--json", help="Print all facts, as JSON.")] = False,
) -> None:
    """Show the contents of a model, run or record folder."""
    url, pin = split_pin(path)
    folder = StorePath.of(url)
    if pin or (folder.local is None and folder.suffix == ".safetensors"):
        facts, lines = _model(path)
    elif (folder / "manifest.json").is_file():
        facts, lines = _records(folder)
    elif folder.local is not None and (folder / "run.json").is_file():
        facts, lines = _run(folder.local)
    elif is_onnx(path):
        facts, lines = _onnx(path)
    else:
        facts, lines = _model(path)
    if as_json:
        print(to_json(facts))
    else:
        print_facts({**lines, "all facts": "pixmend info --json"})


def _records(folder: StorePath) -> tuple[dict[str, Any], dict[str, object]]:
    from pixmend.records import Manifest

    manifest = Manifest.read(folder)
    names = ", ".join(manifest.classes[:8])
    return {"kind": "records", "path": str(folder), **manifest.model_dump(mode="json")}, {
        "records": folder,
        "contents": f"{describe_records(manifest)}; fit {manifest.settings.fit}",
        "classes": f"{names} ..." if len(manifest.classes) > 8 else names,
        "left out": counted(manifest.left_out, "unusable input"),
    }


def _onnx(path: str) -> tuple[dict[str, Any], dict[str, object]]:
    from pixmend.onnx.runtime import OnnxModel

    facts = OnnxModel.load(path).facts
    return {"kind": "onnx", "path": path, **facts}, {
        "model": f"{path} (ONNX, weights {facts['weights']})",
        "draws": facts["card"].get("title", ""),
        "images": f"up to {facts['max_side']} px a side; the model sees {facts['size']} px {facts['channels']}",
        "licence": facts["licence"] or "",
    }


def _run(folder: Path) -> tuple[dict[str, Any], dict[str, object]]:
    from pixmend.models import find_model
    from pixmend.training import RunDirectory, read_recipe
    from pixmend.training.monitor import read_scores
    from pixmend.training.run_directory import read_lines

    run = RunDirectory(folder)
    settings, log = read_recipe(run.settings), read_lines(run.log)
    best = next((each for each in reversed(read_scores(run.scores)) if each.best), None)
    has_model = run.model.exists() or run.best.exists()
    facts = {
        "kind": "run",
        "path": str(folder),
        "settings": settings,
        "checkpoints": [path.name for path in sorted(run.checkpoints.glob("step-*.safetensors"))],
        "model": str(find_model(folder)) if has_model else "none yet",
        "animation": str(run.animation) if run.animation.exists() else "none yet",
        **({"best": asdict(best)} if best else {}),
        **({"last line of log": log[-1]} if log else {}),
    }
    return facts, {
        "run": folder,
        "net": describe_networks(settings),
        "trained": _counts(log[-1] if log else {}, step="step", images="seen image"),
        "best": describe_scores(best) if best else "no scores yet",
        "checkpoints": ", ".join(facts["checkpoints"]) or "none yet",
        "model": facts["model"],
        "animation": facts["animation"],
    }


def _model(name: str) -> tuple[dict[str, Any], dict[str, object]]:
    from pixmend.model_header import local_model, read_header

    path = local_model(name)
    if path is None:
        from pixmend.models import find_model

        path = find_model(name)
    header = read_header(path)
    kind, size = header.pop("kind"), f"{path.stat().st_size / 1e6:.1f} MB"
    card = _object(header.get("card"))
    figures, count = _object(card.get("figures")), header.get("retrieval_count", 0)
    examples = card.pop("examples", [])
    facts = {"kind": kind, "path": str(path), "size": size}
    held_out = len(examples) if isinstance(examples, list) else 0
    counts = ((count, "training image"), (held_out, "held-out image"))
    if contents := " and ".join(counted(number, word) for number, word in counts if number):
        # Whoever passes the file on should know this.
        facts["contains"] = f"{contents}, visible to anyone who has the file"
    return {**facts, **header}, {
        kind: f"{path} ({size})",
        "draws": card.get("title", ""),
        "net": describe_networks(_object(header.get("settings"))),
        "trained": _counts(
            {**header, **card},
            steps="step",
            images_seen="seen image",
            training_images="training image",
            classes="class",
            held_out_images="held-out image",
        ),
        "figures": "; ".join(f"{key} {figures[key]}" for key in figures if key != "what"),
        "of": figures.get("what", ""),
        "calibrated": "yes, completions have a confidence" if "calibration" in card else "no",
        "contains": facts.get("contains", ""),
        "licence": card.get("licence", ""),
    }


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _counts(facts: dict[str, Any], **words: str) -> str:
    """Return the numbers of ``facts`` with their nouns, without those that are missing."""
    numbers = ((facts.get(key), word) for key, word in words.items())
    return ", ".join(counted(value, word) for value, word in numbers if isinstance(value, int))
