"""Errors that a user can fix: each names the file, the field and the fix, in one line.

`StoppedError` is not an error but the way out of a loop on request. Any other exception is a bug and
keeps its traceback.
"""


def install_hint(extra: str) -> str:
    """Return how to install an optional extra, which an index may not offer yet."""
    return f"pip install 'pixmend[{extra}]', or '.[{extra}]' in a checkout"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2,000 images", "3 classes"."""
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


class PixmendError(Exception):
    """Base of all errors that a user can fix; the command line shows one line, exit code 2."""


class InputError(PixmendError):
    """The input cannot be used."""


class ImageError(InputError):
    """An image is missing, unreadable, too large or of an unknown kind."""


class MaskError(InputError):
    """A mask is invalid, does not fit its image, or leaves nothing to do."""


class MissingError(InputError):
    """Nothing is at a path or URL."""


class RecordError(InputError):
    """A record shard is broken; the message names it, and the byte at which the record starts."""


class SettingsError(PixmendError):
    """A setting or recipe key is unknown or out of range."""


class ModelFileError(PixmendError):
    """A model file or checkpoint is truncated, altered or of another version."""


class VersionError(ModelFileError):
    """A model file or checkpoint has a version that this program cannot read."""


class RunError(PixmendError):
    """A run directory holds another run, or no usable checkpoint."""


class DivergedError(RunError):
    """Training met values that are not finite, again after its rollback."""


class PeerError(RunError):
    """Another process of the group ended."""


class StoreError(PixmendError):
    """A store is unreachable, refuses or keeps failing.

    It says nothing about the requested file: batches that skip bad inputs stop at this error.
    """


class ServerError(PixmendError):
    """A pixmend server is unreachable or refuses; the message is the server's."""


class ClusterError(PixmendError):
    """A cluster is unreachable, or its machines do not match."""


class OutputError(PixmendError):
    """A result cannot be written."""


class StoppedError(Exception):
    """The user asked to stop; finished work is safe, and the same command continues."""
