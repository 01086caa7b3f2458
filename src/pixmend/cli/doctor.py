"""pixmend doctor."""

import re
from collections.abc import Iterator
from importlib import metadata

from typer import Exit

import pixmend
from pixmend.cli.terminal import print_facts, stdout
from pixmend.errors import install_hint

# Extras of development: users miss nothing without them.
_DEVELOPMENT = {"test", "dev", "fonts", "fuzz", "supply"}


def doctor() -> None:
    """Check the installation: device, threads, versions, missing packages and extras."""
    import platform

    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    versions = {name: _version(name) for name in _requirements("")}
    print_facts({"pixmend": pixmend.__version__, "python": system, **versions})
    problems = [f"{name} is missing: pip install {name}" for name in versions if not versions[name]]
    # Most of pixmend cannot be imported while a package is missing.
    problems = problems or _examine()
    for extra in metadata.metadata("pixmend").get_all("Provides-Extra") or []:
        if extra not in _DEVELOPMENT:
            complete = all(map(_version, _requirements(extra)))
            state = "installed" if complete else f"not installed; {install_hint(extra)}"
            stdout.print(f"extra     {extra}: {state}")
    for problem in problems:
        stdout.print(f"missing   {problem}")
    if problems:
        raise Exit(2)
    stdout.print("installation complete")


def _requirements(extra: str) -> Iterator[str]:
    """Yield the packages that pixmend needs, or with ``extra`` those of an extra."""
    for line in metadata.requires("pixmend") or []:
        name, *_ = re.split(r"[^\w.-]", line)
        marker = re.search(r"extra == .(\w+)", line)
        if (marker[1] if marker else "") == extra:
            yield name


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _examine() -> list[str]:
    """Print the device and the bundled models; return problems of the installed packages."""
    import torch
    from google_crc32c import implementation

    from pixmend.distributed import choose_device, describe_device
    from pixmend.models import BUNDLED, load_model

    stdout.print(f"device    {describe_device(choose_device())}")
    if not torch.cuda.is_available():
        stdout.print(
            "          torch sees no CUDA GPU: training takes hours, completion is fast enough"
        )
    for path in sorted(BUNDLED.glob("*.safetensors")):
        load_model(path)
        stdout.print(f"bundled   {path.stem} ({path.stat().st_size / 1e6:.1f} MB, intact)")
    if implementation == "c":
        return []
    return ["google-crc32c runs as slow pure Python: install its wheel for this platform"]
