"""Child processes that decode files of strangers, bounded in memory and time."""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.images import decoding

SECONDS = 30.0  # for one image; the largest take 6 on a core at rest
_SAMPLES = {"I;16": "<u2", "F": "=f4"}  # of modes whose samples are not bytes
_Answer = tuple[NDArray[Any], str, dict[str, Any]]


class DecoderProcess:
    """A child that decodes an image at a time; it ends with the process that started it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-P", decoding.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            pipesize=2**20,  # few switches between processes
            start_new_session=True,  # Ctrl-C is for the program that started it
        )

    def decode(self, content: bytes, max_pixels: int, formats: tuple[str, ...]) -> _Answer | str:
        """Return the answer or the reason of a refusal; OSError or EOFError if the child died."""
        requests: Any = self.process.stdin
        answers: Any = self.process.stdout
        head = json.dumps([len(content), max_pixels, formats, SECONDS])
        requests.write(f"{head}\n".encode())
        requests.write(content)
        requests.flush()
        if not (line := answers.readline()):
            raise EOFError
        answer = json.loads(line)
        if "error" in answer:
            return str(answer["error"])
        mode, facts = answer["mode"], answer["facts"]
        facts["info"] |= {key: answers.read(size) for key, size in answer["blobs"]}
        samples = np.empty(answer["shape"], _SAMPLES.get(mode, "u1"))
        if answers.readinto(samples.data.cast("B")) != samples.nbytes:
            raise EOFError
        return (samples != 0 if mode == "1" else samples), mode, facts

    def close(self) -> int:
        """End it; return its exit code."""
        self.process.kill()
        with contextlib.suppress(BrokenPipeError), self.process:
            pass
        return self.process.returncode


# By process, for a fork must not share pipes: two children at a time, to bound their memory.
_pools = defaultdict[int, tuple[threading.Semaphore, list[DecoderProcess]]](
    lambda: (threading.Semaphore(2), [])
)


def decode_apart(content: bytes, max_pixels: int, formats: tuple[str, ...]) -> _Answer:
    """Decode a file in a child: samples [H, W] or [H, W, bands], PIL's mode, and the other facts.

    RefusedError if it cannot be used, or needs more memory or time than a child has.
    """
    slots, idle = _pools[os.getpid()]
    with slots:
        decoder = idle.pop() if idle else DecoderProcess()
        if decoder.process.poll() is not None:  # it died of something else
            decoder.close()
            decoder = DecoderProcess()
        try:
            answer = decoder.decode(content, max_pixels, formats)
        except BaseException as error:
            code = decoder.close()
            if not isinstance(error, OSError | EOFError):
                raise
            is_late = code == -signal.SIGALRM
            reason = f"takes over {SECONDS:g} s" if is_late else f"ended with exit code {code}"
            raise decoding.RefusedError(
                f"its decoding {reason}, for damage or lack of memory; save it anew"
            ) from None
        idle.append(decoder)
    if isinstance(answer, str):
        raise decoding.RefusedError(answer)
    return answer


@atexit.register
def _close_all() -> None:
    for decoder in _pools[os.getpid()][1]:
        decoder.close()
