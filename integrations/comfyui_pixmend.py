"""A ComfyUI node that completes the masked pixels of images with a `pixmend serve`.

Copy this file into ComfyUI/custom_nodes/. It needs nothing but ComfyUI and a running server.
"""

import json
import urllib.error
import urllib.request
import uuid
from io import BytesIO

import numpy as np
import torch
from PIL import Image

METHODS = ["default", "instant", "best"]


class PixmendComplete:
    """IMAGE [B, H, W, C] and MASK [B or 1, H, W], both in [0, 1] (1 = hole) -> IMAGE.

    Pixels outside the hole come out bit-identical. Those inside are 8-bit values.
    """

    CATEGORY = "image/inpainting"
    FUNCTION = "complete"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "image": ("IMAGE",),
                "mask": ("MASK",),
                "url": ("STRING", {"default": "http://127.0.0.1:8000"}),
                "method": (METHODS,),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1}),
            },
            "optional": {
                "model": ("STRING", {"default": ""}),
                "token": ("STRING", {"default": ""}),
            },
        }

    def complete(self, image, mask, url, method="default", seed=0, model="", token=""):
        """Return the completed images; a RuntimeError has the server's own words."""
        mask = mask[None] if mask.ndim == 2 else mask
        if mask.shape[0] not in (1, image.shape[0]) or mask.shape[1:] != image.shape[1:3]:
            raise RuntimeError(
                f"pixmend: the mask is {list(mask.shape)} and the image {list(image.shape)}; "
                "give one mask of the image's size, or one each"
            )
        hole = (mask >= 0.5).expand(image.shape[:3])  # [B, H, W]
        fields = {"method": method, "seed": seed, "model": model}
        completed = image.clone()
        for pixels, each in zip(completed, hole, strict=True):
            if each.any():
                answer = _ask(url, token, _bytes_of(pixels), _bytes_of(each.float()), fields)
                values = torch.from_numpy(answer).to(pixels)[each.to(pixels.device)] / 255
                pixels[each] = values
        return (completed,)


def _bytes_of(image):
    """Return an image [H, W] or [H, W, C] in [0, 1] as uint8."""
    return (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _ask(url, token, image, mask, fields):
    """Return the server's completion, uint8 [H, W, C]."""
    parts = [
        (f'name="{name}"', str(value).encode()) for name, value in fields.items() if value != ""
    ]
    for name, pixels in (("image", image), ("mask", mask)):
        file = BytesIO()
        Image.fromarray(pixels.squeeze()).save(file, "PNG")
        parts.append((f'name="{name}"; filename="{name}.png"', file.getvalue()))
    line = uuid.uuid4().hex
    body = b"".join(
        f"--{line}\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n"
        for head, content in parts
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={line}", "Accept": "image/png"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    address = f"{url.rstrip('/')}/v1/completions"
    request = urllib.request.Request(address, body + f"--{line}--\r\n".encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=300) as response:
            answer = np.array(Image.open(response))
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"pixmend: {_detail_of(error)}") from None
    except OSError as error:
        raise RuntimeError(
            f"pixmend: {url} cannot be reached ({error}); run `pixmend serve`"
        ) from error
    return answer.reshape(*image.shape)


def _detail_of(error):
    try:
        return json.load(error)["detail"]
    except (ValueError, KeyError, TypeError):
        return f"status {error.code}; is it a pixmend server?"


NODE_CLASS_MAPPINGS = {"PixmendComplete": PixmendComplete}
NODE_DISPLAY_NAME_MAPPINGS = {"PixmendComplete": "Complete with pixmend"}
