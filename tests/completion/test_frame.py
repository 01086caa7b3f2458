"""The part of an image that the model sees, on images that are not square."""

import pytest
import torch
import torch.nn.functional as F

from pixmend.completion.view import Frame, frame_for
from pixmend.masks import make_mask

FITS = ("crop", "pad", "stretch")


@pytest.mark.parametrize("fit", FITS)
def test_at_the_models_size_seeing_and_putting_back_change_nothing(fit):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    known = torch.from_numpy(make_mask("random:0.4", 16, 16).known)
    frame = frame_for(known, fit)
    target, seen = frame.view(image, known, 16, torch.ones(3))
    assert torch.equal(seen[0] == 1, known)
    assert torch.equal(target[:, known], image[:, known])
    assert torch.equal(frame.put_back(image, torch.zeros_like(image)), image)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    "spec", ["center:0.2", "half:left", "half:bottom", "random:0.5", "strokes"]
)
@pytest.mark.parametrize("shape", [(50, 21), (21, 50), (9, 12), (3, 70)])
def test_the_frame_covers_the_hole_and_what_is_drawn_reaches_all_of_it(fit, spec, shape):
    known = torch.from_numpy(make_mask(spec, *shape).known)
    frame = frame_for(known, fit)
    put = frame.put_back(torch.ones(1, 16, 16), torch.zeros(1, *shape))
    assert torch.all(put[0][~known] > 0.999)


@pytest.mark.parametrize("shape", [(64, 20), (20, 64), (7, 200), (40, 40)])
def test_each_model_pixel_is_known_by_the_share_of_known_pixels_it_covers(shape):
    # 16 divides none of these sizes alone; a side that grows and a side that shrinks meet in one image.
    known = torch.from_numpy(make_mask("random:0.7", *shape).known)
    frame = Frame(0, 0, *shape, outside_known=False)
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    target, seen = frame.view(image, known, 16, torch.ones(1))
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1 + 1e-6
    assert abs(float(seen.mean()) - 0.3) < 0.05
    if min(shape) >= 16:
        share = F.adaptive_avg_pool2d(known[None].float(), 16)
        torch.testing.assert_close(seen, share)
    # A constant image looks constant wherever anything of it is known.
    target, seen = frame.view(torch.full((1, *shape), 0.25), known, 16, torch.ones(1))
    torch.testing.assert_close(target[seen > 0], torch.full_like(target[seen > 0], 0.25))


def test_a_long_image_is_averaged_along_the_side_that_shrinks():
    stripes = torch.zeros(1, 8, 160)
    stripes[..., ::2] = 1  # mean 0.5 everywhere at a tenth of the width
    known = torch.ones(8, 160, dtype=torch.bool)
    target, _ = Frame(0, 0, 8, 160, outside_known=False).view(stripes, known, 16, torch.zeros(1))
    torch.testing.assert_close(target, torch.full((1, 16, 16), 0.5))


def test_turning_an_image_turns_its_view():
    image = torch.rand(3, 50, 21, generator=torch.Generator().manual_seed(0))
    known = torch.from_numpy(make_mask("strokes:0.3", 50, 21).known)
    for fit in FITS:
        straight = frame_for(known, fit).view(image, known, 16, torch.ones(3))
        turned = frame_for(known.T, fit).view(image.mT, known.T, 16, torch.ones(3))
        for ours, theirs in zip(straight, turned, strict=True):
            torch.testing.assert_close(ours.mT, theirs)
