"""The contents of items, fetched in order; each container is opened once."""

import hashlib
import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pixmend.errors import InputError, RecordError
from pixmend.records.containers import MAX_MEMBER_BYTES, read_idx_images, read_open_zip
from pixmend.records.foreign import foreign_content
from pixmend.records.sources import ImageSource
from pixmend.records.tfrecord import decode_example, map_file, read_record_at
from pixmend.storage import Blocks, Buffer, CachedFile, StorePath

Content: TypeAlias = bytes | NDArray[np.uint8]  # an image file's bytes, or raw pixels [H, W, C]

_THREADS = 16  # files of a store that are being fetched
_PREFETCH_BYTES = 64 * 2**20  # of these, unless one alone is larger


def contents(
    root: StorePath, items: Iterable[ImageSource]
) -> Iterator[tuple[ImageSource, Content | InputError]]:
    """Yield each item with its content, or with what went wrong: one bad item never loses the rest."""
    if root.local is None:
        yield from _from_store(root, items)
        return
    yield from _of_containers(root, items)


def sha256(content: Content) -> str:
    """Return the SHA-256 of an image file's bytes, or of raw pixels in C order, in hexadecimal."""
    plain = content if isinstance(content, bytes) else content.tobytes()
    return hashlib.sha256(plain).hexdigest()


def _of_containers(
    root: StorePath, items: Iterable[ImageSource]
) -> Iterator[tuple[ImageSource, Content | InputError]]:
    for (kind, file), group in itertools.groupby(items, key=lambda item: (item.kind, item.file)):
        path = root / file
        batch = list(group)
        readable = [item for item in batch if not item.reason]
        reader = {"image": _files, "zip": _zipped, "idx": _idx, "tfrecord": _recorded}[kind]
        results = reader(path, readable)
        for item in batch:
            yield item, InputError(item.reason) if item.reason else next(results)


def _from_store(
    root: StorePath, items: Iterable[ImageSource]
) -> Iterator[tuple[ImageSource, Content | InputError]]:
    """Yield as `contents`, prefetching image files to hide the store's latency."""
    waiting: deque[tuple[ImageSource, Future[Content | InputError]]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for kind, group in itertools.groupby(items, key=lambda item: item.kind):
                if kind != "image":
                    for item, content in _of_containers(root, group):
                        yield from _all(waiting)
                        yield item, content
                    continue
                for item in group:
                    waiting.append((item, threads.submit(_file_or_error, root / item.file, item)))
                    while len(waiting) > 1 and _enough(waiting):
                        first, future = waiting.popleft()
                        yield first, future.result()
                yield from _all(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _enough(waiting: Iterable[tuple[ImageSource, Future[Content | InputError]]]) -> bool:
    sizes = [item.stamp[0] for item, _ in waiting]
    return len(sizes) > _THREADS or sum(sizes) > _PREFETCH_BYTES


def _all(
    waiting: deque[tuple[ImageSource, Future[Content | InputError]]],
) -> Iterator[tuple[ImageSource, Content | InputError]]:
    while waiting:
        item, future = waiting.popleft()
        yield item, future.result()


def _files(path: StorePath, items: list[ImageSource]) -> Iterator[Content | InputError]:
    for item in items:
        yield _file_or_error(path, item)


def _file_or_error(path: StorePath, item: ImageSource) -> Content | InputError:
    """Return an image file's bytes, or what went wrong."""
    if item.reason:
        return InputError(item.reason)
    try:
        content = path.read_bytes(0, MAX_MEMBER_BYTES + 1)
    except InputError as error:
        return InputError(str(error).removeprefix(f"{path}: "))
    if len(content) > MAX_MEMBER_BYTES:
        return InputError(f"over the limit of {MAX_MEMBER_BYTES >> 20} MiB a file")
    return content or InputError("the file is empty")


def _zipped(path: StorePath, items: list[ImageSource]) -> Iterator[Content | InputError]:
    try:
        size = path.size()
        file = path.open()
    except InputError as error:
        yield from (error for _ in items)
        return
    with file:
        for item in items:
            try:
                yield read_open_zip(file, size, item.place)
            except InputError as error:
                yield error


def _idx(path: StorePath, items: list[ImageSource]) -> Iterator[Content | InputError]:
    try:
        yield from read_idx_images(path, (item.place[0] for item in items))
    except InputError as error:
        yield from (error for _ in items)


def _recorded(path: StorePath, items: list[ImageSource]) -> Iterator[Content | InputError]:
    try:
        buffer: Buffer
        if path.local is not None:
            buffer = map_file(path)
        else:
            buffer = Blocks([CachedFile(path, path.size(), "")], None).file(0)
    except InputError as error:
        yield from (error for _ in items)
        return
    for item in items:
        try:
            payload = read_record_at(buffer, item.place[0], path.name)
            yield foreign_content(decode_example(payload))
        except RecordError as error:
            yield error
