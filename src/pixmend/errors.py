"""What can go wrong through no bug of ours.

Every error here names the file, the field and the fix, in one line that a user can act on.

    PixmendError
    ├── InputError           what was handed over cannot be used
    │   ├── ImageError       an image is missing, unreadable, too large or of an unknown kind
    │   ├── MaskError        a mask does not parse, does not fit, or leaves nothing to do
    │   ├── MissingError     nothing is at a path or URL
    │   └── RecordError      a record shard is broken (says which, and at what byte)
    ├── SettingsError        a setting or recipe key is unknown or out of range
    ├── ModelFileError       a model file or checkpoint is truncated, altered or of another version
    │   └── VersionError     a newer pixmend wrote it
    ├── RunError             a run directory holds another run, or no usable checkpoint
    │   ├── DivergedError    training met values that are not finite
    │   └── PeerError        another process of the group ended
    ├── StoreError           a store cannot be reached, refuses, or keeps failing; what was to be read there may be good
    ├── ServerError          a pixmend server cannot be reached, or refuses
    ├── ClusterError         a cluster cannot be reached, or its machines do not fit each other
    └── OutputError          a result cannot be written

StoppedError is no error but the way out of a loop that was asked to stop. Anything else that escapes is a bug and keeps its
traceback.
"""

__all__ = [
    "ClusterError",
    "DivergedError",
    "ImageError",
    "InputError",
    "MaskError",
    "MissingError",
    "ModelFileError",
    "OutputError",
    "PeerError",
    "PixmendError",
    "RecordError",
    "RunError",
    "ServerError",
    "SettingsError",
    "StoppedError",
    "StoreError",
    "VersionError",
]


class PixmendError(Exception):
    """Base of all errors a user can mend; the command line shows it as one line, exit code 2."""


class InputError(PixmendError):
    """What was handed over cannot be used."""


class ImageError(InputError):
    """An image is missing, unreadable, too large or of an unknown kind."""


class MaskError(InputError):
    """A mask does not parse, does not fit its image, or leaves nothing to do."""


class MissingError(InputError):
    """Nothing is at a path or URL."""


class RecordError(InputError):
    """A record shard is broken.

    Parameters
    ----------
    message
        One line that names the shard, the byte offset and the fix.
    shard, offset
        Where: the file's path, and the byte at which the broken record starts.
    """

    def __init__(self, message: str, *, shard: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.shard = shard
        self.offset = offset


class SettingsError(PixmendError):
    """A setting or recipe key is unknown or out of range."""


class ModelFileError(PixmendError):
    """A model file or checkpoint is truncated, altered or of another version."""


class VersionError(ModelFileError):
    """A model file or checkpoint is of a version that this program does not read; the file itself may be good."""


class RunError(PixmendError):
    """A run directory holds another run, or no usable checkpoint."""


class DivergedError(RunError):
    """Training met values that are not finite, again after it was rolled back."""


class PeerError(RunError):
    """Another process of the group ended."""


class StoreError(PixmendError):
    """A store cannot be reached, refuses, or keeps failing.

    It says nothing about the file that was asked for: who goes on without bad inputs does not go on without this one.
    """


class ServerError(PixmendError):
    """A pixmend server cannot be reached, or refuses; the message is the server's own."""


class ClusterError(PixmendError):
    """A cluster cannot be reached, or its machines do not fit each other."""


class OutputError(PixmendError):
    """A result cannot be written."""


class StoppedError(Exception):
    """The user asked to stop: unwinds the work in hand; what was finished is safe and the same command goes on."""
