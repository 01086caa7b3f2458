"""Atomic files, on this machine and in object stores."""

from pixmend.storage.cache import BlockCache, Blocks, Buffer, CachedFile, default_cache
from pixmend.storage.download import local_copy, split_pin
from pixmend.storage.jsonl import JsonlWriter, locked
from pixmend.storage.listing import FileInfo
from pixmend.storage.local import (
    TEMPORARY,
    append_line,
    atomic_write,
    lock,
    make_folder,
    open_file,
    opened_folder,
    parse_json,
    remove_leftovers,
    sha256_of,
    shared,
    write_bytes,
    write_failure,
    write_text,
)
from pixmend.storage.remote import StorePath
