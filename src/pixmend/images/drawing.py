"""Grids, contact sheets and animations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pixmend.images.pixels import Pixels, to_channels, to_eight_bits
from pixmend.storage import atomic_write

_PAPER = (250, 250, 248)
_INK = (40, 40, 44)


def grid(images: Pixels, columns: int | None = None, *, gap: int = 2, min_cell: int = 0) -> Pixels:
    """Arrange images [N, H, W, C] in rows of one uint8 [H', W', 3], by default sqrt(N) columns.

    Images below ``min_cell`` pixels are enlarged by a whole factor.
    """
    count, height, width, _ = images.shape
    columns = columns or max(1, round(count**0.5))
    factor = max(1, -(-min_cell // max(height, width)))
    rows = -(-count // columns)
    cell_height, cell_width = height * factor + gap, width * factor + gap
    sheet = np.empty((rows * cell_height + gap, columns * cell_width + gap, 3), np.uint8)
    sheet[:] = _PAPER
    for index, image in enumerate(images):
        top = gap + index // columns * cell_height
        left = gap + index % columns * cell_width
        tile = np.repeat(np.repeat(_over_checks(image), factor, axis=0), factor, axis=1)
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def contact_sheet(
    rows: Sequence[Sequence[Pixels | None]],
    captions: Sequence[str],
    *,
    cell: int = 128,
    labels: Sequence[str] = (),
) -> Pixels:
    """Arrange rows of images, as thumbnails of ``cell`` pixels, under captions: uint8 [H, W, 3].

    None leaves a cell empty. ``labels`` are written above the rows.
    """
    gap, header, line = 8, 26, 16 if labels else 0
    font = ImageFont.load_default(13)
    width = gap + len(captions) * (cell + gap)
    height = header + len(rows) * (line + cell + gap) + gap
    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, caption in enumerate(captions):
        middle = gap + column * (cell + gap) + cell // 2
        draw.text((middle, header // 2 + 2), caption, fill=_INK, font=font, anchor="mm")
    for row, images in enumerate(rows):
        start = header + row * (line + cell + gap) + line
        if labels:
            draw.text((gap, start - line // 2), labels[row], fill=_INK, font=font, anchor="lm")
        for column, pixels in enumerate(images):
            if pixels is None:
                continue
            tile = thumbnail(pixels, cell)
            left = gap + column * (cell + gap) + (cell - tile.shape[1]) // 2
            top = start + (cell - tile.shape[0]) // 2
            sheet.paste(Image.fromarray(tile), (left, top))
    return np.asarray(sheet)


def thumbnail(pixels: Pixels, cell: int) -> Pixels:
    """Return an image as uint8 [h, w, 3], at most ``cell`` pixels, alpha over a checkerboard.

    Small images are enlarged by a whole factor with crisp pixels, large ones reduced.
    """
    image = Image.fromarray(_over_checks(pixels))
    longest = max(image.size)
    scale = cell // longest or cell / longest
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    crisp = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return np.asarray(image.resize(size, crisp))


def write_animation(
    frames: Sequence[Pixels], path: Path, *, seconds_per_frame: float = 0.15
) -> None:
    """Write uint8 [H, W, 3] frames as a looping GIF, atomically; the last frame stays for 1.5 s."""
    images = [Image.fromarray(frame) for frame in frames]
    durations = [round(1000 * seconds_per_frame)] * (len(images) - 1) + [1500]
    with atomic_write(path) as file:
        images[0].save(
            file, "GIF", save_all=True, append_images=images[1:], duration=durations, loop=0
        )


def _over_checks(pixels: Pixels) -> Pixels:
    """Return uint8 [H, W, 3], alpha composited on a checkerboard as in picture editors."""
    pixels = to_eight_bits(pixels)
    if pixels.shape[-1] != 4:
        return np.ascontiguousarray(to_channels(pixels, "RGB"))
    height, width, _ = pixels.shape
    square = max(2, max(height, width) // 16)
    rows, columns = np.ogrid[:height, :width]
    checks = np.where((rows // square + columns // square) % 2, 205, 240)[..., None]
    alpha = pixels[..., 3:].astype(np.float64) / 255
    return np.rint(pixels[..., :3] * alpha + checks * (1 - alpha)).astype(np.uint8)
