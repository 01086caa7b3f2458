"""Files that are either whole or not there, on this machine and in object stores.

local     atomic files of this machine, and their hashes
places    a path or URL: read whole or by ranges, written whole, listed
attempts  what is tried again, and what went wrong in words
ranged    a remote file as a file and as a buffer, by ranged reads
"""

from pixmend.storage.local import (
    append_line,
    atomic_write,
    make_folder,
    remove_leftovers,
    sha256_of,
    write_bytes,
    write_text,
)
from pixmend.storage.places import Entry, Place

__all__ = [
    "Entry",
    "Place",
    "append_line",
    "atomic_write",
    "make_folder",
    "remove_leftovers",
    "sha256_of",
    "write_bytes",
    "write_text",
]
