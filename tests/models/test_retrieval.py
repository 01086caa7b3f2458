"""Retrieval: fast, and never another image than a double loop finds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixmend.models import Retrieval, retrieval


def nearest_by_loop(images, target, known, count):
    """Return the nearest by sums of whole numbers, the lower number where two are equal."""
    pixels = ((target.double() + 1) * 127.5).round()
    found = []
    for row in range(len(target)):
        gaps = [((pixels[row] - image) ** 2 * known[row]).sum() for image in images.double()]
        found.append(torch.stack(gaps).argsort(stable=True)[:count])
    return torch.stack(found)


@st.composite
def questions(draw):
    """Images of few levels, so that many are as near as others, with masks of any share, some of fractions."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, channels = draw(st.sampled_from([1, 7, 40])), draw(st.sampled_from([1, 3]))
    levels = draw(st.sampled_from([[0, 255], [254, 255], range(256)]))
    images = generator.choice(list(levels), (count, channels, 6, 6)).astype(np.uint8)
    asked = generator.choice(list(levels), (4, channels, 6, 6)).astype(np.uint8)
    shares = generator.random((4, 1, 6, 6)) < draw(st.sampled_from([0.02, 0.3, 1.0]))
    parts = draw(st.sampled_from([[1.0], [0.25, 0.5, 1.0]]))
    known = torch.from_numpy(shares * generator.choice(parts, shares.shape)).float()
    number = draw(st.integers(1, count))
    return torch.from_numpy(images), torch.from_numpy(asked) / 127.5 - 1, known, number


@pytest.mark.parametrize("cached", [0, 2**28], ids=["bounded", "cached"])
@given(questions())
@settings(max_examples=40, deadline=None)
def test_it_finds_what_a_double_loop_finds_whatever_the_mask(cached, question):
    images, target, known, count = question
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_CACHE_BYTES", cached)
        patch.setattr(retrieval, "_CHUNK", 16)
        bank = Retrieval(images)
        numbers = bank.nearest(target, known, count)
        assert torch.equal(numbers, nearest_by_loop(images, target, known, count))
        alone = [
            bank.nearest(*one, count) for one in zip(target.split(1), known.split(1), strict=True)
        ]
        assert torch.equal(torch.cat(alone), numbers)


def test_float32_never_errs_by_more_than_its_bound():
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(200, 256, (64, 3, 32, 32), np.uint8))
    target = torch.from_numpy(generator.integers(200, 256, (8, 3, 32, 32), np.uint8)) / 127.5 - 1
    known = torch.from_numpy(generator.random((8, 1, 32, 32))).float()
    bank = Retrieval(images)
    pixels = ((target.double() + 1) * 127.5).round()
    weights = known.expand_as(target).flatten(1).double()
    seen = retrieval._Seen(weights, weights * pixels.flatten(1))
    errors = (seen.compare(bank._means()) - bank.distances(target, known)).abs()
    assert (errors.amax(1) > 0).any()
    assert (errors.amax(1) <= seen.rounding_error()).all()


def test_images_that_float32_cannot_distinguish_are_ranked():
    # Their squared distances, whole numbers near 2^26, differ by 1, where float32 goes in steps of 4.
    images = torch.full((32, 1, 32, 32), 255, dtype=torch.uint8)
    images[:, 0, 1] = torch.ones(32, 32, dtype=torch.uint8).triu()
    target, known = torch.full((1, 1, 32, 32), -1.0), torch.ones(1, 1, 32, 32)
    for count in range(1, 33):
        nearest = Retrieval(images).nearest(target, known, count)[0].tolist()
        assert nearest == list(range(31, 31 - count, -1))


KNOWN = {
    "center": np.pad(np.zeros((8, 8)), 4, constant_values=1),
    "half": np.arange(16)[None] < np.full((16, 1), 7),
    "sparse": np.random.default_rng(1).random((16, 16)) < 0.2,
    "scattered": np.random.default_rng(2).random((16, 16)) < 0.7,
    "shares": np.random.default_rng(3).random((16, 16)).round(2).repeat(2, 0)[:16],
    "a pixel": np.eye(1, 256).reshape(16, 16),
    "nothing": np.zeros((16, 16)),
    "all": np.ones((16, 16)),
}


