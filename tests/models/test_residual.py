"""The residual networks: the DCGAN's faces, by shapes and costs worked out by hand and a second way of computing G."""

import copy

import pytest
import torch
import torch.nn.functional as F

from pixmend.models import (
    DCGANSettings,
    Discriminator,
    Generator,
    initialise,
    make_discriminator,
    make_generator,
)
from pixmend.models.dcgan import Condition
from pixmend.rng import generator_for

SETTINGS = DCGANSettings(size=32, channels="RGBA", filters=8, latent_dim=6, arch="residual")


def made(make, settings=SETTINGS):
    """Return a network in evaluation mode, as loud as a trained one."""
    network = make(settings)
    initialise(network, generator_for(0, make.__name__))
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                part.weight.mul_(10)
    return network.eval().requires_grad_(False)


def test_the_default_is_the_dcgan_itself():
    assert type(make_generator(DCGANSettings())) is Generator
    assert type(make_discriminator(DCGANSettings())) is Discriminator


def test_weights_are_those_counted_by_hand():
    settings = DCGANSettings(size=64, filters=64, arch="residual")
    up = sum(9 * 2 * n * n + 16 * n * n + 4 * n for n in (256, 128, 64))  # two norms of n maps
    by_hand = 100 * 512 * 16 + 2 * 512 + up + 64 * 3 * 16 + 3
    by_hand += sum(9 * n * 3 + 3 for n in (512, 256, 128))  # to an image of 4, 8 and 16 pixels
    assert sum(weight.numel() for weight in make_generator(settings).parameters()) == by_hand
    down = sum(16 * n * n + 9 * n * 2 * n + 2 * n + 2 * 2 * n for n in (64, 128, 256))
    by_hand = 3 * 64 * 16 + 64 + down + 512 * 16 + 1
    assert sum(weight.numel() for weight in make_discriminator(settings).parameters()) == by_hand


def test_blocks_whose_convolutions_are_silent_hand_on_what_they_were_given():
    generator, discriminator = made(make_generator), made(make_discriminator)
    for block in [*generator.ups, *discriminator.downs[1:]]:
        block.change[-1].weight.zero_()
    maps = torch.randn(2, 32, 4, 4)
    doubled = generator.ups[0](maps)
    assert torch.equal(doubled, maps[:, :16].repeat_interleave(2, 2).repeat_interleave(2, 3))
    halved = discriminator.downs[2](doubled.relu())
    assert torch.allclose(halved[:, :16], maps[:, :16].relu())
    assert halved[:, 16:].abs().max() == 0


def test_the_image_is_the_sum_of_the_images_of_all_sizes():
    generator = made(make_generator)
    z = torch.randn(3, 6, generator=generator_for(0, "z"))
    maps = F.relu(generator.project_norm(generator.project(z).view(3, 32, 4, 4)))
    levels = [maps]
    for up in generator.ups:
        levels.append(F.relu(up(levels[-1])))
    total = generator.to_image(levels[-1])
    for maps, to_colours in zip(levels[:-1], generator.to_colours, strict=True):
        seen = to_colours(maps)
        while seen.shape[-1] < 32:
            seen = F.interpolate(seen, scale_factor=2, mode="bilinear")
        total = total + seen
    torch.testing.assert_close(generator(z), total.tanh())


@pytest.mark.parametrize("part", range(4))
def test_what_g_is_told_at_each_size_shows_in_the_rows_told_of_alone(part):
    generator = made(make_generator)
    z = torch.randn(4, 6, generator=generator_for(0, "z"))
    told = [torch.zeros(2, width, 4 * 2**n, 4 * 2**n) for n, width in enumerate((32, 16, 8))]
    condition = Condition(told, torch.zeros(2, 4, 32, 32))
    torch.testing.assert_close(generator(z, condition), generator(z))
    more = copy.deepcopy(condition)
    (more.maps[part] if part < 3 else more.residual).fill_(3.0)
    images = generator(z, more)
    torch.testing.assert_close(images[2:], generator(z)[2:])
    assert (images[:2] - generator(z)[:2]).abs().mean() > 0.05


def test_gradients_reach_every_weight():
    generator, discriminator = make_generator(SETTINGS), make_discriminator(SETTINGS)
    discriminator(generator(torch.randn(8, 6))).square().sum().backward()
    for network in (generator, discriminator):
        assert all(weight.grad.abs().max() > 0 for weight in network.parameters())
