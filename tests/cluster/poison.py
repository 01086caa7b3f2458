"""Images that kill workers of the test cluster, as a decoder with a fault would; and the workers' stores."""

import functools
import os
import signal

from PIL import Image

POISON = b"poison"


def arm():
    """Make decoders crash on files that end in POISON; each worker process calls this at its start."""
    from pixmend.images import image_files
    from pixmend.records import shards
    from tests import stores  # noqa: F401 - makes them known to a worker

    sound = image_files.decode_image

    @functools.wraps(sound)
    def decode(content, *arguments, **named):
        if content.endswith(POISON):
            os.kill(os.getpid(), signal.SIGSEGV)
        return sound(content, *arguments, **named)

    image_files.decode_image = shards.decode_image = decode


def poison(path):
    """Save a valid image that crashes only an armed decoder."""
    Image.new("RGB", (9, 9), "red").save(path)
    path.write_bytes(path.read_bytes() + POISON)
