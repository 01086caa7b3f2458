"""pixmend info."""

from pathlib import Path
from typing import Annotated, Any

import typer


def info(
    path: Annotated[
        str, typer.Argument(help="A model, a checkpoint, a run directory or a record folder.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model, run or record folder holds."""
    import json

    facts = _facts(path)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    from rich.table import Table

    from pixmend.cli.terminal import out

    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in _flat(facts):
        table.add_row(key, str(value))
    out.print(table, markup=False)


def _facts(path: str) -> dict[str, Any]:
    folder = Path(path)
    if (folder / "manifest.json").is_file():
        return _records(folder)
    if (folder / "run.json").is_file():
        return _run(folder)
    return _model(path)


def _records(folder: Path) -> dict[str, Any]:
    from pixmend.records import Manifest

    return {"kind": "records", "path": str(folder), **Manifest.read(folder).model_dump(mode="json")}


def _run(folder: Path) -> dict[str, Any]:
    from pixmend.training import RunDirectory, read_recipe

    run = RunDirectory(folder)
    last = _last_line(run.log)
    facts = {
        "kind": "run",
        "path": str(folder),
        "settings": read_recipe(run.settings),
        "checkpoints": [path.name for path in sorted(run.checkpoints.glob("step-*.safetensors"))],
        "model": str(run.model) if run.model.exists() else "none yet",
        "film": str(run.film) if run.film.exists() else "none yet",
    }
    if last is not None:
        facts["last line of log"] = last
    return facts


def _last_line(log: Path) -> dict[str, Any] | None:
    """Return the last whole line of a log: a run that was killed may have left half a line after it."""
    import json

    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            continue
    return None


def _model(model: str) -> dict[str, Any]:
    from pixmend.models import find_model, read_header

    path = find_model(model)
    header = read_header(path)
    return {
        "kind": header["kind"],
        "path": str(path),
        "size": f"{path.stat().st_size / 1e6:.1f} MB",
        **_inside(header),
        **{key: value for key, value in header.items() if key != "kind"},
    }


def _inside(header: dict[str, Any]) -> dict[str, str]:
    """Return what a file's holder should know before it is passed on."""
    count = header.get("retrieval_count", 0)
    if not count:
        return {}
    return {"contains": f"{count:,} of its training images, which anyone who has the file can see"}


def _flat(facts: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and len(value) > 12:
            rows.append(
                (
                    prefix + key,
                    f"{', '.join(map(str, value[:8]))} ... ({len(value)} in all; --json shows all)",
                )
            )
        elif isinstance(value, list):
            rows.append((prefix + key, ", ".join(map(str, value))))
        else:
            rows.append((prefix + key, value))
    return rows
