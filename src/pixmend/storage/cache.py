"""A disk cache of file blocks of a store, of bounded size.

The cache is a fixed number of slots, each a file of one block. The block alone decides its slot, so any number of processes share one
folder without coordination, and it never outgrows its slots. The blocks of one data set take consecutive slots: a data set that fits
is cached whole, and collisions of a larger one are spread evenly.

A slot is, little-endian::

    32 bytes  SHA-256 of the file's digest and the block's number
    uint32    CRC32C of the block
    bytes     the block

Slots are written in place. A truncated or doubly written slot has a wrong checksum, and its block is read from the store again.
"""

import contextlib
import hashlib
import os
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c

from pixmend.errors import OutputError, SettingsError
from pixmend.storage.local import make_folder
from pixmend.storage.ranged import RangeBuffer
from pixmend.storage.remote import StorePath

BLOCK_BYTES = 2**18
_HEADER = struct.Struct("<32sI")
_MEMORY_BLOCKS = 128  # blocks in memory
_THREADS = 16  # ranges being fetched
_RUN = 16  # blocks fetched as one range where blocks are read in order
_DEFAULT_MIB = 4096


class BlockCache:
    """A folder of slots; see the module.

    Parameters
    ----------
    folder
        Made when the first block is stored.
    limit_bytes
        Maximum bytes of all slots; at least one block.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.slots = max(1, limit_bytes // (BLOCK_BYTES + _HEADER.size))
        self._trim()

    def get(self, key: bytes, number: int) -> bytes | None:
        """Return the block of ``key`` (32 bytes) from slot ``number``, or None if it is missing or damaged."""
        try:
            content = self._slot(number).read_bytes()
        except OSError:
            return None
        if len(content) < _HEADER.size:
            return None
        block_key, crc = _HEADER.unpack_from(content)
        block = content[_HEADER.size :]
        return block if block_key == key and google_crc32c.value(block) == crc else None

    def put(self, key: bytes, number: int, block: bytes) -> None:
        """Store a block; failures (a full disk, no permission) are ignored."""
        path = self._slot(number)
        with contextlib.suppress(OSError, OutputError):
            make_folder(path.parent)
            path.write_bytes(_HEADER.pack(key, google_crc32c.value(block)) + block)

    def _slot(self, number: int) -> Path:
        slot = number % self.slots
        return self.folder / f"{slot >> 10:04x}" / f"{slot:08x}"

    def _trim(self) -> None:
        """Remove the slots of an earlier, larger cache."""
        with contextlib.suppress(OSError):
            for path in self.folder.glob("[0-9a-f]" * 4 + "/" + "[0-9a-f]" * 8):
                if int(path.name, 16) >= self.slots:
                    path.unlink(missing_ok=True)


def default_cache() -> BlockCache | None:
    """Return the cache set by the environment: PIXMEND_CACHE (a folder) and PIXMEND_CACHE_MIB (0 for none).

    Raises
    ------
    SettingsError
        PIXMEND_CACHE_MIB is not a whole number.
    """
    text = os.environ.get("PIXMEND_CACHE_MIB", str(_DEFAULT_MIB))
    if not text.isascii() or not text.isdigit():
        raise SettingsError(f"PIXMEND_CACHE_MIB: {text!r} is no whole number of MiB, such as 4096")
    if int(text) == 0:
        return None
    given, home = os.environ.get("PIXMEND_CACHE"), os.environ.get("XDG_CACHE_HOME")
    folder = Path(given) if given else Path(home or "~/.cache") / "pixmend" / "blocks"
    try:
        return BlockCache(folder.expanduser(), int(text) << 20)
    except RuntimeError:  # the user has no home folder, as in some containers
        return None


class CachedFile(NamedTuple):
    """One file of a data set: its path, its size in bytes, and the digest of its content, which keys the cache."""

    place: StorePath
    bytes: int
    digest: str


class Blocks:
    """The files of a data set in a store, read in blocks and cached in memory and on disk.

    Picklable and thread-safe.
    """

    def __init__(self, parts: Sequence[CachedFile], cache: BlockCache | None) -> None:
        self._parts = list(parts)
        self._cache = cache
        # [parts]: the number of each file's first block, from an offset of the data set.
        digest = hashlib.sha256("".join(part.digest for part in parts).encode()).digest()
        self._first: list[int] = []
        following = int.from_bytes(digest[:6], "little")
        for part in parts:
            self._first.append(following)
            following += _count(part.bytes)
        self._reset()

    def file(self, number: int) -> RangeBuffer:
        """Return a file as a buffer."""
        return _BlockFile(self, number, self._parts[number].bytes)

    def fetch(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Fetch the ranges (file, start, stop) into memory concurrently, up to the memory limit."""
        requested = dict.fromkeys(
            (file, block) for file, start, stop in ranges for block in _touched(start, stop)
        )
        with self._lock:
            missing = [pair for pair in requested if pair not in self._memory][
                : _MEMORY_BLOCKS // 2
            ]
        if len(missing) < 2:
            return
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="pixmend-blocks") as threads:
            for _ in threads.map(lambda pair: self.block(*pair, alone=True), missing):
                pass

    def block(self, file: int, block: int, *, alone: bool = False) -> bytes:
        """Return a block; sequential reads fetch the following blocks too, unless ``alone``."""
        with self._lock:
            cached = self._memory.get((file, block))
            if cached is not None:
                self._memory.move_to_end((file, block))
                return cached
            run = _RUN if not alone and self._latest.get(file) == block - 1 else 1
        stored = None
        if self._cache is not None:
            stored = self._cache.get(self._key(file, block), self._number(file, block))
        if stored is not None:
            self._remember(file, block, [stored])
            return stored
        return self._fetched(file, block, run)[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self._parts, "cache": self._cache, "first": self._first}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._parts, self._cache, self._first = state["parts"], state["cache"], state["first"]
        self._reset()

    def _reset(self) -> None:
        self._memory: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._latest: dict[int, int] = {}  # of each file, the last block that was asked for
        self._lock = threading.Lock()

    def _fetched(self, file: int, block: int, run: int) -> list[bytes]:
        """Fetch up to ``run`` blocks with one request, and cache them."""
        part = self._parts[file]
        start, stop = block * BLOCK_BYTES, min((block + run) * BLOCK_BYTES, part.bytes)
        content = part.place.read_bytes(start, stop)
        blocks = [
            content[at : at + BLOCK_BYTES] for at in range(0, max(1, len(content)), BLOCK_BYTES)
        ]
        if self._cache is not None and len(content) == stop - start:
            for offset, content_block in enumerate(blocks):
                number = block + offset
                self._cache.put(self._key(file, number), self._number(file, number), content_block)
        self._remember(file, block, blocks)
        return blocks

    def _remember(self, file: int, block: int, blocks: list[bytes]) -> None:
        with self._lock:
            for offset, content_block in enumerate(blocks):
                self._memory[file, block + offset] = content_block
            self._latest[file] = block + len(blocks) - 1
            while len(self._memory) > _MEMORY_BLOCKS:
                self._memory.popitem(last=False)

    def _number(self, file: int, block: int) -> int:
        return self._first[file] + block

    def _key(self, file: int, block: int) -> bytes:
        return hashlib.sha256(f"{self._parts[file].digest} {block}".encode()).digest()


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
        touched = _touched(start, stop)
        content = b"".join(self.blocks.block(self.number, block) for block in touched)
        base = touched.start * BLOCK_BYTES
        return content[start - base : stop - base]


def _touched(start: int, stop: int) -> range:
    return range(start // BLOCK_BYTES, _count(stop))


def _count(size: int) -> int:
    return -(-size // BLOCK_BYTES)
