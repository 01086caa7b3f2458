"""The ComfyUI node, on tensors, against a real server."""

import numpy as np
import pytest
import torch


@pytest.fixture
def node(load_client):
    return load_client("comfyui_pixmend").NODE_CLASS_MAPPINGS["PixmendComplete"]()


def images(count, channels=3, height=22, width=18):
    """Return floats that no 8-bit image has."""
    return torch.rand(count, height, width, channels, generator=torch.Generator().manual_seed(1))


def holes(count, height=22, width=18):
    mask = torch.zeros(count, height, width)
    for number, each in enumerate(mask):
        each[5 : 12 + number, 4:11] = 1
    return mask


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("masks", [1, 2])
def test_known_pixels_are_bit_identical_and_the_hole_is_the_servers(node, served, channels, masks):
    image, mask = images(2, channels), holes(masks)
    before = image.clone()
    (completed,) = node.complete(image, mask, served.url, "instant", 3, "characters")
    assert completed.shape == image.shape
    assert completed.dtype == image.dtype
    hole = (mask > 0.5).expand(2, 22, 18)
    assert torch.equal(completed[~hole], image[~hole])
    assert torch.equal(image, before)  # other nodes have it too
    model = served.catalogue["characters"].model
    for pixels, each, answer in zip(image, hole, completed, strict=True):
        eight = (pixels * 255).round().to(torch.uint8).squeeze(-1).numpy()
        best = model.complete(eight, each.numpy(), method="instant", seed=3).best
        best = torch.from_numpy(np.array(best).reshape(pixels.shape))
        assert torch.equal(answer[each], best[each] / 255)


def test_a_mask_of_one_image_and_no_batch_will_do_and_an_empty_one_asks_nobody(node, served):
    image, mask = images(1), holes(1)[0]
    (completed,) = node.complete(image, mask, served.url, "instant", 0, "characters")
    assert not torch.equal(completed, image)
    (completed,) = node.complete(image, mask * 0, "http://127.0.0.1:1")
    assert torch.equal(completed, image)


def test_what_goes_wrong_is_a_line(node, served):
    image, mask = images(2), holes(2)
    with pytest.raises(RuntimeError, match="no such model here; there are characters, tiny"):
        node.complete(image, mask, served.url, model="none")
    with pytest.raises(RuntimeError, match="run `pixmend serve`"):
        node.complete(image, mask, "http://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="give one mask of the image's size"):
        node.complete(image, mask[:, 1:], served.url)
    with pytest.raises(RuntimeError, match="or one each"):
        node.complete(images(3), mask, served.url)


def test_comfyui_finds_what_it_looks_for(node):
    types = node.INPUT_TYPES()
    assert types["required"]["image"] == ("IMAGE",)
    assert types["required"]["mask"] == ("MASK",)
    assert node.RETURN_TYPES == ("IMAGE",)
    assert callable(getattr(node, node.FUNCTION))
    assert node.CATEGORY
