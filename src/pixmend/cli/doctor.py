"""pixmend doctor."""

from typer import Exit

import pixmend
from pixmend.cli.terminal import stdout

_PACKAGES = [
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "pydantic",
    "typer",
    "rich",
    "google-crc32c",
]


def doctor() -> None:
    """Check the installation: device, threads, versions and missing packages."""
    import platform
    from importlib import metadata

    problems = []
    stdout.print(f"pixmend   {pixmend.__version__}")
    stdout.print(
        f"python    {platform.python_version()} on {platform.system()} {platform.machine()}"
    )
    for name in _PACKAGES:
        try:
            stdout.print(f"{name:<13} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            problems.append(f"{name} is missing: pip install {name}")
    # Most of pixmend cannot be imported while a package is missing.
    problems = problems or _examine()
    for problem in problems:
        stdout.print(f"missing   {problem}")
    if problems:
        raise Exit(2)
    stdout.print("installation complete")


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
