"""Files of web servers, with bounds on size, time, redirects and addresses.

fsspec's own file system for `https://` follows any redirect, also to addresses that only this
machine can reach.
"""

import base64
import http.client
import socket
import ssl
import string
import time
from ipaddress import ip_address
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from pixmend.errors import InputError, StoreError

SCHEMES = ("https://", "http://")
_MAX_REDIRECTS = 5
_STALL = 30.0  # seconds without a byte
_DEADLINE = 1800.0  # seconds of a download
_CHUNK_BYTES = 2**20
_REDIRECTS = (301, 302, 303, 307, 308)
_ERRORS: dict[int, type[OSError]] = {
    **dict.fromkeys((404, 410), FileNotFoundError),
    **dict.fromkeys((401, 403), PermissionError),
    **dict.fromkeys((408, 429, 500, 502, 503, 504), ConnectionError),  # which is tried again
}


def fetch(url: str, name: str, *, known: str, limit: int, pinned: bool) -> tuple[bytes | None, str]:
    """Return a file's content and version, or no content if its version is ``known``.

    Messages call it ``name``. Off loopback, `http://` is for files whose digest is ``pinned``. The
    host that the caller names may be private, but no redirect leads to another private address.

    InputError or StoreError says what is wrong with the address or the answer; OSError is of the
    connection.
    """
    end = time.monotonic() + _DEADLINE
    try:
        first, redirected = urlsplit(url).hostname, False
        for _ in range(_MAX_REDIRECTS + 1):
            parts = urlsplit(url)
            redirected |= parts.hostname != first  # the way back is another's wish too
            connection = _connect(parts, name, redirected=redirected, pinned=pinned)
            try:
                target = (parts.path or "/") + (parts.query and f"?{parts.query}")
                escaped = quote(target, safe=string.punctuation)
                connection.request("GET", escaped, headers=_headers(parts, known))
                with connection.getresponse() as response:
                    location = response.headers.get("Location")
                    if response.status not in _REDIRECTS or not location:
                        return _answer(response, name, known, limit, end)
            finally:
                connection.close()
            url = urljoin(url, location)
    except (http.client.InvalidURL, ValueError) as error:
        if isinstance(error, OSError):  # a certificate that cannot be verified
            raise
        raise InputError(f"{name}: is no address; check it") from error
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    raise InputError(f"{name}: redirects more than {_MAX_REDIRECTS} times; give its last address")


def _connect(
    parts: SplitResult, name: str, *, redirected: bool, pinned: bool
) -> http.client.HTTPConnection:
    """Connect to an address that was checked: a second look-up could give another one."""
    host, secure = parts.hostname or "", parts.scheme == "https"
    if f"{parts.scheme}://" not in SCHEMES or not host:
        raise InputError(f"{name}: redirects to no web address; get the file by other means")
    port = parts.port or (443 if secure else 80)
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = [str(info[4][0]) for info in found]
    addresses = [ip_address(place.partition("%")[0]) for place in places]
    addresses = [getattr(each, "ipv4_mapped", None) or each for each in addresses]
    if redirected and not all(each.is_global for each in addresses):
        raise InputError(
            f"{name}: redirects to the private address {host}, which is not followed; "
            "give that address itself if you trust it"
        )
    if not (secure or pinned or all(each.is_loopback for each in addresses)):
        raise InputError(
            f"{name}: anyone on the way can change what comes by http://; give https://, or pin "
            "the file with #sha256: and its digest"
        )
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=_STALL)
    for place in places:
        try:
            connection.sock = socket.create_connection((place, port), timeout=_STALL)
            break
        except OSError:
            if place == places[-1]:
                raise
    if secure:
        context = ssl.create_default_context()
        connection.sock = context.wrap_socket(connection.sock, server_hostname=host)
    return connection


def _headers(parts: SplitResult, known: str) -> dict[str, str]:
    headers = {"User-Agent": "pixmend", "Accept": "*/*"}
    if known:
        tag = known.startswith(('"', "W/"))
        headers["If-None-Match" if tag else "If-Modified-Since"] = known
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    return headers


def _answer(
    response: http.client.HTTPResponse, name: str, known: str, limit: int, end: float
) -> tuple[bytes | None, str]:
    status = response.status
    if status == 304 and known:
        return None, known
    if status in _ERRORS:
        raise _ERRORS[status](f"status {status}")
    if status != 200:
        raise InputError(f"{name}: the server answers {status}; check the address")
    content, size = bytearray(), response.length
    while len(content) <= limit and (size or 0) <= limit:
        chunk = response.read1(_CHUNK_BYTES)
        if not chunk:
            if size is not None and len(content) < size:
                raise ConnectionError(f"{len(content)} of {size} bytes arrived")
            tag, date = (response.headers.get(name) for name in ("ETag", "Last-Modified"))
            return bytes(content), tag or date or ""
        content += chunk
        if time.monotonic() > end:
            raise StoreError(f"{name}: took over {_DEADLINE / 60:.0f} minutes; try again later")
    raise InputError(f"{name}: is over the limit of {limit >> 20} MiB")
