"""One target under atheris, in a process of its own: `python -m tools.fuzz.hunt NAME [libFuzzer's options]`."""

import sys

import atheris

from tools.fuzz.targets import TARGETS

_GUIDING = ["pixmend", "PIL", "python_multipart", "starlette.formparsers", "tomllib"]


def main() -> None:
    """Hunt until libFuzzer's options say stop, or a promise is broken."""
    target = TARGETS[sys.argv.pop(1)]
    # Coverage guides the bytes through this project and the parsers under it, which are imported here.
    with atheris.instrument_imports(include=_GUIDING):
        for seed in target.seeds():
            target.check(seed)
    atheris.Setup(sys.argv, target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
