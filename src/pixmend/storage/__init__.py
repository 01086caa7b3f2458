"""Files that are either whole or not there, on this machine and in object stores.

local     atomic files of this machine, and their hashes
places    a path or URL: read whole or by ranges, written whole, listed
listing   what is in a folder, in one order
stores    the file systems of stores
attempts  what is tried again, and what went wrong in words
ranged    a store's file as a file and as a buffer, by ranged reads
facts     JSON that others may have damaged
lines     a file of lines that grows
cache     blocks of a store's files, kept on this machine in bounded space
"""

from pixmend.storage.cache import BlockCache, Blocks, Part, default_cache
from pixmend.storage.entries import Entry
from pixmend.storage.jsonl import JsonlWriter
from pixmend.storage.local import (
    append_line,
    atomic_write,
    make_folder,
    parse_json,
    remove_leftovers,
    sha256_of,
    shared,
    write_bytes,
    write_text,
)
from pixmend.storage.ranged import RangeBuffer, Ranged
from pixmend.storage.remote import StorePath

__all__ = [
    "BlockCache",
    "Blocks",
    "Entry",
    "JsonlWriter",
    "Part",
    "RangeBuffer",
    "Ranged",
    "StorePath",
    "append_line",
    "atomic_write",
    "default_cache",
    "make_folder",
    "parse_json",
    "remove_leftovers",
    "sha256_of",
    "shared",
    "write_bytes",
    "write_text",
]
