"""Retries of store calls, and error messages without secrets.

Transient failures (throttling, dropped connections, timeouts) are retried with exponential
back-off. Permanent ones (missing file, bucket, permission or credentials) are raised at once.
"""

import errno
import secrets
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from pixmend.errors import MissingError, OutputError, PixmendError, StoreError

T = TypeVar("T")

_ATTEMPTS = 6
_FIRST_WAIT = 0.1  # seconds, before the second attempt
# Errors of a rejected request; 500 and 503 have other numbers.
_PERMANENT_NUMBERS = (
    *(errno.EINVAL, errno.ENOSYS, errno.EPERM),
    *(errno.EACCES, errno.EROFS, errno.ENOSPC),
)
_PERMANENT = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
# Packages whose own exceptions stand for network failures.
_STORE_PACKAGES = frozenset(
    ["adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google", "s3fs"]
)
_NO_BUCKET = ("NoSuchBucket", "BucketNotFound")
_NO_CREDENTIALS = ("NoCredentials", "PartialCredentials", "DefaultCredentials", "ProfileNotFound")
_NO_PERMISSION = ("AccessDenied", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
_UNREACHABLE = ("EndpointConnection", "ConnectorError", "ConnectTimeout", "ConnectionRefused")
_SET_CREDENTIALS = (
    "credentials are missing; set them as the store's own tools want them "
    "(S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile)"
)
_CLOCK = (
    "the clock of this machine is wrong, so the store rejects the signature of the request; "
    "set the clock"
)
_EXPIRED = "the credentials have expired; get new ones"
# S3 error codes.
_OUT_OF_TIME = {
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
}


def retry(action: Callable[[], T]) -> T:
    """Call ``action`` up to six times while its errors are transient."""
    for attempt in range(_ATTEMPTS - 1):
        try:
            return action()
        except Exception as error:
            if not _is_transient(error):
                raise
        # Jitter of 50 to 100 % keeps workers from retrying in step. It affects no result.
        time.sleep(_FIRST_WAIT * 2**attempt * (0.5 + secrets.randbelow(1000) / 2000))
    return action()


def read_error(path: str, error: Exception) -> Exception:
    """Return the one-line error to raise where ``path`` cannot be read; a bug is returned as is."""
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    if missing and not _matches(error, _NO_BUCKET):
        return MissingError(f"{path}: no such file or folder; check the path")
    if not _is_store_error(error):
        return error
    return StoreError(f"{path}: cannot be read: {_describe(error)}")


def write_error(path: str, error: Exception) -> Exception:
    """Return the one-line error to raise where ``path`` cannot be written, as `read_error`."""
    if not _is_store_error(error):
        return error
    if isinstance(error, FileNotFoundError) and not _matches(error, _NO_BUCKET):
        return OutputError(f"{path}: cannot be written: no such bucket or folder; make it first")
    return OutputError(f"{path}: cannot be written: {_describe(error)}")


def _is_transient(error: Exception) -> bool:
    if not _is_store_error(error) or isinstance(error, _PERMANENT):
        return False
    if isinstance(error, OSError) and error.errno in _PERMANENT_NUMBERS:
        return False
    return not (
        isinstance(error, PermissionError)
        or _code(error) in _OUT_OF_TIME
        or _matches(error, (*_NO_BUCKET, *_NO_CREDENTIALS, *_NO_PERMISSION))
    )


def _describe(error: Exception) -> str:
    """Describe the error and its remedy; the store's own message may hold a key or a signed URL."""
    if _matches(error, _NO_BUCKET):
        return "no such bucket; check its name, or make it first"
    if _matches(error, _NO_CREDENTIALS):
        return _SET_CREDENTIALS
    # Checked before permissions, because both are raised as the same class.
    if _code(error) in _OUT_OF_TIME:
        return _OUT_OF_TIME[_code(error)]
    if isinstance(error, PermissionError) or _matches(error, _NO_PERMISSION):
        return "no permission; ask for rights on this bucket, or use other credentials"
    if isinstance(error, ConnectionRefusedError) or _matches(error, _UNREACHABLE):
        return (
            "the store cannot be reached; check the network and the endpoint (S3: AWS_ENDPOINT_URL)"
        )
    reason = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        reason += f", {errno.errorcode.get(error.errno, error.errno)}"
    failure = f"failed {_ATTEMPTS} times in a row" if _is_transient(error) else "refuses"
    return f"the store {failure} ({reason}); run the same command again later"


def _is_store_error(error: Exception) -> bool:
    if isinstance(error, PixmendError):
        return False
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | EOFError) or package in _STORE_PACKAGES


def _matches(error: Exception, names: tuple[str, ...]) -> bool:
    """Whether one of ``names`` is the S3 code, or part of the class name, of the error or a cause."""
    classes = [type(cause).__name__ for cause in _causes(error)]
    return _code(error) in names or any(name in each for name in names for each in classes)


def _code(error: Exception) -> str:
    """Return the code of an S3 response, which botocore keeps on the original error."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
