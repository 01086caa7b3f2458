"""The encoder, the condition of G, and retrieval: laws first, then sizes counted by hand."""

import numpy as np
import pytest
import torch

from pixmend.errors import ModelFileError
from pixmend.models import (
    DCGAN,
    DCGANSettings,
    Discriminator,
    Encoder,
    Generator,
    Retrieval,
    encode,
    infer,
    initialise,
    kl_to_prior,
    load_model,
    save_model,
)
from pixmend.models.encoder import Encoding, harmonic_fill
from pixmend.rng import generator_for

KNOBS = {"filters": 8, "latent_dim": 6, "latent_prior": "normal"}


def make(
    *,
    size=16,
    channels="RGB",
    encoder="conditional",
    retrieval_images=5,
    hole_init="grey",
):
    settings = DCGANSettings(
        size=size,
        channels=channels,
        encoder=encoder,
        retrieval_images=retrieval_images,
        hole_init=hole_init,
        **KNOBS,
    )
    networks = Generator(settings), Discriminator(settings), Encoder(settings)
    for network in networks:
        initialise(network, generator_for(0, type(network).__name__))
        for part in network.modules():
            if isinstance(part, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                part.weight.data.mul_(10)  # as large as trained ones
        network.eval().requires_grad_(False)
    count = {"L": 1, "RGB": 3, "RGBA": 4}[channels]
    pixels = np.random.default_rng(0).integers(0, 256, (5, count, size, size), np.uint8)
    held = Retrieval(torch.from_numpy(pixels)) if retrieval_images else None
    return DCGAN(settings, networks[0], networks[1], {}, networks[2], held)


def holed(model, count=3, seed=1):
    size, generator = model.settings.size, generator_for(seed, "images")
    channels = model.generator.to_image.out_channels
    target = torch.rand(count, channels, size, size, generator=generator) * 2 - 1
    known = (torch.rand(count, 1, size, size, generator=generator) < 0.6).float()
    return target, known


@pytest.mark.parametrize("size", [16, 32, 64, 96, 128])
@pytest.mark.parametrize(
    ("channels", "retrieval_images"),
    [("L", 0), ("RGBA", 5)],
)
def test_the_condition_has_maps_for_each_layer_of_g_and_a_residual(
    size, channels, retrieval_images
):
    model = make(size=size, channels=channels, retrieval_images=retrieval_images)
    target, known = holed(model, 2)
    found = encode(model, target, known)
    assert found.mean.shape == found.log_variance.shape == (2, 6)
    start = model.settings.start
    sides = [start * 2**depth for depth in range(len(model.settings.widths(8)))]
    assert [list(maps.shape[1:]) for maps in found.condition.maps] == [
        [width, side, side] for width, side in zip(model.settings.widths(8), sides, strict=True)
    ]
    assert found.condition.residual.shape == found.pixel_posterior.mean.shape == target.shape
    assert found.pixel_posterior.log_variance.shape == known.shape
    assert infer(model, target, known).shape == target.shape


def test_with_a_harmonic_fill_e_and_g_correct_it():
    model = make(hole_init="harmonic")
    target, known = holed(model)
    for layer in (model.encoder.residual, model.encoder.to_pixel_posterior):
        layer.weight.data.zero_()
        layer.bias.data.zero_()
    model.generator.to_image.weight.data.zero_()
    guess = 0.97 * harmonic_fill(target, known)
    torch.testing.assert_close(encode(model, target, known).pixel_posterior.mean, guess)
    torch.testing.assert_close(infer(model, target, known), guess)


@pytest.mark.parametrize("hole_init", ["grey", "harmonic"])
def test_known_pixels_matter_and_the_hole_does_not(hole_init):
    model = make(hole_init=hole_init)
    target, known = holed(model)
    other = torch.where(known > 0, target, -target)
    assert torch.equal(infer(model, target, known), infer(model, other, known))
    assert not torch.equal(infer(model, target, known), infer(model, -target, known))
    ours, theirs = (
        encode(model, target, known).pixel_posterior,
        encode(model, other, known).pixel_posterior,
    )
    assert torch.equal(ours.mean, theirs.mean)
    assert torch.equal(ours.log_variance, theirs.log_variance)


def test_without_a_condition_g_is_the_unconditional_dcgan():
    model = make()
    z = torch.randn(4, 6, generator=generator_for(0, "z"))
    target, known = holed(model, 2)
    encoding = encode(model, target, known)
    mixed = model.generator(z, encoding.condition)  # two rows with a condition, two without
    torch.testing.assert_close(mixed[2:], model.generator(z)[2:])
    assert not torch.allclose(mixed[:2], model.generator(z)[:2], atol=1e-2)


def test_the_kl_is_torchs_own():
    mean, log_variance = torch.randn(2, 4, 6, generator=generator_for(0, "kl"))
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(posterior, prior).sum(1)
    torch.testing.assert_close(kl_to_prior(Encoding(mean, log_variance, None, None)), expected)


def test_an_image_gets_the_neighbours_of_a_double_loop_alone_and_among_others():
    bank = make(channels="RGBA", retrieval_images=5).retrieval
    generator = generator_for(3, "neighbours")
    target = (torch.randint(0, 256, (4, 4, 16, 16), generator=generator) / 127.5 - 1).float()
    known = (torch.rand(4, 1, 16, 16, generator=generator) < 0.3).float()
    found = bank.nearest(target, known, 5)
    for row in range(4):
        gaps = [
            ((((target[row] + 1) * 127.5).round() - image) ** 2 * known[row]).sum()
            for image in bank.images.double()
        ]
        assert found[row].tolist() == torch.stack(gaps).argsort().tolist()
        assert torch.equal(
            bank.nearest(target[row : row + 1], known[row : row + 1], 5)[0], found[row]
        )


def test_a_retrieval_image_is_its_own_nearest():
    bank = make().retrieval
    nearest = bank.nearest(bank.take(torch.arange(5)), torch.ones(5, 1, 16, 16))
    assert nearest[:, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "channels",
    ["L", "RGB", "RGBA"],
)
def test_encoder_and_retrieval_travel_in_the_model_file(tmp_path, channels):
    model = make(channels=channels)
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert torch.equal(again.retrieval.images, model.retrieval.images)
    target, known = holed(model)
    assert torch.equal(infer(again, target, known), infer(model, target, known))


def test_retrieval_images_of_another_size_are_refused():
    png = make().retrieval.encode()
    with pytest.raises(ModelFileError, match="retrieval images"):
        Retrieval.decode(png, count=4, channels=3, side=16)
    with pytest.raises(ModelFileError, match="retrieval images"):
        Retrieval.decode(png[:100], count=5, channels=3, side=16)


@pytest.mark.parametrize(
    "knobs",
    [
        {"encoder": "conditional", "latent_prior": "uniform"},
        {"retrieval_images": 8, "encoder": "off"},
    ],
)
def test_settings_that_cannot_go_together_are_refused(knobs):
    with pytest.raises(ValueError, match="encoder"):
        DCGANSettings(**knobs)


def test_more_retrieval_images_than_a_file_can_hold_are_refused_before_training():
    with pytest.raises(ValueError, match=r"retrieval_images = 20000 .* at most 15625 at 64 px"):
        DCGANSettings(size=64, encoder="conditional", retrieval_images=20_000)
    DCGANSettings(size=64, encoder="conditional", retrieval_images=15_625)


def test_distances_to_8_bit_images_are_whole_numbers_and_so_the_same_in_any_order_of_sums():
    bank = make(channels="RGBA", retrieval_images=5).retrieval
    generator = generator_for(3, "neighbours")
    target = (torch.randint(0, 256, (4, 4, 16, 16), generator=generator) / 127.5 - 1).float()
    known = (torch.rand(4, 1, 16, 16, generator=generator) < 0.3).float()
    distances = bank.distances(target, known)
    assert torch.equal(distances, distances.round())
