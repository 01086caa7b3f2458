"""Images: the only room with PIL, image files, alpha, EXIF and ICC.

Outside, pixels are uint8 (or uint16, for 16-bit grey) arrays [H, W, C]; inside, float32 tensors [C,
H, W] in [-1, 1]. The conversion is here and nowhere else.
"""

from pixmend.images.drawing import contact_sheet, grid, thumbnail, write_animation
from pixmend.images.image_files import (
    EXTENSIONS,
    FORMATS,
    KNOWN_KINDS,
    MAX_PIXELS,
    decode_image,
    encode_png,
    find_images,
    image_bytes,
    images_at,
    images_in,
    is_image,
    lossless_suffix,
    open_image,
    passed_over,
    png_bytes,
    read_array,
    save_image,
)
from pixmend.images.picture import Limits, Picture, check_limits
from pixmend.images.pixels import (
    Channels,
    Fit,
    Pixels,
    channel_count,
    fit_square,
    parse_colour,
    to_channels,
    to_eight_bits,
    to_pixels,
    to_tensor,
)
