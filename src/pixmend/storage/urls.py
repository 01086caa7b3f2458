"""What a URL says, and what of it may be shown."""

import re
from pathlib import Path

from pixmend.errors import InputError
from pixmend.storage.stores import BUCKETS

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)


def parse(text: str) -> Path | tuple[str, str]:
    """Return the path of what is on this machine, ``file://`` included, else a URL and its query, which may be a secret.

    Raises
    ------
    InputError
        A URL of several, or one with credentials where the store takes them from elsewhere.
    """
    found = _URL.fullmatch(text)
    if "::" in text.partition("://")[0] and "://" in text:
        raise InputError(f"{text.partition('::')[0]}::...: a URL of a URL; give a plain one")
    if found is None:
        return Path(text)
    scheme, host, rest = found[1].lower(), found[2], found[3]
    if scheme in ("file", "local"):
        return Path(host + rest)
    path, mark, query = rest.partition("?")
    if "@" in host and scheme in BUCKETS:
        raise InputError(
            f"{shown(f'{scheme}://{host}{path}')}: credentials do not go into a URL, where they are logged; set them as the "
            "store's own tools want them"
        )
    if scheme in BUCKETS and "=" not in query:  # a key there may hold a question mark
        path, mark, query = rest, "", ""
    return f"{scheme}://{host}{path}".rstrip("/"), mark + query


def shown(url: str) -> str:
    """Return a URL without its user and password."""
    found = _URL.fullmatch(url)
    return f"{found[1]}://{found[2].rpartition('@')[2]}{found[3]}" if found else url
