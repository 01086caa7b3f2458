"""The `pixmend` program: its verbs and its exit codes."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

import pixmend
from pixmend.cli.complete import complete
from pixmend.cli.demo import demo
from pixmend.cli.doctor import doctor
from pixmend.cli.evaluate import evaluate
from pixmend.cli.export_model import export
from pixmend.cli.info import info
from pixmend.cli.pack import pack
from pixmend.cli.push import push
from pixmend.cli.sample import sample
from pixmend.cli.serve import serve
from pixmend.cli.terminal import LastingFile, stderr, stdout
from pixmend.cli.train import train
from pixmend.errors import PixmendError, StoppedError
from pixmend.loading import missing_package

app = typer.Typer(
    name="pixmend",
    help="Complete missing pixels of images with a DCGAN trained on your own image folder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (
    demo, pack, train, complete, export, evaluate, sample, info, push, serve, doctor,
):  # fmt: skip
    app.command()(verb)


def _print_version(requested: bool) -> None:
    if requested:
        print(f"pixmend {pixmend.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    pass  # --version acts in its callback; the help text is the program's


def main() -> None:
    """Run the program: a `PixmendError` is one line and exit code 2, a bug keeps its traceback."""
    # Spinning OpenMP threads starve each other when several programs share the cores. Torch reads
    # the variable when it is imported, which no verb has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    output = LastingFile.replace("stdout")
    LastingFile.replace("stderr")
    for console in (stdout, stderr):
        if not console.is_terminal:
            console.width = 1000  # tables and bars are whole in a pipe or a file
    try:
        try:
            Path.cwd()
        except OSError:
            _exit("error: the current folder is gone; change to another one", 2)
        try:
            app()
        finally:
            if output is not None:
                sys.stdout.flush()
                output.check()
    except PixmendError as error:
        _exit(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        verb = next((each for each in sys.argv[1:] if not each.startswith("-")), "")
        missing = missing_package(error, f"pixmend {verb}".rstrip())
        if missing is error:
            raise
        _exit(f"error: {missing}", 2)
    except (MemoryError, RuntimeError) as error:
        # Torch has a class for its devices, and words for the CPU; most verbs never import it.
        if not re.search("MemoryError|allocate memory", f"{type(error).__name__} {error}"):
            raise
        _exit("error: out of memory; close other programs, or lower --workers or --batch", 2)
    except StoppedError:
        _exit("stopped; run the same command again to resume", 130)
    except KeyboardInterrupt:
        _exit("stopped", 130)


def _exit(message: str, code: int) -> None:
    stderr.print(message)
    sys.exit(code)
