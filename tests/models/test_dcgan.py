"""The networks: the paper's shapes and rules, against numbers worked out by hand."""

import pytest
import torch
from pydantic import ValidationError

from pixmend.models import (
    DCGANSettings,
    Discriminator,
    Generator,
    initialise,
    sample_latents,
)
from pixmend.rng import generator_for

SIZES = (16, 32, 64, 96, 128, 256)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("kernel", [4, 5])
def test_g_draws_images_of_the_size_asked_and_d_judges_each_with_one_logit(size, channels, kernel):
    settings = DCGANSettings(size=size, channels=channels, filters=4, kernel=kernel, latent_dim=7)
    images = Generator(settings).eval()(torch.randn(3, 7))
    assert images.shape == (3, len(channels), size, size)
    assert images.abs().max() <= 1
    assert Discriminator(settings).eval()(images).shape == (3,)


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def test_parameter_counts_of_a_64_px_net_are_those_counted_by_hand():
    settings = DCGANSettings(size=64, channels="RGB", filters=64, kernel=4, latent_dim=100)
    by_hand = 100 * 512 * 16 + 2 * 512  # projection to 4 x 4 without bias, and its batch norm
    by_hand += 512 * 256 * 16 + 2 * 256  # to 8 x 8
    by_hand += 256 * 128 * 16 + 2 * 128  # to 16 x 16
    by_hand += 128 * 64 * 16 + 2 * 64  # to 32 x 32
    by_hand += 64 * 3 * 16 + 3  # to the image, no batch norm, so with bias
    assert count(Generator(settings)) == by_hand
    by_hand = 3 * 64 * 16 + 64  # to 32 x 32: no batch norm at D's input
    by_hand += 64 * 128 * 16 + 2 * 128
    by_hand += 128 * 256 * 16 + 2 * 256
    by_hand += 256 * 512 * 16 + 2 * 512
    by_hand += 512 * 16 + 1  # to one logit
    assert count(Discriminator(settings)) == by_hand


def test_figure_1_of_the_paper_is_one_setting():
    settings = DCGANSettings(size=64, channels="RGB", filters=128, kernel=5)
    assert settings.widths(settings.filters) == [1024, 512, 256, 128]
    shapes = {name: tuple(value.shape) for name, value in Generator(settings).state_dict().items()}
    assert shapes["project.weight"] == (1024 * 4 * 4, 100)
    assert shapes["ups.0.0.weight"] == (1024, 512, 5, 5)
    assert shapes["ups.2.0.weight"] == (256, 128, 5, 5)
    assert shapes["to_image.weight"] == (128, 3, 5, 5)


def test_the_seeds_own_net_is_one_setting():
    settings = DCGANSettings(
        size=96, channels="RGB", filters=128, discriminator_filters=64, kernel=5
    )
    generator, discriminator = Generator(settings), Discriminator(settings)
    assert [up[0].out_channels for up in generator.ups] == [512, 256, 128]
    assert generator.project.out_features == 1024 * 6 * 6
    assert [down[0].out_channels for down in discriminator.downs] == [64, 128, 256, 512]
    by_hand = 100 * 1024 * 36 + 2 * 1024
    by_hand += 25 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 3) + 2 * (512 + 256 + 128) + 3
    assert count(generator) == by_hand
    by_hand = 25 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512) + 64 + 2 * (128 + 256 + 512)
    by_hand += 512 * 36 + 1
    assert count(discriminator) == by_hand


@pytest.mark.parametrize("kernel", [4, 5])
def test_features_halve_their_side_at_each_layer(kernel):
    settings = DCGANSettings(size=32, channels="L", filters=4, kernel=kernel)
    maps = Discriminator(settings).eval().features(torch.zeros(2, 1, 32, 32))
    assert [tuple(each.shape) for each in maps] == [(2, 4, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4)]


def test_batch_norm_is_everywhere_but_at_gs_output_and_ds_input():
    settings = DCGANSettings(size=64, filters=4)
    generator, discriminator = Generator(settings), Discriminator(settings)
    norms = [part for part in generator.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert len(norms) == 4  # the projection and three doublings; the fourth doubling is the image
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in discriminator.downs[0])
    assert all(isinstance(down[1], torch.nn.BatchNorm2d) for down in discriminator.downs[1:])
    # A normalised layer's own bias would be taken out again.
    assert all(up[0].bias is None for up in generator.ups)
    assert generator.to_image.bias is not None


def test_weights_are_drawn_from_the_papers_normal_and_from_the_seed_alone():
    settings = DCGANSettings(size=64, filters=32)
    first, second, other = Generator(settings), Generator(settings), Generator(settings)
    initialise(first, generator_for(0, "weights"))
    initialise(second, generator_for(0, "weights"))
    initialise(other, generator_for(1, "weights"))
    weight = first.ups[0][0].weight
    assert abs(weight.std().item() - 0.02) < 2e-4
    assert abs(weight.mean().item()) < 2e-4
    assert first.to_image.bias.abs().max() == 0
    gains = torch.cat([up[1].weight for up in first.ups])
    assert abs(gains.mean().item() - 1) < 0.01
    for ours, same, different in zip(
        first.parameters(), second.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(ours, same)
        assert ours.std() == 0 or not torch.equal(ours, different)


def test_latents_come_from_the_prior_named():
    uniform = sample_latents(DCGANSettings(latent_prior="uniform"), 500, generator_for(0, "z"))
    normal = sample_latents(DCGANSettings(latent_prior="normal"), 500, generator_for(0, "z"))
    assert uniform.shape == normal.shape == (500, 100)
    assert uniform.abs().max() <= 1
    assert abs(uniform.std().item() - 3**-0.5) < 0.01
    assert abs(normal.std().item() - 1) < 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 48},
        {"kernel": 3},
        {"channels": "CMYK"},
        {"filters": 0},
        {"typo": 1},
    ],
)
def test_settings_refuse_what_the_nets_cannot_be(wrong):
    with pytest.raises(ValidationError):
        DCGANSettings(**wrong)


@pytest.mark.parametrize("size", [64])
def test_in_evaluation_mode_an_image_does_not_depend_on_its_batch_mates(size):
    settings = DCGANSettings(size=size, filters=8)
    generator, discriminator = Generator(settings).eval(), Discriminator(settings).eval()
    z = sample_latents(settings, 16, generator_for(0, "z"))
    with torch.no_grad():
        together = generator(z)
        half = generator(z[:8])
        assert torch.equal(together[:8], half)
        assert torch.equal(discriminator(together)[:8], discriminator(half))
