"""The command line, one file per verb; no other room prints."""

from pixmend.cli.main import main

__all__ = ["main"]
