"""pixmend info."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from typer import Argument, Option

from pixmend.cli.terminal import stdout
from pixmend.storage import StorePath


def info(
    path: Annotated[str, Argument(help="Model, checkpoint, run directory or record folder.")],
    as_json: Annotated[bool, Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Show the contents of a model, run or record folder."""
    facts = _facts(path)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in _rows(facts):
        table.add_row(key, value)
    stdout.print(table)


def _facts(path: str) -> dict[str, Any]:
    folder = StorePath.of(path)
    if (folder / "manifest.json").is_file():
        from pixmend.records import Manifest

        manifest = Manifest.read(folder).model_dump(mode="json")
        return {"kind": "records", "path": str(folder), **manifest}
    if folder.local is not None and (folder / "run.json").is_file():
        return _run(folder.local)
    return _model(path)


def _run(folder: Path) -> dict[str, Any]:
    from pixmend.training import RunDirectory, read_recipe

    run = RunDirectory(folder)
    last = _last_line(run.log)
    return {
        "kind": "run",
        "path": str(folder),
        "settings": read_recipe(run.settings),
        "checkpoints": [path.name for path in sorted(run.checkpoints.glob("step-*.safetensors"))],
        "model": str(run.model) if run.model.exists() else "none yet",
        "film": str(run.film) if run.film.exists() else "none yet",
        **({} if last is None else {"last line of log": last}),
    }


def _last_line(log: Path) -> dict[str, Any] | None:
    """Return the last whole line of a log; a killed run may leave half a line after it."""
    place = StorePath(log)
    lines = place.read_text().splitlines() if place.exists() else []
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            continue
    return None


def _model(name: str) -> dict[str, Any]:
    from pixmend.models import find_model, read_header

    path = find_model(name)
    header = read_header(path)
    facts = {"kind": header.pop("kind"), "path": str(path)}
    facts["size"] = f"{path.stat().st_size / 1e6:.1f} MB"
    if count := header.get("retrieval_count", 0):
        # Whoever passes the file on should know this.
        facts["contains"] = f"{count:,} training images, visible to anyone who has the file"
    return {**facts, **header}


def _rows(facts: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield one row per value; keys of nested values are joined by dots."""
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            shown = ", ".join(map(str, value if len(value) <= 12 else value[:8]))
            more = "" if len(value) <= 12 else f" ... ({len(value)} in all; --json shows all)"
            yield prefix + key, shown + more
        else:
            yield prefix + key, str(value)
