"""Transforms of what D sees: each image by its own draws, with gradients, alpha kept sane, nothing at probability 0."""

import pytest
import torch

from pixmend.rng import generator_for
from pixmend.training.augment import (
    AUGMENTATION_DRAWS,
    DRAWS,
    augment,
    diffaugment,
    horizontal_flip,
    make_diffaugment,
    unchanged,
)

ALL = ("colour", "translation", "cutout")
CHANNELS = [1, 3, 4]


def images_of(channels, *, count=5, height=12, width=8, dtype=torch.float32):
    generator = generator_for(0, "images", channels)
    return (torch.rand(count, channels, height, width, generator=generator) * 2 - 1).to(dtype)


def draws_of(count=5, key=0):
    return torch.rand(count, DRAWS, generator=generator_for(0, "draws", key))


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("name", ALL)
def test_gradients_flow_through_each_transform(channels, name):
    images = images_of(channels, count=2, height=6, width=4, dtype=torch.float64).requires_grad_()
    draws = draws_of(2)
    assert torch.autograd.gradcheck(
        lambda x: diffaugment(x, draws, (name,), probability=1.0), images
    )
    assert torch.autograd.gradgradcheck(
        lambda x: diffaugment(x, draws, (name,), probability=1.0).sin(), images
    )


@pytest.mark.parametrize("channels", CHANNELS)
def test_at_probability_0_images_come_back_bit_for_bit(channels):
    images = images_of(channels)
    assert torch.equal(diffaugment(images, draws_of(), ALL, probability=0.0), images)
    assert torch.equal(diffaugment(images, draws_of(), (), probability=1.0), images)


@pytest.mark.parametrize("name", ALL)
def test_each_is_applied_to_its_share_of_the_images(name):
    images = images_of(3, count=400)
    changed = diffaugment(images, draws_of(400), (name,), probability=0.3) != images
    assert 0.2 < changed.flatten(1).any(1).float().mean() < 0.4


@pytest.mark.parametrize("channels", CHANNELS)
def test_an_image_is_transformed_alone_as_it_is_among_others(channels):
    images, draws = images_of(channels), draws_of()
    together = diffaugment(images, draws, ALL, probability=0.8)
    for index in range(len(images)):
        one = slice(index, index + 1)
        assert torch.equal(
            diffaugment(images[one], draws[one], ALL, probability=0.8), together[one]
        )


def test_real_and_drawn_images_meet_the_same_kind_of_transform():
    # The same draws do the same to either: the difference is carried along, so D compares like with like.
    real, fake, draws = images_of(3), images_of(3).flip(0), draws_of()
    for name in ("translation", "cutout"):
        moved = diffaugment(real, draws, (name,), probability=1.0)
        bare = diffaugment(torch.zeros_like(real), draws, (name,), probability=1.0)
        other = diffaugment(fake, draws, (name,), probability=1.0)
        difference = diffaugment(real - fake, draws, (name,), probability=1.0)
        torch.testing.assert_close(moved - other, difference - bare)


@pytest.mark.parametrize("channels", CHANNELS)
def test_translation_moves_all_channels_by_the_same_whole_pixels_up_to_an_eighth(channels):
    size = 16
    ramp = torch.arange(1.0, size * size + 1).view(1, 1, size, size).expand(64, channels, -1, -1)
    moved = diffaugment(ramp, draws_of(64), ("translation",), probability=1.0)
    shifts = set()
    for image in moved:
        found = None
        for down in range(-2, 3):
            for right in range(-2, 3):
                there = torch.full((channels, size, size), 0.0)
                if channels == 4:
                    there[3] = -1
                rows = slice(max(0, down), size + min(0, down))
                columns = slice(max(0, right), size + min(0, right))
                from_rows = slice(max(0, -down), size + min(0, -down))
                from_columns = slice(max(0, -right), size + min(0, -right))
                there[:, rows, columns] = ramp[0][:, from_rows, from_columns]
                if torch.equal(image, there):
                    found = (down, right)
        assert found is not None
        shifts.add(found)
    assert {down for down, _ in shifts} == {right for _, right in shifts} == {-2, -1, 0, 1, 2}


