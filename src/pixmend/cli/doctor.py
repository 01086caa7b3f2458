"""pixmend doctor."""

import typer

_PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "pydantic",
    "typer",
    "rich",
    "google-crc32c",
)


def doctor() -> None:
    """Show device, threads and versions; what is missing, and how to get it."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import pixmend
    from pixmend.cli.terminal import out

    problems = []
    out.print(f"pixmend   {pixmend.__version__}")
    out.print(f"python    {platform.python_version()} on {platform.system()} {platform.machine()}")
    for name in _PACKAGES:
        try:
            out.print(f"{name:<13} {version(name)}")
        except PackageNotFoundError:
            problems.append(f"{name} is missing: pip install {name}")
    # What is missing cannot be imported, and most of pixmend imports it.
    problems = problems or _examine()
    for problem in problems:
        out.print(f"missing   {problem}", markup=False)
    if problems:
        raise typer.Exit(2)
    out.print("all there")


def _examine() -> list[str]:
    """Show the device and the bundled models, and return what is wrong with what is installed."""
    import torch
    from google_crc32c import implementation

    from pixmend.cli.terminal import out
    from pixmend.distributed import choose_device, describe_device
    from pixmend.models import BUNDLED, load_model

    out.print(f"device    {describe_device(choose_device())}")
    if not torch.cuda.is_available():
        out.print("          no CUDA GPU seen by torch: training takes hours; completing is fine")
    for path in sorted(BUNDLED.glob("*.safetensors")):
        load_model(path)
        out.print(f"bundled   {path.stem} ({path.stat().st_size / 1e6:.1f} MB, whole)")
    if implementation == "c":
        return []
    return [
        "google-crc32c runs in pure Python, slowly: reinstall it from a wheel for this platform"
    ]
