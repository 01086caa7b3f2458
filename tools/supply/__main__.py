"""`python -m tools.supply VERB` checks floors, licences, sizes, imports, lock, contents or SBOM."""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from tools.supply.closure import closure, licence_of, megabytes
from tools.supply.contents import names_in, objections
from tools.supply.sbom import bill_of_materials

_ROOT = Path(__file__).parent.parent.parent
_LICENCES = _ROOT / "docs" / "licences.md"
_SHIPPED = ("pixmend[serve]",)
_ALL = ("pixmend[dev]",)
# 10^6 bytes on disk, without torch and its own needs; mostly NumPy and SciPy with a BLAS each.
_MOST_CORE = 250
_MOST_OF_OURS = 76  # the core without these two; 28 are the wheel
_MOST_SERVE = 10
_MOST_ONNX = 220  # mostly onnxruntime and NumPy
_MOST_WHEEL = 28  # with the bundled model, 21, and onnxruntime-web, 4
_NUMERICAL = ("torch", "numpy", "scipy")
# CPU seconds: ten times a good machine's, but too few to import torch by mistake.
_MOST_IMPORT = 1.5
_HEAVY = ("torch", "numpy", "scipy", "PIL", "fastapi", "ray", "rich")
# Licences that would bind distributors of programs that include this library.
_BINDING = ("GPL", "General Public", "SSPL", "Commons Clause", "not stated")
_BINDING_BUT = ("LGPL", "Lesser")


def main() -> None:
    """Run one verb."""
    verbs = {
        "floors": _floors,
        "licences": _licences,
        "sizes": _sizes,
        "imports": _imports,
        "contents": _contents,
        "smoke": _smoke,
        "lock": _lock,
        "sbom": _sbom,
    }
    parser = argparse.ArgumentParser(prog="python -m tools.supply", description=__doc__)
    parser.add_argument("verb", choices=verbs)
    parser.add_argument(
        "files", nargs="*", type=Path, help="Wheel and sdist, for contents and smoke."
    )
    asked = parser.parse_args()
    found = verbs[asked.verb](asked.files)
    for line in found:
        print(f"{asked.verb}: {line}", file=sys.stderr)
    sys.exit(int(bool(found)))


def _floors(_: Sequence[Path]) -> list[str]:
    """Print the floors of all requirements but torch, which is installed first, as constraints."""
    with (_ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    for text in sorted({line for each in lists for line in each}):
        need = Requirement(text)
        floors = [part.version for part in need.specifier if part.operator == ">="]
        if need.name not in ("pixmend", "torch") and floors:
            print(f"{need.name}=={floors[0]}")
    return []


def _licences(_: Sequence[Path]) -> list[str]:
    """Write docs/licences.md; reject licences that would bind distributors of pixmend."""
    shipped, everything = closure(_SHIPPED), closure(_ALL)
    lines = [
        "# Licences",
        "",
        "Dependencies of `pip install pixmend[serve]`, then those of the tests only, from package metadata.",
        "Written by `make supply`.",
        "",
    ]
    for title, held in (
        ("Installed", shipped),
        ("For tests alone", {k: v for k, v in everything.items() if k not in shipped}),
    ):
        lines += [f"## {title}", "", "| package | licence |", "|---|---|"]
        lines += [f"| {name} | {licence_of(package)} |" for name, package in held.items()]
        lines.append("")
    _LICENCES.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"{len(shipped)} packages installed, {len(everything)} with the tests: {_LICENCES.name}")
    return [
        f"{name}: {licence_of(package)}"
        for name, package in shipped.items()
        if any(word in licence_of(package) for word in _BINDING)
        and not any(word in licence_of(package) for word in _BINDING_BUT)
    ]


def _sizes(_: Sequence[Path]) -> list[str]:
    """Print the disk size of the core without torch, by package."""
    core = closure(["pixmend[train]"], without=["torch"])
    ours = {name: package for name, package in core.items() if name not in _NUMERICAL}
    serve = {k: v for k, v in closure(_SHIPPED, without=["torch"]).items() if k not in core}
    found = []
    for title, held, most in (
        ("core without torch", core, _MOST_CORE),
        ("core without torch, numpy and scipy", ours, _MOST_OF_OURS),
        ("serve, beside the core", serve, _MOST_SERVE),
        ("completion of ONNX files, without torch", closure(["pixmend[onnx]"]), _MOST_ONNX),
    ):
        sizes = {name: _size(name, package) for name, package in held.items()}
        total = sum(sizes.values())
        largest = sorted(sizes, key=lambda name: -sizes[name])[:5]
        said = ", ".join(f"{name} {sizes[name]:.1f}" for name in largest)
        print(f"{title}: {total:.0f} MB of {most} in {len(sizes)} packages: {said}")
        if total > most:
            found.append(f"{title} takes {total:.0f} MB, more than {most}")
    return found


