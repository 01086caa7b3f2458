"""What workers of the test cluster do to poisoned images: die, as a decoder with a fault would. And the stores that they know."""

import functools
import os
import signal

from PIL import Image

POISON = b"poison"


def arm():
    """Make decoders die of files that end in POISON; a worker process calls it when it starts."""
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
    """Save a good image that only an armed decoder dies of."""
    Image.new("RGB", (9, 9), "red").save(path)
    path.write_bytes(path.read_bytes() + POISON)
