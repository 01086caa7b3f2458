"""pixmend doctor."""

import contextlib
import re
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

    extras = _versions()
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    packages, train = extras.pop(""), extras.get("train", {})
    trains = any(train.values())  # without, ONNX files can be completed with
    if trains:
        packages |= train
    print_facts({"pixmend": pixmend.__version__, "python": system, **packages})
    problems = [f"{name} is missing: pip install {name}" for name, v in packages.items() if not v]
    # Most of pixmend cannot be imported while a package is missing.
    if trains and not problems:
        problems = _examine()
    for extra in sorted(extras.keys() - _DEVELOPMENT):
        state = (
            "installed" if all(extras[extra].values()) else f"not installed; {install_hint(extra)}"
        )
        stdout.print(f"extra     {extra}: {state}")
    for problem in problems:
        stdout.print(f"missing   {problem}")
    if problems:
        raise Exit(2)
    stdout.print("installation complete")


def _versions() -> dict[str, dict[str, str]]:
    """Return the version of each requirement, "" if missing, by extra; "" is without one."""
    versions: dict[str, dict[str, str]] = {"": {}}
    for line in metadata.requires("pixmend") or []:
        name, marker = re.split(r"[^\w.-]", line)[0], re.search(r"extra == .(\w+)", line)
        packages = versions.setdefault(marker[1] if marker else "", {})
        packages[name] = ""
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return versions


def _examine() -> list[str]:
    """Print the device and the bundled models; return problems of the installed packages."""
    import torch
    from google_crc32c import implementation

    from pixmend.distributed import choose_device, describe_device
    from pixmend.hardware import is_fast_in_bfloat16
    from pixmend.models import BUNDLED, load_model

    device = choose_device()
    fast = "bfloat16" if is_fast_in_bfloat16(device) else "float32"
    hint = "" if torch.cuda.is_available() else "; no CUDA GPU: choose --minutes"
    stdout.print(f"device    {describe_device(device)}, trains in {fast}{hint}")
    for path in sorted(BUNDLED.glob("*.safetensors")):
        load_model(path)
        stdout.print(f"bundled   {path.stem} ({path.stat().st_size / 1e6:.1f} MB, intact)")
    if implementation == "c":
        return []
    return ["google-crc32c runs as slow pure Python: install its wheel for this platform"]
