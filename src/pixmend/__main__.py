"""``python -m pixmend``: the command line."""

from pixmend.cli import main

main()
