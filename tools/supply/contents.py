"""What a wheel and an sdist hold, and what they must not."""

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
_TOOLS = ("fuzz/", "mutation/", "prove/", "bench/")
_NEVER = ("tests/", ".git/", "__pycache__/", ".venv", ".pyc", *_TOOLS)


def names_in(archive: Path) -> list[str]:
    """Return the names of a wheel's or an sdist's files; an sdist's are told from its top folder and ``src/``."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            return opened.namelist()
    with tarfile.open(archive) as opened_tar:
        names = [member.name.partition("/")[2] for member in opened_tar if member.isfile()]
    return [name.removeprefix("src/") for name in names]


def objections(names: Iterable[str], *, wheel: bool) -> list[str]:
    """Return what is wrong with a package of these files, a line each."""
    held = set(names)
    must = [*_MUST, *([] if wheel else ["README.md", "LICENSE", "pyproject.toml"])]
    if not wheel:
        # Recipes lie at the top of the repository, and are put into the package when a wheel is built.
        must = [name.removeprefix("pixmend/") if "recipes" in name else name for name in must]
    found = [f"{name} is missing" for name in must if name not in held]
    for name in sorted(held):
        if any(part in f"/{name}" for part in (f"/{never}" for never in _NEVER)):
            found.append(f"{name} is not to be shipped")
        if name.endswith(_WEIGHTS) and not name.startswith("pixmend/bundled/"):
            found.append(f"{name} holds weights or data")
        if wheel and not name.startswith(("pixmend/", "pixmend-")):
            found.append(f"{name} is outside the package")
    return found
