"""Contents of wheel and sdist: required and forbidden files."""

import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["names_in", "objections"]

_MUST = (
    "pixmend/py.typed",
    "pixmend/bundled/characters.safetensors",
    "pixmend/recipes/characters.toml",
    "pixmend/serve/page/index.html",
)
_WEIGHTS = (".safetensors", ".pt", ".pth", ".ckpt", ".npz", ".onnx", ".tfrecord")
_LICENCES = ("LICENSE", "src/pixmend/bundled/characters/LICENCES.md")  # in the metadata
_SOURCES = (
    *("README.md", "LICENSE", "SECURITY.md", "CHANGELOG.md", "pyproject.toml", "Makefile"),
    *("constraints.txt", "requirements.lock", "requirements-torch.lock"),
    *("tests/conftest.py", "tools/supply/contents.py", "benchmarks/serving.py"),
)
_NEVER = ("bench/", ".git/", "__pycache__/", ".venv", ".pyc")


def names_in(archive: Path) -> list[str]:
    """Return the file names of a wheel or sdist; an sdist's without its top folder and ``src/``."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            return opened.namelist()
    with tarfile.open(archive) as opened_tar:
        names = [member.name.partition("/")[2] for member in opened_tar if member.isfile()]
    return [name.removeprefix("src/") for name in names]


def objections(names: Iterable[str], *, wheel: bool) -> list[str]:
    """Return the faults of a package with these files, one line each."""
    files = set(names)
    faults = [
        f"{name} is missing" for name in [*_MUST, *_needed(files, wheel)] if name not in files
    ]
    for name in sorted(files):
        if any(part in f"/{name}" for part in (f"/{never}" for never in _NEVER)):
            faults.append(f"{name} must not be shipped")
        if name.endswith(_WEIGHTS) and not name.startswith(("pixmend/bundled/", "tests/")):
            faults.append(f"{name} contains weights or data")
        if wheel and not name.startswith(("pixmend/", "pixmend-")):
            faults.append(f"{name} is outside the package")
    return faults


def _needed(files: set[str], wheel: bool) -> Iterable[str]:
    if not wheel:
        return _SOURCES
    metadata = next((name.partition("/")[0] for name in files if ".dist-info/" in name), "")
    return [f"{metadata}/licenses/{name}" for name in _LICENCES]
