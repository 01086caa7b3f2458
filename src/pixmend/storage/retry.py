"""Retries of store calls, and error messages without secrets.

Transient failures (throttling, dropped connections, timeouts) are retried with exponential
back-off. Permanent ones (missing file, bucket, permission or credentials) are raised at once.
"""

import errno
import secrets
import time
from collections.abc import Callable
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
_STORE_PACKAGES = {"adlfs", "azure", "fsspec", "gcsfs", "google", "huggingface_hub", "s3fs"}
_STORE_PACKAGES |= {"aiobotocore", "aiohttp", "botocore", "httpx", "httpx2", "requests"}
_NO_BUCKET = "NoSuchBucket BucketNotFound RepositoryNotFound"
# S3 codes and parts of class names of permanent errors, with the remedy; the first match counts.
_REMEDIES = {
    "NoSuchBucket BucketNotFound": "no such bucket; check its name, or make it first",
    "RepositoryNotFound": (
        "no such repository, or none that you may see; make it first, or log in (hf auth login)"
    ),
    "NoCredentials PartialCredentials DefaultCredentials ProfileNotFound LocalTokenNotFound": (
        "credentials are missing; set them as the store's own tools want them "
        "(S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile; hf: hf auth login)"
    ),
    "RequestTimeTooSkewed RequestExpired": (
        "the clock of this machine is wrong, so the store rejects the signature of the request; "
        "set the clock"
    ),
    "ExpiredToken TokenRefreshRequired": "the credentials have expired; get new ones",
    "CertVerification CertificateError": (
        "its certificate is not trusted; check the address, or add its authority to this machine's"
    ),
    # Last, because expired credentials and wrong clocks are raised as PermissionError too.
    "AccessDenied Forbidden InvalidAccessKeyId SignatureDoesNotMatch PermissionError "
    "Status401 Status403": "no permission; ask for rights there, or use other credentials",
}
_UNREACHABLE = (
    "EndpointConnection ConnectorError ConnectTimeout ConnectError ConnectionRefused gaierror"
)


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
    permanent = isinstance(error, _PERMANENT) or _remedy(error) is not None
    if permanent or not _is_store_error(error):
        return False
    return not (isinstance(error, OSError) and error.errno in _PERMANENT_NUMBERS)


def _describe(error: Exception) -> str:
    """Describe the error and its remedy; the store's own message may hold a key or a signed URL."""
    if (remedy := _remedy(error)) is not None:
        return remedy
    if _matches(error, _UNREACHABLE):
        return "it cannot be reached; check the network and the address (S3: AWS_ENDPOINT_URL)"
    reason = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        reason += f", {errno.errorcode.get(error.errno, error.errno)}"
    failure = f"failed {_ATTEMPTS} times in a row" if _is_transient(error) else "refuses"
    return f"the store {failure} ({reason}); run the same command again later"


def _remedy(error: Exception) -> str | None:
    return next((text for names, text in _REMEDIES.items() if _matches(error, names)), None)


def _is_store_error(error: Exception) -> bool:
    if isinstance(error, PixmendError):
        return False
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError | EOFError) or package in _STORE_PACKAGES


def _matches(error: Exception, names: str) -> bool:
    """Whether a class name or S3 code of the error or a cause contains one of ``names``."""
    identifiers: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        identifiers += [each.__name__ for each in type(cause).__mro__]
        response = getattr(cause, "response", None)  # botocore's, of S3
        if isinstance(response, dict):
            identifiers.append(str(response.get("Error", {}).get("Code", "")))
        identifiers.append(f"Status{getattr(response, 'status_code', '')}")
        cause = cause.__cause__
    return any(name in each for name in names.split() for each in identifiers)
