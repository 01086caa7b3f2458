"""Fuzz targets of settings: recipe files and overrides."""

import contextlib
from collections.abc import Iterator

from pixmend.errors import SettingsError
from pixmend.training import parse_overrides, read_recipe, recipe_names, resolve, to_toml
from tools.fuzz.scratch import scratch

__all__ = ["check_settings", "settings_seeds"]


def check_settings(content: bytes) -> None:
    """A recipe or override is refused with a message, or gives settings that round-trip."""
    path = scratch() / "recipe.toml"
    path.write_bytes(content)
    with contextlib.suppress(SettingsError):
        _check_kept(read_recipe(path))
    with contextlib.suppress(SettingsError):
        _check_kept(parse_overrides(content.decode("utf-8", "replace").splitlines()))


def _check_kept(values: dict[str, object]) -> None:
    settings = resolve(values)
    kept = scratch() / "settings.toml"
    kept.write_text(to_toml(settings), encoding="utf-8")
    assert resolve(read_recipe(kept)) == settings


def settings_seeds() -> Iterator[bytes]:
    """Yield the bundled recipes without comments, and values of every type."""
    for path in recipe_names().values():
        lines = path.read_text(encoding="utf-8").splitlines()
        yield "\n".join(line for line in lines if line and line[0] != "#").encode()
    yield b'diffaugment = "colour, cutout"\nr1_gamma = 1e3\nminutes = 0.5\nspectral_norm = true\nseed = 0x7f\n'
    yield b"background = '#f0e0d0'\ndevice = \"cuda:1\"\n"
