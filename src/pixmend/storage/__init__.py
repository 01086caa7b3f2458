"""Atomic files, on this machine and in object stores.

local        atomic writes, locks, hashes and JSON
remote       StorePath, a path or URL: reads, ranged reads, atomic writes, listings
entries      the entries of a folder, in one order
filesystems  URLs and fsspec file systems
retry        retries and error messages without secrets
ranged       ranged reads as a file and as a buffer
jsonl        a growing file of lines
cache        a bounded disk cache of file blocks
"""

from pixmend.storage.cache import BlockCache, Blocks, CachedFile, default_cache
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
    "CachedFile",
    "Entry",
    "JsonlWriter",
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
