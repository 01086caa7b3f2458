"""Records read back: any images by number, decoded on demand from mapped shards, or from ranges of a store's."""

import mmap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import ImageError, InputError, MissingError, RecordError, StoppedError
from pixmend.images import Channels, Fit, channel_count, decode_image
from pixmend.records.manifest import Manifest, ShardInfo, read_index
from pixmend.records.tfrecord import (
    Features,
    decode_example,
    first_bytes,
    first_int,
    map_file,
    read_record_at,
    read_records,
)
from pixmend.storage import Blocks, Buffer, CachedFile, StorePath, default_cache

_MAX_MAPS = 256  # open at once; each holds a file descriptor
_READS_PER_RELEASE = (
    512  # between two times that mapped pages are given back; each read maps 64 KiB or so
)
_CHUNK = 256  # images between two calls of on_progress
_THREADS = 16  # indices fetched from a store
_FETCH = 64  # images whose blocks are fetched at once


class Records:
    """A folder of records that `pack` wrote.

    Opening reads the manifest and the indices; memory grows by 16 bytes an image. Picklable and
    thread-safe. Shards in a store are read by ranges through a cache of bounded size (`pixmend.storage.default_cache`).

    Parameters
    ----------
    path
        The folder, or its URL.
    skip_bad
        Check every record at opening and leave broken ones out of the numbering; `bad` names
        them.
    should_stop
        Called before each shard is opened.

    Attributes
    ----------
    path
        The folder.
    manifest
        Its settings, classes and shards.
    bad
        The records that ``skip_bad`` left out, a line each.

    Raises
    ------
    InputError
        No records there, or unfinished ones.
    RecordError
        A shard is missing or of another length than was written.
    StoppedError
        ``should_stop`` returned True.
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
        remote = self.path.local is None
        self._sizes = {file.name: file.bytes for file in self.path.files()} if remote else {}
        self._blocks = self._in_blocks() if remote else None
        self._maps: dict[int, Buffer] = {}
        find = self._scan if skip_bad else self._checked_index

        def offsets_of(number: int) -> tuple[NDArray[np.int64], list[str]]:
            if should_stop():
                raise StoppedError
            bad: list[str] = []
            return find(number, bad), bad

        numbers = range(len(self.manifest.shards))
        if remote:
            with ThreadPoolExecutor(_THREADS) as threads:
                found = list(threads.map(offsets_of, numbers))
        else:
            found = [offsets_of(number) for number in numbers]
        offsets = [part for part, _ in found]
        self.bad = tuple(line for _, bad in found for line in bad)
        self._offsets = np.concatenate([np.empty(0, np.int64), *offsets])
        self._shards = np.repeat(np.arange(len(offsets)), [len(part) for part in offsets])
        self._reads = 0

    @property
    def size(self) -> int:
        """Side of the images, in pixels."""
        return self.manifest.settings.size

    @property
    def channels(self) -> Channels:
        """L, RGB or RGBA."""
        assert self.manifest.settings.channels is not None
        return self.manifest.settings.channels

    @property
    def fit(self) -> Fit:
        """How the images were made square."""
        return self.manifest.settings.fit

    @property
    def background(self) -> str:
        """The colour that alpha was composited on, and that ``pad`` added."""
        return self.manifest.settings.background

    @property
    def classes(self) -> tuple[str, ...]:
        """Class texts, by label."""
        return self.manifest.classes

    @property
    def digest(self) -> str:
        """SHA-256 of settings and shards: equal digests, equal images."""
        return self.manifest.digest

    def __len__(self) -> int:
        return len(self._offsets)

    def images(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Return images as uint8 [B, size, size, C].

        Raises
        ------
        RecordError
            A record is broken; names the shard and the offset.
        """
        batch = np.empty((len(indices), *self._shape), np.uint8)
        for place, index in enumerate(indices):
            if self._blocks is not None and place % _FETCH == 0:
                self._blocks.prefetch(map(self._range, indices[place : place + _FETCH]))
            batch[place] = self._pixels(int(index))
        return batch

    def labels(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return labels as int64 [B], -1 for images of no class."""
        features = (self._features(int(index)) for index in indices)
        return np.array([first_int(found, ["image/class/label"]) for found in features], np.int64)

    def names(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> list[str]:
        """Return the names of the files that the images came from."""
        features = (self._features(int(index)) for index in indices)
        return [
            first_bytes(found, ["image/filename"]).decode("utf-8", "replace") for found in features
        ]

    def payload(self, index: int) -> bytes:
        """Return a record as it lies in its shard: a serialised tf.train.Example.

        Raises
        ------
        RecordError
            The record is broken; names the shard and the offset.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        self._reads += 1
        if self._reads % _READS_PER_RELEASE == 0:
            self._release_pages()
        number = int(self._shards[index])
        return read_record_at(self._map(number), int(self._offsets[index]), self._name(number))

    def load_all(
        self, limit_bytes: int, *, on_progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.uint8] | None:
        """Return all images as one uint8 [N, size, size, C] if that takes ``limit_bytes`` at most, else None.

        ``on_progress`` receives (decoded, total).
        """
        if len(self) * int(np.prod(self._shape)) > limit_bytes:
            return None
        everything = np.empty((len(self), *self._shape), np.uint8)
        for start in range(0, len(self), _CHUNK):
            stop = min(start + _CHUNK, len(self))
            everything[start:stop] = self.images(range(start, stop))
            if on_progress is not None:
                on_progress(stop, len(self))
        return everything

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

    def _range(self, index: int | np.integer[Any]) -> tuple[int, int, int]:
        """Return in which shard a record lies, and from and to which byte."""
        number, place = int(self._shards[index]), int(index) % len(self)
        last = place + 1 == len(self) or self._shards[place + 1] != number
        stop = self.manifest.shards[number].bytes if last else int(self._offsets[place + 1])
        return number, int(self._offsets[index]), stop

    def _in_blocks(self) -> Blocks:
        return Blocks(
            [
                CachedFile(self.path / shard.name, shard.bytes, shard.sha256)
                for shard in self.manifest.shards
            ],
            default_cache(),
        )

    def _map(self, number: int) -> Buffer:
        if self._blocks is not None:
            return self._blocks.file(number)
        found = self._maps.get(number)
        if found is None:
            if len(self._maps) >= _MAX_MAPS:
                # Not closed, as another thread may be reading; the last reference closes them.
                self._maps = {}
            found = self._maps[number] = map_file(self.path / self.manifest.shards[number].name)
        return found

    def _release_pages(self) -> None:
        """Release the pages the maps have read: they stay in the page cache, but no longer count as this process's memory."""
        for found in list(self._maps.values()):
            if isinstance(found, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                found.madvise(mmap.MADV_DONTNEED)

    def _name(self, number: int) -> str:
        return str(self.path / self.manifest.shards[number].name)

    def _broken(self, index: int, what: str) -> RecordError:
        shard, offset = self._name(int(self._shards[index])), int(self._offsets[index])
        return RecordError(
            f"{shard}: record at byte {offset:,}: {what}; pack the folder again",
            shard=shard,
            offset=offset,
        )

    def _length(self, path: StorePath) -> int:
        try:
            return path.size() if path.local is not None else self._sizes[path.name]
        except (MissingError, KeyError):
            raise RecordError(f"{path}: no such file; {_FIX}", shard=str(path)) from None
        except InputError as error:
            raise RecordError(f"{error}; {_FIX}", shard=str(path)) from error

    def _checked_index(self, number: int, _: list[str]) -> NDArray[np.int64]:
        """Return the offsets of a shard of the right length; its records are checked when they are read."""
        shard = self.manifest.shards[number]
        path = self.path / shard.name
        length = self._length(path)
        if length != shard.bytes:
            raise RecordError(
                f"{path}: ends at byte {length:,} instead of {shard.bytes:,}; {_FIX}",
                shard=str(path),
                offset=min(length, shard.bytes),
            )
        offsets = _index_or_none(path, shard)
        if offsets is None:
            # An index can be rebuilt from its shard.
            offsets = np.array([offset for offset, _ in read_records(path)], np.int64)
        if len(offsets) != shard.count:
            raise RecordError(
                f"{path}: holds {len(offsets)} records instead of {shard.count}; {_FIX}",
                shard=str(path),
            )
        return offsets

    def _scan(self, number: int, bad: list[str]) -> NDArray[np.int64]:
        """Return the offsets of the whole records of a shard, and add the broken ones to ``bad``."""
        shard = self.manifest.shards[number]
        path = self.path / shard.name
        known = _index_or_none(path, shard)
        good: list[int] = []
        broken: list[RecordError] = []
        try:
            if known is None:
                records = read_records(path, skip_bad=True, on_bad=broken.append)
                good.extend(offset for offset, _ in records)
            else:
                buffer = map_file(path) if self._blocks is None else self._blocks.file(number)
                good.extend(_good_offsets(buffer, str(path), known, broken))
        except InputError as error:
            bad.append(str(error))
        bad.extend(str(error) for error in broken)
        return np.array(good, np.int64)


_FIX = "pack the folder again, or read the rest with --skip-bad"


def _index_or_none(path: StorePath, shard: ShardInfo) -> NDArray[np.int64] | None:
    try:
        offsets = read_index(path)
    except RecordError:
        return None
    return offsets if len(offsets) == shard.count else None


def _good_offsets(
    buffer: Buffer, name: str, offsets: NDArray[np.int64], broken: list[RecordError]
) -> Iterator[int]:
    """Yield the offsets of whole records; the index locates the record after a broken one."""
    for offset in offsets.tolist():
        try:
            read_record_at(buffer, offset, name)
        except RecordError as error:
            broken.append(error)
        else:
            yield offset
