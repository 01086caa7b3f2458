"""Fuzz one target with atheris: `python -m tools.fuzz.hunt NAME [libFuzzer options]`."""

import sys

import atheris

from tools.fuzz.targets import TARGETS

_GUIDING = ["pixmend", "PIL", "python_multipart", "starlette.formparsers", "tomllib"]


def main() -> None:
    """Fuzz until libFuzzer's limits are reached or a promise is broken."""
    target = TARGETS[sys.argv.pop(1)]
    # atheris instruments modules imported here: this project and the parsers below it.
    with atheris.instrument_imports(include=_GUIDING):
        for seed in target.seeds():
            target.check(seed)
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
