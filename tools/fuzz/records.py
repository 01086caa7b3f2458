"""Fuzz targets of records: shards, their messages, their index and the manifest."""

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from pixmend.errors import InputError, PixmendError, RecordError
from pixmend.images import decode_image, encode_png
from pixmend.records import Manifest, PackSettings, Records, ShardInfo
from pixmend.records.containers import image_of_example
from pixmend.records.manifest import write_index
from pixmend.records.tfrecord import (
    decode_example,
    encode_example,
    frame_record,
    map_file,
    masked_crc,
    read_record_at,
    read_records,
    scan_records,
)
from tools.fuzz.scratch import fresh, scratch

__all__ = [
    "check_example",
    "check_index",
    "check_manifest",
    "check_shard",
    "example_seeds",
    "index_seeds",
    "manifest_seeds",
    "shard_seeds",
]

_HEADER = struct.Struct("<8sQII")
_SHARD = "images-00000-of-00001.tfrecord"


def check_shard(content: bytes) -> None:
    """A shard gives its intact records, strictly and leniently, and an error otherwise.

    If the lowest bit of the first byte is set, all checksums are corrected, to reach the code
    behind them.
    """
    body = content[1:]
    path = scratch() / "shard.tfrecord"
    path.write_bytes(_with_right_checksums(body) if content[:1] and content[0] & 1 else body)
    strict: list[tuple[int, bytes]] = []
    broken: list[RecordError] = []
    lenient: list[tuple[int, bytes]] = []
    whole = True
    try:
        strict.extend(read_records(path))
    except RecordError:
        whole = False
    for offset, payload in scan_records(path):
        if isinstance(payload, RecordError):
            broken.append(payload)
        else:
            lenient.append((offset, payload))
    assert whole != bool(broken)
    assert lenient[: len(strict)] == strict
    assert not whole or lenient == strict
    buffer, end = map_file(path), 0
    for offset, payload in lenient:
        assert offset >= end, "records overlap"
        assert read_record_at(buffer, offset) == payload
        end = offset + 16 + len(payload)
    assert end <= len(buffer)


def check_example(content: bytes) -> None:
    """A message is refused, or round-trips; as a foreign record it is an image or refused."""
    with contextlib.suppress(RecordError):
        once = encode_example(decode_example(content))
        assert encode_example(decode_example(once)) == once
    with contextlib.suppress(InputError):
        image = image_of_example(decode_example(content))
        pixels = decode_image(image).pixels if isinstance(image, bytes) else image
        assert pixels.ndim == 3
        assert pixels.shape[2] in (1, 3, 4)


