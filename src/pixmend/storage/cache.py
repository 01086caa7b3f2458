"""Blocks of a store's files, kept on this machine in a folder of bounded size.

The cache is a row of slots, each a file that holds one block. Which slot a block goes into is a function of the block, so there is
nothing to count and nothing to agree upon: any number of processes use one folder, it cannot grow over its slots, and no time of a
file is ever asked for. The blocks of one data set lie in slots side by side: one that fits is kept whole, and of one that does not
each block shares its slot with as few others as can be.

A slot is, little-endian::

    32 bytes  SHA-256 of what the block is a part of, and which
    uint32    CRC32C of the block
    bytes     the block

Slots are written in place: one that was cut short or written by two is one with a wrong checksum, which is read from the store again.
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
_MOST_HELD = 128  # blocks in memory
_AT_ONCE = 16  # ranges being fetched
_RUN = 16  # blocks fetched as one range where blocks are read in order
_DEFAULT_MIB = 4096


class BlockCache:
    """A folder of slots; see the module.

    Parameters
    ----------
    folder
        Where; made when the first block is kept.
    limit_bytes
        What all slots take at most; at least one block.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.slots = max(1, limit_bytes // (BLOCK_BYTES + _HEADER.size))
        self._trim()

    def get(self, key: bytes, number: int) -> bytes | None:
        """Return the block of ``key`` (32 bytes) in the slot of ``number``, or None if it is not there, or not whole."""
        try:
            content = self._slot(number).read_bytes()
        except OSError:
            return None
        if len(content) < _HEADER.size:
            return None
        held, crc = _HEADER.unpack_from(content)
        block = content[_HEADER.size :]
        return block if held == key and google_crc32c.value(block) == crc else None

    def put(self, key: bytes, number: int, block: bytes) -> None:
        """Keep a block; where that cannot be done (a full disk, no rights) it will be fetched again."""
        path = self._slot(number)
        with contextlib.suppress(OSError, OutputError):
            make_folder(path.parent)
            path.write_bytes(_HEADER.pack(key, google_crc32c.value(block)) + block)

    def _slot(self, number: int) -> Path:
        slot = number % self.slots
        return self.folder / f"{slot >> 10:04x}" / f"{slot:08x}"

    def _trim(self) -> None:
        """Remove the slots of a larger cache that was here before."""
        with contextlib.suppress(OSError):
            for path in self.folder.glob("[0-9a-f]" * 4 + "/" + "[0-9a-f]" * 8):
                if int(path.name, 16) >= self.slots:
                    path.unlink(missing_ok=True)


def default_cache() -> BlockCache | None:
    """Return the cache that the environment asks for: PIXMEND_CACHE (a folder) and PIXMEND_CACHE_MIB (0 for none).

    Raises
    ------
    SettingsError
        PIXMEND_CACHE_MIB is no whole number.
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
    except RuntimeError:  # nobody's home: a container without a name for its user
        return None


class Part(NamedTuple):
    """One file of a data set: where, how many bytes, and the digest of its content, by which it is kept."""

    place: StorePath
    bytes: int
    digest: str


class Blocks:
    """The files of a data set in a store, read in blocks, of which the latest are in memory and some on this machine.

    It can be handed to other processes and used from several threads.
    """

    def __init__(self, parts: Sequence[Part], cache: BlockCache | None) -> None:
        self._parts = list(parts)
        self._cache = cache
        # [parts]: the number of each one's first block, from a place that differs from data set to data set.
        together = hashlib.sha256("".join(part.digest for part in parts).encode()).digest()
        self._first: list[int] = []
        following = int.from_bytes(together[:6], "little")
        for part in parts:
            self._first.append(following)
            following += _count(part.bytes)
        self._forget()

    def file(self, number: int) -> RangeBuffer:
        """Return a file as a buffer."""
        return _BlockFile(self, number, self._parts[number].bytes)

    def fetch(self, ranges: Iterable[tuple[int, int, int]]) -> None:
        """Bring (file, start, stop) into memory, several at once, as far as memory holds them."""
        wanted = dict.fromkeys(
            (file, block) for file, start, stop in ranges for block in _touched(start, stop)
        )
        with self._lock:
            missing = [pair for pair in wanted if pair not in self._held][: _MOST_HELD // 2]
        if len(missing) < 2:
            return
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="pixmend-blocks") as threads:
            for _ in threads.map(lambda pair: self.block(*pair, alone=True), missing):
                pass

    def block(self, file: int, block: int, *, alone: bool = False) -> bytes:
        """Return a block; with its followers, where the one before it was the file's last one asked for, unless ``alone``."""
        with self._lock:
            held = self._held.get((file, block))
            if held is not None:
                self._held.move_to_end((file, block))
                return held
            run = _RUN if not alone and self._latest.get(file) == block - 1 else 1
        kept = None
        if self._cache is not None:
            kept = self._cache.get(self._key(file, block), self._number(file, block))
        if kept is not None:
            self._hold(file, block, [kept])
            return kept
        return self._fetched(file, block, run)[0]

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self._parts, "cache": self._cache, "first": self._first}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._parts, self._cache, self._first = state["parts"], state["cache"], state["first"]
        self._forget()

    def _forget(self) -> None:
        self._held: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._latest: dict[int, int] = {}  # of each file, the last block that was asked for
        self._lock = threading.Lock()

    def _fetched(self, file: int, block: int, run: int) -> list[bytes]:
        """Fetch ``run`` blocks, or as many as there are, with one request, and keep them."""
        part = self._parts[file]
        start, stop = block * BLOCK_BYTES, min((block + run) * BLOCK_BYTES, part.bytes)
        content = part.place.read_bytes(start, stop)
        blocks = [
            content[at : at + BLOCK_BYTES] for at in range(0, max(1, len(content)), BLOCK_BYTES)
        ]
        if self._cache is not None and len(content) == stop - start:
            for offset, found in enumerate(blocks):
                number = block + offset
                self._cache.put(self._key(file, number), self._number(file, number), found)
        self._hold(file, block, blocks)
        return blocks

    def _hold(self, file: int, block: int, blocks: list[bytes]) -> None:
        with self._lock:
            for offset, found in enumerate(blocks):
                self._held[file, block + offset] = found
            self._latest[file] = block + len(blocks) - 1
            while len(self._held) > _MOST_HELD:
                self._held.popitem(last=False)

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
