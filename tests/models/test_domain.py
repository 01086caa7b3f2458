"""Images out of domain are recognised by their known pixels, against the training images in the model."""

import numpy as np
import pytest
import torch

from pixmend.models import Retrieval
from pixmend.models.retrieval import OutOfDomain


def bars(count, seed=0):
    """Dark bars on white with some noise, uint8 [N, 1, 16, 16]: a domain whose negatives are not of it."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(235, 256, (count, 1, 16, 16))
    for image, left, width in zip(
        pixels, generator.integers(1, 10, count), generator.integers(2, 5, count), strict=True
    ):
        image[0, 2:14, left : left + width] = generator.integers(0, 30)
    return torch.from_numpy(pixels.astype(np.uint8))


def masks():
    known = torch.ones(5, 1, 16, 16)
    known[1, :, :, 8:] = 0
    known[2, :, 4:12, 4:12] = 0
    known[3] = 0
    known[3, :, 4:12, 4:12] = 1
    known[4] = torch.from_numpy(np.random.default_rng(1).random((1, 16, 16)) < 0.2)
    return known


@pytest.mark.parametrize("number", range(5))
def test_images_of_the_domain_are_within_the_threshold_and_negatives_and_noise_beyond(number):
    domain = Retrieval(bars(400)).domain
    known = masks()[number : number + 1].expand(40, -1, -1, -1)
    own = bars(40, seed=5) / 127.5 - 1
    noise = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert (domain.anomaly_score(own, known) <= 1).float().mean() > 0.95
    if number != 3:  # the middle of a bar and of its negative are alike
        assert (domain.anomaly_score(-own, known) > 1).all()
        assert (domain.anomaly_score(noise, known) > 1).all()


def test_neither_the_hole_nor_the_batch_matters():
    domain, known = Retrieval(bars(64)).domain, masks()
    images = bars(5, seed=2) / 127.5 - 1
    scores = domain.anomaly_score(images, known)
    torch.testing.assert_close(domain.anomaly_score(images * known - (1 - known), known), scores)
    alone = [
        domain.anomaly_score(*one) for one in zip(images.split(1), known.split(1), strict=True)
    ]
    torch.testing.assert_close(torch.cat(alone), scores)


def test_it_is_the_distance_of_a_double_loop():
    images = bars(64)
    domain = OutOfDomain.of(images)
    target, known = bars(1, seed=3) / 127.5 - 1, masks()[2:3]
    pixels, weights = (target.double() + 1).flatten() * 127.5, known.flatten()
    compared = images.flatten(1).double()[torch.linspace(0, 63, 64).long()[::2]]
    gaps = min(((pixels - image) ** 2 * weights).sum() for image in compared)
    expected = (gaps / (weights * domain.variance).sum()).sqrt() / domain.threshold
    assert float(domain.anomaly_score(target, known)) == pytest.approx(float(expected), rel=1e-4)


def test_too_few_images_and_equal_ones_are_no_error():
    assert Retrieval(bars(31)).domain is None
    same = bars(1).expand(40, -1, -1, -1).contiguous()
    domain = Retrieval(same).domain
    assert float(domain.anomaly_score(same[:1] / 127.5 - 1, torch.ones(1, 1, 16, 16))) < 1
