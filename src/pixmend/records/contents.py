"""The contents of image sources, fetched in order; each container is opened once."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from pixmend.errors import InputError
from pixmend.records.containers import (
    MAX_MEMBER_BYTES,
    Content,
    Place,
    read_idx,
    read_tfrecord,
    read_zip,
)
from pixmend.records.sources import ImageSource
from pixmend.storage import StorePath

_Result: TypeAlias = tuple[ImageSource, Content | InputError]
_THREADS = 16
_PREFETCH_BYTES = 64 * 2**20  # of files being fetched, unless one alone is larger


def contents(root: StorePath, sources: Iterable[ImageSource]) -> Iterator[_Result]:
    """Yield each source with its content or its error; files of a store are prefetched."""
    if root.local is not None:
        yield from _contents(root, sources)
        return
    waiting: deque[tuple[ImageSource, Future[Content | InputError]]] = deque()
    with ThreadPoolExecutor(_THREADS) as threads:
        try:
            for kind, group in itertools.groupby(sources, key=lambda source: source.kind):
                if kind != "image":
                    yield from _contents(root, group)
                    continue
                for source in group:
                    waiting.append((source, threads.submit(_image_file, root, source)))
                    while len(waiting) > 1 and _is_full([each for each, _ in waiting]):
                        yield _first(waiting)
                while waiting:
                    yield _first(waiting)
        finally:
            for _, future in waiting:
                future.cancel()


def _contents(root: StorePath, sources: Iterable[ImageSource]) -> Iterator[_Result]:
    for (kind, file), group in itertools.groupby(sources, key=lambda each: (each.kind, each.file)):
        if kind == "image":
            yield from ((source, _image_file(root, source)) for source in group)
            continue
        batch = list(group)
        places = [source.place for source in batch if not source.reason]
        contents = _READERS[kind](root / file, places)
        failure: InputError | None = None
        for source in batch:
            if source.reason:
                yield source, InputError(source.reason)
                continue
            try:
                content = failure or next(contents)
            except InputError as error:  # of the container: there are no more
                content = failure = error
            yield source, content


_Reader: TypeAlias = Callable[[StorePath, Iterable[Place]], Iterator[Content | InputError]]
_READERS: dict[str, _Reader] = {"zip": read_zip, "idx": read_idx, "tfrecord": read_tfrecord}


def _is_full(waiting: list[ImageSource]) -> bool:
    return len(waiting) > _THREADS or sum(each.version[0] for each in waiting) > _PREFETCH_BYTES


def _first(waiting: deque[tuple[ImageSource, Future[Content | InputError]]]) -> _Result:
    source, future = waiting.popleft()
    return source, future.result()


def _image_file(root: StorePath, source: ImageSource) -> Content | InputError:
    """Return an image file's bytes, or the error."""
    if source.reason:
        return InputError(source.reason)
    path = root / source.file
    try:
        content = path.read_bytes(0, MAX_MEMBER_BYTES + 1)
    except InputError as error:
        return InputError(str(error).removeprefix(f"{path}: "))
    if len(content) > MAX_MEMBER_BYTES:
        return InputError(f"over the limit of {MAX_MEMBER_BYTES >> 20} MiB a file")
    return content or InputError("the file is empty")
