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
# What a store says to a request that it understands and will not do; 500 and 503 come as others.
_REFUSALS = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSPC)
_LASTING = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
# Packages that raise errors of their own for what went wrong on the way.
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
# What S3 says of requests signed at another time than now, or with what was good until then.
_OUT_OF_TIME = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
}


def attempt(action: Callable[[], T], wait: Callable[[float], None] = time.sleep) -> T:
    """Return what ``action`` returns, calling it again after what may pass; what lasts, and a bug, is raised at once."""
    for number in range(1, ATTEMPTS):
        try:
            return action()
        except Exception as error:
            if not may_pass(error):
                raise
        # Spread over half to all of the time, lest a thousand workers come back together. It decides
        # when, never what, so that it need not be a draw by position.
        longest = _FIRST_WAIT * 2 ** (number - 1)
        wait(longest * (0.5 + secrets.randbelow(1000) / 2000))
    return action()


def may_pass(error: BaseException) -> bool:
    """Whether a call that failed so may do better later."""
    if not _of_a_store(error) or isinstance(error, _LASTING):
        return False
    if isinstance(error, OSError) and error.errno in _REFUSALS:
        return False
    if _is(error, _NO_CREDENTIALS) or _code(error) in _OUT_OF_TIME:
        return False
    return not (_without_rights(error) or _no_bucket(error))


def reading(place: str, error: Exception) -> Exception:
    """Return the error to raise where ``place`` cannot be read: one line, or ``error`` itself if it is a bug."""
    if isinstance(error, FileNotFoundError) and not _no_bucket(error):
        return MissingError(f"{place}: no such file or folder; check the path")
    if isinstance(error, PixmendError) or not _of_a_store(error):
        return error
    return StoreError(f"{place}: cannot be read: {_words(error)}")


def writing(place: str, error: Exception) -> Exception:
    """Return the error to raise where ``place`` cannot be written: one line, or ``error`` itself if it is a bug."""
    if isinstance(error, PixmendError) or not _of_a_store(error):
        return error
    if isinstance(error, FileNotFoundError) and not _no_bucket(error):
        return OutputError(f"{place}: cannot be written: no such bucket or folder; make it first")
    return OutputError(f"{place}: cannot be written: {_words(error)}")


def _words(error: BaseException) -> str:
    """Return what went wrong and what to do; never a store's own message, which may hold a key or a signed address."""
    if _no_bucket(error):
        return "no such bucket; check its name, or make it first"
    if _is(error, _NO_CREDENTIALS):
        return _SET_CREDENTIALS
    # Before rights, for what lacks these is raised as the same class.
    if _code(error) in _OUT_OF_TIME:
        return _OUT_OF_TIME[_code(error)]
    if _without_rights(error):
        return "no permission; ask for rights on this bucket, or use other credentials"
    if _is(error, _UNREACHABLE) or isinstance(error, ConnectionRefusedError):
        return (
            "the store cannot be reached; check the network and the endpoint (S3: AWS_ENDPOINT_URL)"
        )
    reason = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        reason += f", {errno.errorcode.get(error.errno, error.errno)}"
    again = f"failed {ATTEMPTS} times in a row" if may_pass(error) else "refuses"
    return f"the store {again} ({reason}); run the same command again later"


def _of_a_store(error: BaseException) -> bool:
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | EOFError) or module in _STORES


def _without_rights(error: BaseException) -> bool:
    return (
        isinstance(error, PermissionError) or _is(error, _NO_RIGHTS) or _code(error) in _NO_RIGHTS
    )


def _no_bucket(error: BaseException) -> bool:
    return _code(error) == "NoSuchBucket" or _is(error, ("NoSuchBucket", "BucketNotFound"))


def _is(error: BaseException, names: tuple[str, ...]) -> bool:
    """Whether the error, or what it was raised from, is of a class with one of these in its name."""
    seen: BaseException | None = error
    while seen is not None:
        if any(name in type(seen).__name__ for name in names):
            return True
        seen = seen.__cause__
    return False


def _code(error: BaseException) -> str:
    """Return the code of an S3 answer, which botocore keeps on the error that others were raised from."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        seen = seen.__cause__
    return ""
