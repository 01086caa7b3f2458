"""The command line: one file a verb. Only this room prints."""

from pixmend.cli.app import main

__all__ = ["main"]
