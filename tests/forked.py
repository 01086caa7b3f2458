"""Programs in forks of this process: it has imported torch already, for which a new process takes seconds."""

import os
import runpy
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from pixmend.cli import main


def forked(work, cwd=None):
    """Do ``work`` in a child process; return its exit code, stdout and stderr as `subprocess.run` does."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside idle threads
            child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            os.chdir(cwd or ".")
            os._exit(_code_of(work))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = [file.seek(0) or file.read() for file in (out, err)]
        return subprocess.CompletedProcess([], code, *texts)


def verb(*arguments, cwd=None):
    """Run ``pixmend ARGUMENTS``."""

    def work():
        sys.argv = ["pixmend", *map(str, arguments)]
        main()

    return forked(work, cwd)


def script(path, *arguments):
    """Run ``python PATH ARGUMENTS``."""

    def work():
        sys.argv = [str(path), *map(str, arguments)]
        sys.path.insert(0, str(Path(path).parent))
        runpy.run_path(str(path), run_name="__main__")

    return forked(work)


def _code_of(work):
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    code = 0
    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code