def _size(name: str, package: Distribution) -> float:
    if name != "pixmend":
        return megabytes(package)
    # The metadata of an editable installation list no files.
    files = (_ROOT / "src" / "pixmend").rglob("*")
    return sum(f.stat().st_size for f in files if f.is_file() and f.suffix != ".pyc") / 1e6


def _imports(_: Sequence[Path]) -> list[str]:
    """Print the time of `import pixmend` and of the CLI; reject heavy packages in them."""
    found = []
    for statement in ("import pixmend", "import pixmend.cli"):
        code = (
            f"import sys, time; {statement}; print(time.process_time()); "
            "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
        )
        runs = [
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            for _ in range(5)
        ]
        seconds = min(float(run.stdout.splitlines()[0]) for run in runs)
        loaded = set(runs[0].stdout.splitlines()[1].split())
        print(f"{statement}: {seconds:.2f} CPU seconds, interpreter included")
        if seconds > _MOST_IMPORT:
            found.append(f"{statement} takes {seconds:.2f} CPU seconds, more than {_MOST_IMPORT}")
        heavy = sorted(loaded & set(_HEAVY) - ({"rich"} if "cli" in statement else set()))
        found += [f"{statement} imports {name}" for name in heavy]
    return found


def _lock(_: Sequence[Path]) -> list[str]:
    """Reject packages that the locks lack, or have without hashes or at another version."""
    files = (_ROOT / "requirements.lock", _ROOT / "requirements-torch.lock")
    text = "".join(file.read_text(encoding="utf-8") for file in files).replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if "==" in line and line[0] != "#"]
    locked = {line[0].partition("==")[0]: line for line in lines}
    found = []
    for name, package in closure(_ALL).items():
        if name == "pixmend":
            continue
        line = locked.get(name)
        # The local part of a version, such as +cpu, names a build of the same release.
        if line is None or line[0] != f"{name}=={package.version.partition('+')[0]}":
            found.append(f"{name} {package.version} is not in requirements.lock; run `make lock`")
        elif not any(part.startswith("--hash=sha256:") for part in line):
            found.append(f"{name} has no hash in requirements.lock; run `make lock`")
    print(f"the locks: {len(locked)} packages with {text.count('--hash')} hashes")
    return found


def _sbom(_: Sequence[Path]) -> list[str]:
    """Write build/pixmend.cdx.json: all packages of an installation with the server."""
    packages, path = closure(_SHIPPED), _ROOT / "build" / "pixmend.cdx.json"
    bill = bill_of_materials(packages, _ROOT / "src" / "pixmend" / "bundled")
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    print(f"{len(bill['components'])} components: {path.relative_to(_ROOT)}")
    return []


def _contents(files: Sequence[Path]) -> list[str]:
    """Check the contents of wheel and sdist."""
    found = [] if files else ["no file was built"]
    for file in files:
        wheel, names = file.suffix == ".whl", names_in(file)
        size = file.stat().st_size / 1e6
        print(f"{file.name}: {len(names)} files, {size:.1f} MB of {_MOST_WHEEL}")
        found += [f"{file.name}: {line}" for line in objections(names, wheel=wheel)]
        if size > _MOST_WHEEL:
            found.append(f"{file.name}: {size:.1f} MB, more than {_MOST_WHEEL}")
    return found


def _smoke(files: Sequence[Path]) -> list[str]:
    """Install each package into an empty environment outside the repository; complete an image."""
    found = []
    for file in files:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            python = place / "venv" / "bin" / "python"
            install = [python, "-m", "pip", "install", "--quiet", "-c", _ROOT / "constraints.txt"]
            steps: list[list[str | Path]] = [
                [sys.executable, "-m", "venv", place / "venv"],
                [*install, "torch"],
                [*install, f"{file.resolve()}[train]"],
                [python, "-m", "pip", "check"],
                [place / "venv" / "bin" / "pixmend", "--version"],
                [place / "venv" / "bin" / "pixmend", "demo", "--out", place / "demo"],
                [python, "-c", "import pixmend; [getattr(pixmend, n) for n in pixmend.__all__]"],
            ]
            for step in steps:
                ran = subprocess.run(step, cwd=folder, capture_output=True, text=True, check=False)
                if ran.returncode:
                    said = (ran.stdout + ran.stderr).strip().splitlines()[-1:]
                    found.append(f"{file.name}: {' '.join(map(str, step))}: {' '.join(said)}")
                    break
            else:
                drawn = len(list((place / "demo").rglob("*.png")))
                print(f"{file.name}: installed into an empty environment, generated {drawn} images")
                found += [] if drawn else [f"{file.name}: the demo drew nothing"]
    return found


if __name__ == "__main__":
    main()
