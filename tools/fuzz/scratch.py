"""A folder for what must be read from a file: in memory where there is such a place, gone with the process."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

__all__ = ["fresh", "scratch"]


@cache
def scratch() -> Path:
    """Return this process's folder."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def fresh(name: str) -> Path:
    """Return an empty folder of this name in it."""
    folder = scratch() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
