"""Images in a zip, read member by member in memory: nothing is ever written under a name from the archive."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from pixmend.errors import InputError
from pixmend.images import EXTENSIONS
from pixmend.records.members import MAX_MEMBER_BYTES, Member, class_depth
from pixmend.storage import StorePath

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, ..., lengths of name and of extra field
_ENCRYPTED = 0x1
_MAX_RATIO = 1032  # what deflate can reach; more in all means members that share their bytes
_SLACK = 2**20


def members(path: StorePath | Path) -> Iterator[Member]:
    """Yield the images of a zip in order of name.

    A member's place is (header's offset, compressed bytes, bytes, method, CRC-32).

    Raises
    ------
    InputError
        Not a zip, a broken one, or a bomb of overlapping members.
    """
    place = StorePath.of(path)
    try:
        with place.open() as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise InputError(f"{path}: not a zip, or a broken one: {error}; make it anew") from error
    except (OSError, ValueError, EOFError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    total = sum(info.file_size for info in infos)
    if total > _MAX_RATIO * place.size() + _SLACK:
        raise InputError(
            f"{path}: a zip bomb: it claims to hold {total:,} bytes, more than zip can; leave it out"
        )
    found = sorted(
        ((_label(info.filename), info) for info in infos if not info.is_dir()),
        key=lambda pair: (pair[0], pair[1].header_offset),
    )
    images = [(name, info) for name, info in found if _is_image(name)]
    depth = class_depth(name for name, _ in images)
    for name, info in images:
        parents = name.split("/")[:-1]
        text = parents[depth] if len(parents) > depth else None
        where = (
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.compress_type,
            info.CRC,
        )
        yield Member(name, text, where, _objection(info))


def read_member(path: StorePath | Path, place: tuple[int, ...]) -> bytes:
    """Return the bytes of the member at ``place``, never more than the archive declared.

    Raises
    ------
    InputError
        The member is damaged or says less than it holds.
    """
    archive = StorePath.of(path)
    try:
        with archive.open() as file:
            return read_from(file, archive.size(), place)
    except OSError as error:
        raise InputError(f"the archive is damaged: {error}") from error


def read_from(file: IO[bytes], file_size: int, place: tuple[int, ...]) -> bytes:
    """Return the bytes of the member at ``place`` of an open archive; see `read_member`."""
    offset, compressed_size, size, method, crc = place
    try:
        file.seek(offset)
        signature, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        if signature != b"PK\x03\x04":
            raise InputError("the archive is damaged: no member starts where it says")
        file.seek(name_bytes + extra_bytes, 1)
        content = file.read(min(compressed_size, file_size))
        if method == zipfile.ZIP_DEFLATED:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"the archive is damaged: {error}") from error
    if len(content) != size or zlib.crc32(content) != crc:
        raise InputError("the archive is damaged: the member's size or checksum is wrong")
    return content


def _objection(info: zipfile.ZipInfo) -> str:
    """Return why a member cannot be read, or nothing."""
    if info.flag_bits & _ENCRYPTED:
        return "encrypted; zip it without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}; zip it with deflate"
    if info.file_size > MAX_MEMBER_BYTES:
        return f"{info.file_size:,} bytes is over the limit of {MAX_MEMBER_BYTES:,}"
    return ""


def _label(name: str) -> str:
    """Return a member's name without what would make it absolute or climb: it is a label, not a path."""
    parts = name.replace("\\", "/").split("/")
    kept = [part for part in parts if part not in ("", ".", "..") and not part.endswith(":")]
    return "/".join(kept).encode("utf-8", "replace").decode()


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in EXTENSIONS and not hidden
