"""A temporary folder of this process, in memory where possible."""

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
    """Return an empty folder of that name in `scratch`."""
    folder = scratch() / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
