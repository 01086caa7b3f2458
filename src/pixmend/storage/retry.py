"""Retries of a store's calls, and error messages that hold no secret.

Transient failures (throttling, dropped connections, timeouts) are retried with exponential back-off. Lasting ones (nothing there, no
rights, no credentials) are raised at once.
"""

import errno
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

from pixmend.errors import MissingError, OutputError, PixmendError, StoreError

T = TypeVar("T")

ATTEMPTS = 6
_FIRST_WAIT = 0.1  # seconds, before the second attempt
# Errors of a refused request; 500 and 503 have other numbers.
_REFUSALS = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSPC)
_LASTING = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
# Packages with error classes of their own for network failures.
_STORES = {
    "adlfs",
    "aiobotocore",
    "aiohttp",
    "azure",
    "botocore",
    "fsspec",
    "gcsfs",
    "google",
    "s3fs",
}
_NO_CREDENTIALS = ("NoCredentials", "PartialCredentials", "DefaultCredentials", "ProfileNotFound")
_NO_RIGHTS = ("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_UNREACHABLE = ("EndpointConnection", "ConnectorError", "ConnectTimeout", "ConnectionRefused")
_SET_CREDENTIALS = (
    "credentials are missing; set them as the store's own tools want them "
    "(S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
)
_CLOCK = "the clock of this machine is wrong, and the store refuses what is signed at another time than its own; set the clock"
_EXPIRED = "the credentials have expired; get new ones"
# S3's codes for a wrong clock and for expired credentials.
_OUT_OF_TIME = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
}


def attempt(action: Callable[[], T], wait: Callable[[float], None] = time.sleep) -> T:
    """Call ``action``, retrying transient errors; lasting errors and bugs are raised at once."""
    for number in range(1, ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
        # Jitter of 50 to 100 %, so that many workers do not retry at once. It affects no result, so it needs no seed.
        longest = _FIRST_WAIT * 2 ** (number - 1)
        wait(longest * (0.5 + secrets.randbelow(1000) / 2000))
    return action()


def is_transient(error: BaseException) -> bool:
    """Whether the error is transient."""
    if not _is_store_error(error) or isinstance(error, _LASTING):
        return False
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return False
    if _has_name(error, _NO_CREDENTIALS) or _code(error) in _OUT_OF_TIME:
        return False
    return not (_without_rights(error) or _no_bucket(error))


def reading(path: str, error: Exception) -> Exception:
    """Return the error to raise where ``path`` cannot be read: one line, or ``error`` itself if it is a bug."""
    if isinstance(error, FileNotFoundError) and not _no_bucket(error):
        return MissingError(f"{path}: no such file or folder; check the path")
    if isinstance(error, PixmendError) or not _is_store_error(error):
        return error
    return StoreError(f"{path}: cannot be read: {_describe(error)}")


def writing(path: str, error: Exception) -> Exception:
    """Return the error to raise where ``path`` cannot be written: one line, or ``error`` itself if it is a bug."""
    if isinstance(error, PixmendError) or not _is_store_error(error):
        return error
    if isinstance(error, FileNotFoundError) and not _no_bucket(error):
        return OutputError(f"{path}: cannot be written: no such bucket or folder; make it first")
    return OutputError(f"{path}: cannot be written: {_describe(error)}")


def _describe(error: BaseException) -> str:
    """Describe the error and its remedy; a store's own message is never shown, as it may hold a key or a signed URL."""
    if _no_bucket(error):
        return "no such bucket; check its name, or make it first"
    if _has_name(error, _NO_CREDENTIALS):
        return _SET_CREDENTIALS
    # Checked before permissions, because both are raised as the same class.
    if _code(error) in _OUT_OF_TIME:
        return _OUT_OF_TIME[_code(error)]
    if _without_rights(error):
        return "no permission; ask for rights on this bucket, or use other credentials"
    if _has_name(error, _UNREACHABLE) or isinstance(error, ConnectionRefusedError):
        return (
            "the store cannot be reached; check the network and the endpoint (S3: AWS_ENDPOINT_URL)"
        )
    reason = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        reason += f", {errno.errorcode.get(error.errno, error.errno)}"
    again = f"failed {ATTEMPTS} times in a row" if is_transient(error) else "refuses"
    return f"the store {again} ({reason}); run the same command again later"


def _is_store_error(error: BaseException) -> bool:
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | EOFError) or module in _STORES


def _without_rights(error: BaseException) -> bool:
    return (
        isinstance(error, PermissionError)
        or _has_name(error, _NO_RIGHTS)
        or _code(error) in _NO_RIGHTS
    )


def _no_bucket(error: BaseException) -> bool:
    return _code(error) == "NoSuchBucket" or _has_name(error, ("NoSuchBucket", "BucketNotFound"))


def _has_name(error: BaseException, names: tuple[str, ...]) -> bool:
    """Whether the class name of the error, or of one of its causes, contains one of ``names``."""
    cause: BaseException | None = error
    while cause is not None:
        if any(name in type(cause).__name__ for name in names):
            return True
        cause = cause.__cause__
    return False


def _code(error: BaseException) -> str:
    """Return the code of an S3 response, which botocore keeps on the original error."""
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__
    return ""
