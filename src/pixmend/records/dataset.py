"""Random access to packed images, decoded on demand from mapped shards or ranges of a store's."""

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import ImageError, InputError, MissingError, RecordError, StoppedError
from pixmend.images import Channels, channel_count, decode_image
from pixmend.records.manifest import FIX_SHARD, Manifest, ShardInfo, read_index
from pixmend.records.tfrecord import (
    Features,
    decode_example,
    first_bytes,
    first_int,
    map_file,
    read_record_at,
    read_records,
    scan_records,
)
from pixmend.storage import Blocks, Buffer, CachedFile, StorePath, default_cache

_MAX_MAPS = 256  # each holds a file descriptor
_READS_PER_RELEASE = 512  # each read maps 64 KiB or so
_CHUNK = 256  # images between two calls of on_progress
_PREFETCH = 64  # images whose blocks are fetched at once
_THREADS = 16


class Records:
    """A folder of records that `pack` wrote, or its URL. Picklable and thread-safe.

    Memory grows by 16 bytes per image. Shards in a store are read by ranges, through a bounded
    cache. With ``skip_bad``, every record is verified, and broken ones are left out of the
    numbering; ``bad`` has a message for each. Otherwise a missing or truncated shard is a
    RecordError.
    """

    def __init__(
        self,
        path: StorePath | Path | str,
        *,
        skip_bad: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = StorePath.of(path)
        self.manifest = Manifest.read(self.path)
        self._reads = 0
        self._maps: dict[int, bytes | mmap.mmap] = {}
        self._blocks: Blocks | None = None
        self._sizes: dict[str, int] = {}
        remote = self.path.local is None
        if remote:
            self._sizes = {file.name: file.bytes for file in self.path.files()}
            shards = self.manifest.shards
            files = [CachedFile(self.path / each.name, each.bytes, each.sha256) for each in shards]
            self._blocks = Blocks(files, default_cache())
        bad: dict[int, list[str]] = {number: [] for number in range(len(self.manifest.shards))}

        def open_shard(number: int) -> NDArray[np.int64]:
            if should_stop():
                raise StoppedError
            return self._scan(number, bad[number]) if skip_bad else self._checked_index(number)

        with ThreadPoolExecutor(_THREADS if remote else 1) as threads:
            offsets = list(threads.map(open_shard, bad))
        self.bad = tuple(message for messages in bad.values() for message in messages)
        self._offsets = np.concatenate([np.empty(0, np.int64), *offsets])
        self._shards = np.repeat(np.arange(len(offsets)), [len(each) for each in offsets])

    @property
    def size(self) -> int:
        """Side of the images, in pixels."""
        return self.manifest.settings.size

    @property
    def channels(self) -> Channels:
        assert self.manifest.settings.channels is not None
        return self.manifest.settings.channels

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def __len__(self) -> int:
        return len(self._offsets)

    def images(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return images as uint8 [B, size, size, C]; a RecordError names shard and offset."""
        batch = np.empty((len(indices), *self._shape), np.uint8)
        for place, index in enumerate(indices):
            if self._blocks is not None and place % _PREFETCH == 0:
                self._blocks.prefetch(map(self._range, indices[place : place + _PREFETCH]))
            batch[place] = self._pixels(int(index))
        return batch

    def labels(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return labels as int64 [B], -1 for images without a class."""
        features = (self._features(int(index)) for index in indices)
        return np.array([first_int(each, ["image/class/label"]) for each in features], np.int64)

    def names(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        features = (self._features(int(index)) for index in indices)
        names = (first_bytes(each, ["image/filename"]) for each in features)
        return [name.decode("utf-8", "replace") for name in names]

    def payload(self, index: int) -> bytes:
        """Return a record as stored: a serialised tf.train.Example."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        self._reads += 1
        if self._reads % _READS_PER_RELEASE == 0:
            self._release_pages()
        number = int(self._shards[index])
        offset, name = int(self._offsets[index]), self._name(number)
        try:
            return read_record_at(self._buffer(number), offset, name)
        except RecordError as error:
            raise RecordError(f"{error}, or train on the rest with --skip-bad") from None

    def load_all(
        self, limit_bytes: int, *, on_progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.uint8] | None:
        """Return all images, uint8 [N, size, size, C], or None if over the limit; reports (decoded, total)."""
        if len(self) * int(np.prod(self._shape)) > limit_bytes:
            return None
        images = np.empty((len(self), *self._shape), np.uint8)
        for start in range(0, len(self), _CHUNK):
            stop = min(start + _CHUNK, len(self))
            images[start:stop] = self.images(range(start, stop))
            if on_progress is not None:
                on_progress(stop, len(self))
        return images

    def __getstate__(self) -> dict[str, Any]:
        # Maps stay with the process that made them.
        return self.__dict__ | {"_maps": {}}

    @property
    def _shape(self) -> tuple[int, int, int]:
        return self.size, self.size, channel_count(self.channels)

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        features = self._features(index)
        try:
            pixels = decode_image(first_bytes(features, ["image/encoded"])).pixels
        except (ImageError, RecordError) as error:
            raise self._broken(index, str(error)) from error
        if pixels.shape != self._shape or pixels.dtype != np.uint8:
            raise self._broken(index, f"its image is {list(pixels.shape)}, not {list(self._shape)}")
        return pixels

    def _features(self, index: int) -> Features:
        payload = self.payload(index)
        try:
            return decode_example(payload)
        except RecordError as error:
            raise self._broken(index, str(error)) from error

    def _broken(self, index: int, reason: str) -> RecordError:
        shard, offset = self._name(int(self._shards[index])), int(self._offsets[index])
        return RecordError(f"{shard}: record at byte {offset:,}: {reason}; pack the folder again")

    def _name(self, number: int) -> str:
        return str(self.path / self.manifest.shards[number].name)

    def _range(self, index: int | np.integer[Any]) -> tuple[int, int, int]:
        """Return the shard of a record, and the bytes [start, stop) there."""
        number, place = int(self._shards[index]), int(index) % len(self)
        last = place + 1 == len(self) or self._shards[place + 1] != number
        stop = self.manifest.shards[number].bytes if last else int(self._offsets[place + 1])
        return number, int(self._offsets[index]), stop

    def _buffer(self, number: int) -> Buffer:
        if self._blocks is not None:
            return self._blocks.file(number)
        buffer = self._maps.get(number)
        if buffer is None:
            if len(self._maps) >= _MAX_MAPS:
                # Not closed, as another thread may be reading; the last reference closes them.
                self._maps = {}
            buffer = self._maps[number] = map_file(self.path / self.manifest.shards[number].name)
        return buffer

    def _release_pages(self) -> None:
        """Return mapped pages: they stay in the page cache, but not in this process's memory."""
        for buffer in list(self._maps.values()):
            if isinstance(buffer, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                buffer.madvise(mmap.MADV_DONTNEED)

    def _checked_index(self, number: int) -> NDArray[np.int64]:
        """Return the offsets of a shard of the right length; its records are verified when read."""
        shard = self.manifest.shards[number]
        path = self.path / shard.name
        try:
            length = path.size() if path.local is not None else self._sizes[shard.name]
        except (MissingError, KeyError):
            raise RecordError(f"{path}: no such file; {FIX_SHARD}") from None
        if length != shard.bytes:
            raise RecordError(
                f"{path}: ends at byte {length:,} instead of {shard.bytes:,}; {FIX_SHARD}"
            )
        offsets = _index_or_none(path, shard)
        if offsets is None:
            # An index can be rebuilt from its shard.
            offsets = np.array([offset for offset, _ in read_records(path)], np.int64)
        if len(offsets) != shard.count:
            raise RecordError(
                f"{path}: holds {len(offsets)} records instead of {shard.count}; {FIX_SHARD}"
            )
        return offsets

    def _scan(self, number: int, bad: list[str]) -> NDArray[np.int64]:
        """Return the offsets of the whole records of a shard, and add the errors to ``bad``."""
        shard = self.manifest.shards[number]
        path = self.path / shard.name
        index = _index_or_none(path, shard)
        whole: list[int] = []
        try:
            if index is None:
                for offset, payload in scan_records(path):
                    if isinstance(payload, RecordError):
                        bad.append(str(payload))
                    else:
                        whole.append(offset)
                return np.array(whole, np.int64)
            buffer = map_file(path) if self._blocks is None else self._blocks.file(number)
            for offset in index.tolist():  # which locates the record after a broken one
                try:
                    read_record_at(buffer, offset, str(path))
                    whole.append(offset)
                except RecordError as error:
                    bad.append(str(error))
        except InputError as error:
            bad.append(str(error))
        return np.array(whole, np.int64)


def _index_or_none(path: StorePath, shard: ShardInfo) -> NDArray[np.int64] | None:
    try:
        offsets = read_index(path)
    except RecordError:
        return None
    return offsets if len(offsets) == shard.count else None
