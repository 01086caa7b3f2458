"""A bounded disk cache of file blocks of a store.

The cache is a fixed number of slots, each a file of one block. The block alone decides its slot, so
any number of processes share one folder without coordination. The blocks of a data set take
consecutive slots: one that fits is cached whole, and the collisions of a larger one spread evenly.

A slot is, little-endian::

    32 bytes  SHA-256 of the file's digest and the block's number
    uint32    CRC32C of the block
    bytes     the block

Slots are written in place. A truncated or doubly written slot has a wrong checksum, and its block
is read from the store again. (fsspec's caches bound neither their size nor detect damage.)
"""

import contextlib
import hashlib
import itertools
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import google_crc32c

from pixmend.errors import OutputError, SettingsError
from pixmend.storage.local import make_folder, open_file
from pixmend.storage.remote import StorePath

BLOCK_BYTES = 2**18
_HEADER = struct.Struct("<32sI")
_MEMORY_BLOCKS = 128
_THREADS = 16
_RUN = 16  # blocks of one request, where blocks are read in order
_DEFAULT_MIB = "4096"
_SUFFIX = ".pixmend-block"  # of slots, which no other program gives its files


class Buffer(Protocol):
    """Sliceable bytes, such as a mapped file."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> bytes: ...


class BlockCache:
    """A folder of slots of at most ``limit_bytes``, but at least one block; see the module."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.slots = max(1, limit_bytes // (BLOCK_BYTES + _HEADER.size))
        with contextlib.suppress(OSError):  # slots of an earlier, larger cache
            for path in folder.glob(f"{'[0-9a-f]' * 4}/{'[0-9a-f]' * 8}{_SUFFIX}"):
                if int(path.stem, 16) >= self.slots:
                    path.unlink(missing_ok=True)

    def get(self, key: bytes, number: int) -> bytes | None:
        """Return the block of ``key`` (32 bytes) from slot ``number``, or None without it."""
        try:
            with open_file(self._slot(number), limit=_HEADER.size + BLOCK_BYTES) as file:
                content = file.read()
            slot_key, crc = _HEADER.unpack_from(content)
        except (OSError, struct.error):
            return None
        block = content[_HEADER.size :]
        return block if slot_key == key and google_crc32c.value(block) == crc else None

    def put(self, key: bytes, number: int, block: bytes) -> None:
        """Store a block; failures (a full disk, no permission) are ignored."""
        path = self._slot(number)
        with contextlib.suppress(OSError, OutputError):
            make_folder(path.parent)
            with open_file(path, "wb") as file:
                file.write(_HEADER.pack(key, google_crc32c.value(block)) + block)

    def _slot(self, number: int) -> Path:
        slot = number % self.slots
        return self.folder / f"{slot >> 10:04x}" / f"{slot:08x}{_SUFFIX}"


def default_cache() -> BlockCache | None:
    """Return the cache that PIXMEND_CACHE (a folder) and PIXMEND_CACHE_MIB (or 0) configure."""
    limit = os.environ.get("PIXMEND_CACHE_MIB", _DEFAULT_MIB)
    if not limit.isascii() or not limit.isdigit():
        raise SettingsError(f"PIXMEND_CACHE_MIB: {limit!r} is no whole number of MiB, such as 4096")
    if int(limit) == 0:
        return None
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    folder = Path(os.environ.get("PIXMEND_CACHE") or caches / "pixmend" / "blocks")
    try:
        return BlockCache(folder.expanduser(), int(limit) << 20)
    except RuntimeError:  # the user has no home folder, as in some containers
        return None


class CachedFile(NamedTuple):
    """A file, its size in bytes, and the digest of its content, which keys the cache."""

    path: StorePath
    bytes: int
    digest: str


class Blocks:
    """Files in a store, cached by blocks in memory and on disk. Picklable and thread-safe."""

    def __init__(self, files: Sequence[CachedFile], cache: BlockCache | None) -> None:
        self._files = list(files)
        self._cache = cache
        # [files]: the number of each file's first block, from an offset of the data set.
        digest = hashlib.sha256("".join(file.digest for file in files).encode()).digest()
        counts = (_block_count(file.bytes) for file in files)
        offset = int.from_bytes(digest[:6], "little")
        self._first = list(itertools.accumulate(counts, initial=offset))
        self._memory: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._latest: dict[int, int] = {}  # of each file, the last block in memory
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Blocks, (self._files, self._cache)

    def file(self, number: int) -> Buffer:
        return _BlockFile(self, number, self._files[number].bytes)

    def prefetch(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Load the ranges (file, start, stop) into memory concurrently, up to half its limit."""
        blocks = dict.fromkeys(
            (file, block) for file, start, stop in ranges for block in _blocks_of(start, stop)
        )
        with self._lock:
            missing = [each for each in blocks if each not in self._memory][: _MEMORY_BLOCKS // 2]
        if len(missing) < 2:
            return
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="pixmend-blocks") as threads:
            for _ in threads.map(lambda each: self.block(*each, alone=True), missing):
                pass

    def block(self, file: int, number: int, *, alone: bool = False) -> bytes:
        """Return a block; sequential reads fetch the following blocks too, unless ``alone``."""
        with self._lock:
            block = self._memory.get((file, number))
            if block is not None:
                self._memory.move_to_end((file, number))
                return block
            run = _RUN if not alone and self._latest.get(file) == number - 1 else 1
        if self._cache is not None:
            block = self._cache.get(*self._slot(file, number))
        blocks = [block] if block is not None else self._fetch(file, number, run)
        with self._lock:
            for offset, each in enumerate(blocks):
                self._memory[file, number + offset] = each
            self._latest[file] = number + len(blocks) - 1
            while len(self._memory) > _MEMORY_BLOCKS:
                self._memory.popitem(last=False)
        return blocks[0]

    def _fetch(self, file: int, number: int, run: int) -> list[bytes]:
        """Fetch up to ``run`` blocks with one request, and cache them on disk."""
        path, size, _ = self._files[file]
        start, stop = number * BLOCK_BYTES, min((number + run) * BLOCK_BYTES, size)
        content = path.read_bytes(start, stop)
        starts = range(0, max(1, len(content)), BLOCK_BYTES)
        blocks = [content[start : start + BLOCK_BYTES] for start in starts]
        if self._cache is not None and len(content) == stop - start:
            for offset, block in enumerate(blocks):
                self._cache.put(*self._slot(file, number + offset), block)
        return blocks

    def _slot(self, file: int, number: int) -> tuple[bytes, int]:
        key = hashlib.sha256(f"{self._files[file].digest} {number}".encode()).digest()
        return key, self._first[file] + number


@dataclass(frozen=True, slots=True)
class _BlockFile:
    blocks: Blocks
    number: int
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: slice, /) -> bytes:
        start, stop, _ = key.indices(self.size)
        if stop <= start:
            return b""
        numbers = _blocks_of(start, stop)
        content = b"".join(self.blocks.block(self.number, number) for number in numbers)
        base = numbers.start * BLOCK_BYTES
        return content[start - base : stop - base]


def _blocks_of(start: int, stop: int) -> range:
    return range(start // BLOCK_BYTES, _block_count(stop))


def _block_count(size: int) -> int:
    return -(-size // BLOCK_BYTES)
