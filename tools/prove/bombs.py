"""Small image files that take gigabytes, or minutes, of whoever decodes them without a bound."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from pixmend.images import encode_png

__all__ = [
    "deflated_zeros",
    "empty_segments",
    "exif_bomb",
    "image_bombs",
    "png_chunk",
    "structural_bombs",
    "tiff",
    "tile_bomb",
    "with_chunks",
]


def image_bombs() -> dict[str, bytes]:
    """Return file name -> content, of huge images and of huge texts."""
    found = {}
    wide = Image.new("1", (12_000, 12_000))
    for suffix, kind, options in (
        ("png", "PNG", {}),
        ("tif", "TIFF", {"compression": "group4"}),
    ):
        buffer = io.BytesIO()
        wide.save(buffer, kind, **options)
        found[f"144-megapixels.{suffix}"] = buffer.getvalue()
    found["4-gigapixels.gif"] = _gif_of(65_535, 65_535)
    head = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0)
    found["4-exapixels.png"] = (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", head) + png_chunk(b"IEND", b"")
    )
    plain = encode_png(np.zeros((8, 8, 1), np.uint8))
    gigabyte = b"\x78\x9c" + deflated_zeros(1024)
    after_head = 8 + 25
    for kind, body in (
        (b"zTXt", b"Comment\0\0" + gigabyte),
        (b"iTXt", b"Comment\0\1\0\0\0" + gigabyte),
    ):
        content = plain[:after_head] + png_chunk(kind, body) + plain[after_head:]
        found[f"gigabyte-of-text.{kind.decode().lower()}.png"] = content
    found["65535-squared.webp"] = _webp_of(16384, 16384)
    found["2-gigapixels.bmp"] = _bmp_of(46_000, 46_000)
    found["65535-squared.jpg"] = _jpeg_of(65_500, 65_500)
    return found


def structural_bombs() -> dict[str, bytes]:
    """Return file name -> content, of small images with huge or countless parts."""
    return {
        "one-huge-tile.tif": tile_bomb(),
        "a-million-tags.png": exif_bomb(),
        "empty-segments.jpg": empty_segments("JPEG", 10),
        "empty-segments.gif": empty_segments("GIF", 10),
        "a-junk-chunk.png": with_chunks(_plain("PNG"), (b"juNk", bytes(200 * 2**20))),
    }


def tile_bomb() -> bytes:
    """Return a TIFF of 16 x 16 whose only tile has 46,336 x 46,336 pixels."""
    head = [(256, 4, 16), (257, 4, 16), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    samples = b"\x78\x9c" + deflated_zeros(2048)
    return tiff(*head, (322, 4, 46336), (323, 4, 46336), samples=samples)


def exif_bomb() -> bytes:
    """Return a PNG with EXIF of 30,000 tags that share 0.3 MiB."""
    entries = (struct.pack("<HHII", tag, 7, 300_000, 8) for tag in range(1000, 31000))
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 30000) + b"".join(entries) + bytes(4)
    return with_chunks(_plain("PNG"), (b"eXIf", exif))


def empty_segments(kind: str, mebibytes: int) -> bytes:
    """Return a JPEG or GIF with empty segments."""
    content = _plain(kind)
    if kind == "JPEG":
        return content[:2] + b"\xff\xe5\0\2" * (mebibytes * 2**18) + content[2:]
    start = content.index(b"\x2c")
    return content[:start] + b"\x21\xfe\0" * (mebibytes * 2**20 // 3) + content[start:]


def tiff(*fields: tuple[int, int, int], samples: bytes = b"") -> bytes:
    """Return a TIFF of (tag, type, value) with samples behind its only directory."""
    end = 8 + 2 + 12 * (len(fields) + 2) + 4
    entries = [*fields, (324, 4, end), (325, 4, len(samples))]
    content = b"II*\0" + struct.pack("<IH", 8, len(entries))
    content += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return content + bytes(4) + samples


def with_chunks(png: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG with chunks after its header."""
    return png[:33] + b"".join(png_chunk(*each) for each in chunks) + png[33:]


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deflated_zeros(mebibytes: int) -> bytes:
    """Return deflated zeros without a head, by repeating one block, which is faster than compressing all."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + packer.flush()


def _plain(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, kind)
    return buffer.getvalue()


def _webp_of(width: int, height: int) -> bytes:
    bits = 0x2F | ((width - 1) & 0x3FFF) << 8 | ((height - 1) & 0x3FFF) << 22
    body = b"VP8L" + struct.pack("<I", 12) + bits.to_bytes(5, "little") + bytes(7)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _gif_of(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "GIF")
    content = bytearray(buffer.getvalue())
    content[6:10] = struct.pack("<HH", width, height)
    place = content.index(b"\x2c") + 5
    content[place : place + 4] = struct.pack("<HH", width, height)
    return bytes(content)


def _bmp_of(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, 54) + info + bytes(64)


def _jpeg_of(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)