def structured(generator, count, channels):
    """Return images of discs and edges, of which many are alike but for a shift or a few pixels."""
    rows, columns = np.mgrid[:16, :16]
    x, y, size, *colours = generator.integers(2, 14, (3 + 2 * channels, count, 1, 1))
    disc = (rows - y) ** 2 + (columns - x) ** 2 < size**2
    planes = [np.where(disc, one * 18, other * 18) for one, other in batched_pairs(colours)]
    images = np.stack(planes, 1).astype(np.uint8)
    images[::5] = np.roll(images[:1], 1, axis=-1)  # ties
    images[1::5, :, ::3, ::5] ^= 1
    return torch.from_numpy(images)


def batched_pairs(values):
    return zip(values[::2], values[1::2], strict=True)


@pytest.mark.parametrize("cached", [0, 2**28], ids=["bounded", "cached"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["random", "structured", "blocks"])
@pytest.mark.parametrize("side", [16, 8, 4], ids=["pixels", "blocks of 2", "blocks of 4"])
def test_it_finds_the_nearest_in_large_images_whatever_the_mask(
    monkeypatch, side, kind, channels, cached
):
    monkeypatch.setattr(retrieval, "_CACHE_BYTES", cached)
    monkeypatch.setattr(retrieval, "_SEARCHED_SIZE", side)
    monkeypatch.setattr(retrieval, "_FIRST", 6)
    generator = np.random.default_rng(0)
    cells = generator.integers(0, 256, (2, 300, channels, 16, 16), np.uint8)
    images = {
        "random": torch.from_numpy(cells[0]),
        "structured": structured(generator, 300, channels),
        "blocks": torch.from_numpy(cells[1, ..., :4, :4].repeat(4, -1).repeat(4, -2)),
    }[kind]
    target = images[: len(KNOWN)].float() / 127.5 - 1
    target[::2] = (target[::2] + torch.randn(target[::2].shape) / 8).clamp(-1, 1)
    known = torch.from_numpy(np.stack(list(KNOWN.values()))).float()[:, None]
    bank = Retrieval(images)
    numbers = bank.nearest(target, known, 4)
    assert torch.equal(numbers, nearest_by_loop(images, target, known, 4))
    alone = [bank.nearest(*one, 4) for one in zip(target.split(1), known.split(1), strict=True)]
    assert torch.equal(torch.cat(alone), numbers)


def test_the_unknown_part_of_a_block_excludes_nothing(monkeypatch):
    monkeypatch.setattr(retrieval, "_SEARCHED_SIZE", 8)
    monkeypatch.setattr(retrieval, "_FIRST", 6)
    known = torch.from_numpy(KNOWN["half"]).float()[None, None]
    images = torch.full((300, 1, 16, 16), 10, dtype=torch.uint8)
    images[200] = 255 * (1 - known[0]).byte()
    target = torch.full((1, 1, 16, 16), -1.0)
    assert Retrieval(images).nearest(target, known, 2).tolist() == [[200, 0]]


def test_means_leave_few_of_images_that_differ_in_them():
    images = structured(np.random.default_rng(0), 300, 1)
    images[1:] = images[1:] // 3
    known = torch.from_numpy(KNOWN["center"]).float()[None, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_SEARCHED_SIZE", 8)
        found = Retrieval(images)._open_by_means(images[:1].double(), known, 1)
    assert len(found[0]) < 300 / 8


def test_a_damaged_image_of_the_bank_is_found_at_64_pixels():
    generator = np.random.default_rng(0)
    small = torch.from_numpy(generator.integers(0, 256, (600, 1, 16, 16), np.uint8))
    images = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    known = torch.from_numpy(generator.random((20, 1, 64, 64)) < 0.3).float()
    target = images[:20].float() / 127.5 - 1
    assert Retrieval(images).nearest(target, known)[:, 0].tolist() == list(range(20))
    assert Retrieval(images).nearest(target, known, exact=False)[:, 0].tolist() == list(range(20))


def test_excluded_images_come_last_in_a_short_list():
    images = torch.arange(0, 250, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 64, 64)
    target, known = torch.full((1, 1, 64, 64), -1.0), torch.ones(1, 1, 64, 64)
    excluded = (torch.arange(250) < 100)[None]
    numbers = Retrieval(images.contiguous()).nearest(
        target, known, 3, excluded=excluded, exact=False
    )
    assert numbers.tolist() == [[100, 101, 102]]