def test_cutout_empties_at_most_a_rectangle_of_half_the_sides():
    cut = diffaugment(torch.ones(64, 3, 12, 8), draws_of(64), ("cutout",), probability=1.0)
    areas = (cut == 0).all(1).sum((1, 2))
    assert areas.max() == 6 * 4
    assert ((cut == 0) | (cut == 1)).all()


def test_alpha_is_left_alone_by_colour_and_stays_within_its_range():
    images = images_of(4)
    coloured = diffaugment(images, draws_of(), ("colour",), probability=1.0)
    assert torch.equal(coloured[:, 3], images[:, 3])
    assert not torch.equal(coloured[:, :3], images[:, :3])
    assert torch.equal(
        coloured[:, :3], diffaugment(images[:, :3], draws_of(), ("colour",), probability=1.0)
    )
    for name in ("translation", "cutout"):
        bared = diffaugment(torch.ones_like(images), draws_of(), (name,), probability=1.0)
        assert set(bared[:, 3].unique().tolist()) == {-1.0, 1.0}
        assert torch.equal(bared[:, 3] == -1, bared[:, 0] == 0)


def test_grey_has_brightness_and_contrast_but_no_saturation():
    grey = images_of(1, dtype=torch.float64)
    changed = diffaugment(grey, draws_of(), ("colour",), probability=1.0)
    for before, after in zip(grey.flatten(1), changed.flatten(1), strict=True):
        slope = (after - after.mean()) / (before - before.mean())
        assert slope.std() < 1e-9
        assert 0.5 <= slope.mean() <= 1.5
        assert (after.mean() - before.mean()).abs() <= 0.5


def test_draws_are_a_function_of_the_generator_alone():
    images = images_of(3)
    first, again, other = (
        make_diffaugment(ALL, 1.0, 5, generator_for(0, "augment", step)) for step in (3, 3, 4)
    )
    assert torch.equal(first(images), again(images))
    assert torch.equal(first(images), first(images))
    assert not torch.equal(first(images), other(images))
    assert make_diffaugment((), 1.0, 5, generator_for(0)) is unchanged


def test_augmentation_keeps_the_kind_of_image_and_are_functions_of_their_draws():
    """Law: whole grey levels in [-1, 1], alpha's values kept, equal for equal draws whatever else is in the batch."""
    levels = torch.randint(0, 256, (64, 4, 8, 8), generator=generator_for(0, "levels"))
    images = levels / 127.5 - 1
    draws = torch.rand(64, AUGMENTATION_DRAWS, generator=generator_for(0, "augmentation"))
    varied = augment(images, draws, 0.5)
    pixels = (varied + 1) * 127.5
    assert torch.allclose(pixels, pixels.round(), atol=1e-4)
    assert varied.abs().max() <= 1
    alphas = [(each[:, 3].flatten(1).sort(1).values) for each in (images, varied)]
    assert torch.equal(*alphas)
    kept = torch.tensor([torch.equal(a, b) for a, b in zip(images, varied, strict=True)])
    assert torch.equal(kept, draws[:, 0] >= 0.5)
    assert torch.equal(augment(images[5:6], draws[5:6], 0.5), varied[5:6])
    assert torch.equal(augment(images[:, :1], draws, 0.0), images[:, :1])
    every = augment(images, draws, 1.0)
    assert not any(torch.equal(a, b) for a, b in zip(images, every, strict=True))


def test_mirror_flips_about_half_left_to_right():
    images = images_of(3, count=200)
    mirrored = horizontal_flip(images, torch.rand(200, generator=generator_for(0, "mirror")))
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(mirrored, images, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(mirrored, images, strict=True)]
    assert sum(flipped) + sum(kept) == 200
    assert 70 < sum(flipped) < 130
