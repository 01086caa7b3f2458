"""A napari widget that completes an image layer with a `pixmend serve`.

The hole is the painted part of a Labels layer, or the NaN pixels of the image. Two layers are
added: the completed image, and the uncertainty of each pixel. It needs napari and
``pip install 'pixmend[client]'``:

    import napari
    from napari_pixmend import add_to

    add_to(napari.Viewer())
"""

import os

import numpy as np

from pixmend.client import Client
from pixmend.errors import PixmendError

METHODS = ("default", "instant", "best")


def complete(
    image,
    labels=None,
    *,
    rgb=False,
    url="http://127.0.0.1:8000",
    model="",
    method="default",
    seed=0,
):
    """Complete an image [H, W], a stack [N, H, W], or either of colours [..., 3 or 4] with ``rgb``.

    ``labels`` [H, W] or [N, H, W] are not 0 in the hole; without them NaN pixels are the hole.
    Floats of any range are scaled to [0, 1] and back. Return the completed array, whose known
    pixels are bit-identical, and the uncertainty in units of the image, 0 where pixels are known.
    PixmendError says what cannot be done.
    """
    image = np.asarray(image)
    if image.ndim - rgb == 3:  # a stack
        masks = [None] * len(image) if labels is None else np.broadcast_to(labels, image.shape[:3])
        options = {"rgb": rgb, "url": url, "model": model, "method": method, "seed": seed}
        pairs = [complete(*each, **options) for each in zip(image, masks, strict=True)]
        return tuple(np.stack(part) for part in zip(*pairs, strict=True))
    missing = np.isnan(image) if image.dtype.kind == "f" else np.zeros(image.shape, bool)
    missing = missing.any(-1) if rgb else missing
    hole = missing if labels is None else np.asarray(labels) != 0
    completed, uncertainty = image.copy(), np.zeros(image.shape[:2], np.float32)
    if not hole.any():
        return completed, uncertainty
    scaled, low, span = _scale(image, hole | missing)
    # What is NaN outside the labels stays NaN: the server completes it, and it is not taken.
    client = Client(url, os.environ.get("PIXMEND_TOKEN"))
    result = client.complete(scaled, hole | missing, model=model, method=method, seed=seed)
    white = 255 if scaled.dtype == np.uint8 else 1
    values = low + np.asarray(result.best, np.float64)[hole] * (span / white)
    completed[hole] = values if image.dtype.kind == "f" else np.rint(values)
    uncertainty[hole] = result.uncertainty[hole] * (span / 255)  # from grey levels
    return completed, uncertainty


def _scale(image, hole):
    """Return the image as a server takes it, and the values of its black and of its range."""
    if image.dtype == np.uint8:
        return image, 0.0, 255.0
    known = image[~hole].astype(np.float64)
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    values = (np.nan_to_num(image.astype(np.float64), nan=low) - low) / ((high - low) or 1.0)
    values = np.clip(values, 0, 1).astype(np.float32)
    # A server takes colours of 8 bits.
    scaled = values if image.ndim == 2 else np.round(values * 255).astype(np.uint8)
    return scaled, low, high - low


def add_to(viewer):
    """Add the widget to a viewer, and return it."""
    from magicgui import magicgui
    from napari.layers import Image, Labels

    @magicgui(call_button="Complete", method={"choices": METHODS})
    def widget(
        image: Image, hole: Labels | None = None, url: str = "http://127.0.0.1:8000",
        model: str = "", method: str = "default", seed: int = 0,
    ) -> None:  # fmt: skip
        run(viewer, image, hole, url=url, model=model, method=method, seed=seed)

    viewer.window.add_dock_widget(widget, name="pixmend")
    return widget


def run(viewer, image, hole, **options):
    """Complete a layer and add the two new ones, where the image lies; errors are shown."""
    try:
        labels = None if hole is None else hole.data
        completed, uncertainty = complete(image.data, labels, rgb=image.rgb, **options)
    except PixmendError as error:
        from napari.utils.notifications import show_error

        show_error(f"pixmend: {error}")
        return
    place = {"scale": image.scale, "translate": image.translate}
    viewer.add_image(completed, name=f"{image.name} completed", rgb=image.rgb, **place)
    viewer.add_image(uncertainty, name=f"{image.name} uncertainty", colormap="inferno", **place)
