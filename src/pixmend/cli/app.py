"""The program `pixmend`: its verbs, and what becomes of errors."""

import io
import os
import sys
from typing import Annotated

import typer

import pixmend
from pixmend.cli.complete import complete
from pixmend.cli.demo import demo
from pixmend.cli.doctor import doctor
from pixmend.cli.evaluate import evaluate
from pixmend.cli.info import info
from pixmend.cli.pack import pack
from pixmend.cli.sample import sample
from pixmend.cli.serve import serve
from pixmend.cli.train import train
from pixmend.errors import PixmendError, StoppedError

app = typer.Typer(
    name="pixmend",
    help="Complete the missing pixels of an image with a DCGAN trained on your own folder of images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for verb in (pack, train, sample, complete, serve, evaluate, info, doctor, demo):
    app.command()(verb)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"pixmend {pixmend.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Complete the missing pixels of an image with a DCGAN trained on your own folder of images."""


def main() -> None:
    """Run the program; what the user can mend is one line and exit code 2, a bug is a traceback."""
    # Threads that wait without spinning lose nothing on a machine at rest, and beside other programs they do not
    # starve each other. Read when torch is loaded, which no verb has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold bytes that are no UTF-8
    try:
        app()
    except PixmendError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except MemoryError:
        print(
            "error: not enough memory; close other programs, or give fewer --workers or a smaller --batch",
            file=sys.stderr,
        )
        sys.exit(2)
    except StoppedError:
        print("stopped; the same command goes on", file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, a closed pager) has seen enough; a flush at exit must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