def check_index(content: bytes) -> None:
    """With any index, images are correct or refused; with ``skip_bad`` opening always succeeds.

    The lowest bit of the first byte corrects count and checksum of the index.
    """
    folder, body = _record_folder(), content[1:]
    if content[:1] and content[0] & 1:
        offsets = body[: len(body) // 8 * 8]
        body = _HEADER.pack(b"PXMINDEX", len(offsets) // 8, masked_crc(offsets), 0) + offsets
    (folder / _SHARD).with_suffix(".index").write_bytes(body)
    right = [image.tobytes() for image in _images()]
    lenient = Records(folder, skip_bad=True)
    assert all(image.tobytes() in right for image in lenient.images(range(len(lenient))))
    with contextlib.suppress(RecordError):
        strict = Records(folder)
        assert len(strict) == len(right)
        for index in range(len(strict)):
            # An index may reorder records, but an offset without a record is an error.
            assert strict.images([index]).tobytes() in right


def check_manifest(content: bytes) -> None:
    """A manifest is refused with a message, or its folder opens or is refused.

    The lowest bit of the first byte corrects the digest.
    """
    folder, body = _record_folder(), content[1:]
    if content[:1] and content[0] & 1:
        body = _with_right_digest(body)
    (folder / "manifest.json").write_bytes(body)
    with contextlib.suppress(InputError):
        manifest = Manifest.read(folder)
        assert all("/" not in shard.name for shard in manifest.shards)
    for skip_bad in (False, True):
        with contextlib.suppress(InputError):
            records = Records(folder, skip_bad=skip_bad)
            for index in range(len(records)):
                with contextlib.suppress(RecordError):
                    assert records.images([index]).shape[1:3] == (records.size, records.size)
                    records.labels([index])
                    records.names([index])


def shard_seeds() -> Iterator[bytes]:
    """Yield intact shards, with and without corrected checksums, and a broken one."""
    shard = _framed([b"", b"a", b"\0" * 40, b"record" * 10])
    yield b"\1" + shard
    yield b"\0" + shard
    yield b"\1" + shard[:-3]
    yield b"\0" + shard[:20] + b"?" + shard[21:]
    yield b"\0\x1f\x8b"


def example_seeds() -> Iterator[bytes]:
    """Yield messages of this project, of every type of value, and of foreign schemas."""
    yield _examples()[0]
    yield encode_example({"a": [1, -1], "b": [0.5, 1e30], "c": [b"x", b""], "d": []})
    yield encode_example({"image_raw": bytes(12), "height": 2, "width": 2, "depth": 3, "label": 7})
    yield encode_example({"image": encode_png(_images()[0]), "label": b"seven"})
    yield b"\x0a\x0e\x0a\x0c\x0a\x01a\x12\x07\x1a\x05\x08\x01\x08\xff\x01"  # numbers one by one


def index_seeds() -> Iterator[bytes]:
    """Yield the correct index, and correct and wrong offsets."""
    index = _right_index()
    yield b"\0" + index
    yield b"\1" + index[_HEADER.size :]
    yield b"\1" + struct.pack("<3Q", 0, 2**63, 2**64 - 1)
    yield b"\1" + struct.pack("<3Q", 5, 0, 0)


def manifest_seeds() -> Iterator[bytes]:
    """Yield the correct manifest, with and without digest correction."""
    text = _right_manifest()
    yield b"\0" + text
    yield b"\1" + text
    facts = json.loads(text) | {"shards": [], "count": 0, "classes": ["a", "b"]}
    yield b"\1" + json.dumps(facts).encode()


def _with_right_checksums(body: bytes) -> bytes:
    """Walk the records by their lengths, and correct both checksums of each that fits."""
    fixed, place = bytearray(body), 0
    while place + 16 <= len(fixed):
        fixed[place + 8 : place + 12] = struct.pack(
            "<I", masked_crc(bytes(fixed[place : place + 8]))
        )
        length = int.from_bytes(fixed[place : place + 8], "little")
        start, end = place + 12, place + 12 + length
        if end + 4 > len(fixed):
            break
        fixed[end : end + 4] = struct.pack("<I", masked_crc(bytes(fixed[start:end])))
        place = end + 4
    return bytes(fixed)


def _with_right_digest(body: bytes) -> bytes:
    try:
        facts: Any = json.loads(body)
        digest = Manifest.model_validate(facts).digest
    except (ValueError, ValidationError, PixmendError, RecursionError, TypeError):
        return body
    return json.dumps(facts | {"digest": digest}).encode()


def _framed(payloads: list[bytes]) -> bytes:
    return b"".join(map(frame_record, payloads))


@cache
def _images() -> tuple[Any, ...]:
    generator = np.random.default_rng(0)
    return tuple(generator.integers(0, 256, (8, 8, 1), np.uint8) for _ in range(3))


@cache
def _examples() -> tuple[bytes, ...]:
    return tuple(
        encode_example(
            {
                "image/encoded": encode_png(pixels),
                "image/format": b"png",
                "image/filename": f"{number}.png",
                "image/class/label": number,
            }
        )
        for number, pixels in enumerate(_images())
    )


@cache
def _right_manifest() -> bytes:
    shard = _framed(list(_examples()))
    info = ShardInfo(
        name=_SHARD, count=3, bytes=len(shard), sha256=hashlib.sha256(shard).hexdigest()
    )
    settings = PackSettings(size=8, channels="L")
    manifest = Manifest(settings=settings, count=3, left_out=0, shards=(info,))
    return json.dumps(manifest.model_dump(mode="json") | {"digest": manifest.digest}).encode()


@cache
def _right_index() -> bytes:
    path = scratch() / "right.tfrecord"
    path.write_bytes(_framed(list(_examples())))
    write_index(path, np.array([offset for offset, _ in read_records(path)], np.uint64))
    return path.with_suffix(".index").read_bytes()


def _record_folder() -> Path:
    """Return a new record folder of three images."""
    folder = fresh("records")
    (folder / _SHARD).write_bytes(_framed(list(_examples())))
    (folder / _SHARD).with_suffix(".index").write_bytes(_right_index())
    (folder / "manifest.json").write_bytes(_right_manifest())
    return folder
