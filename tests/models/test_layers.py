"""The fast strided convolutions are torch's own, up to rounding: values, gradients, gradients of gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixmend.models import (
    DCGANSettings,
    Discriminator,
    Generator,
    initialise,
    layers,
    minimal_filtering,
    products,
)
from pixmend.models.layers import Downsample, Projection, Upsample
from pixmend.rng import generator_for


@pytest.fixture(params=["filtering", "filtering in pieces"])
def always(request, monkeypatch):
    """Nothing is too small."""
    monkeypatch.setattr(layers, "_MIN_TILES", 1)
    monkeypatch.setattr(minimal_filtering, "MIN_CHANNELS", 1)
    monkeypatch.setattr(minimal_filtering, "MAX_COLOURS", 2)
    if request.param == "filtering in pieces":
        monkeypatch.setattr(minimal_filtering, "_CHUNK_SIZE", 500)


@pytest.fixture
def one_product(monkeypatch):
    """Convolutions of bfloat16 in every precision."""
    monkeypatch.setattr(layers, "minimal_filtering", products)


def draw(*shape):
    values = torch.randn(
        *shape, dtype=torch.float64, generator=generator_for(0, "layers", *map(str, shape))
    )
    return values.requires_grad_()


@pytest.mark.parametrize("narrow", [2, 3, 5])
@pytest.mark.parametrize("side", [2, 4, 6])
def test_upsampling_is_the_transposed_convolution_and_so_are_its_gradients(always, narrow, side):
    maps, weight, seen = (
        draw(3, 7, side, side),
        draw(7, narrow, 4, 4),
        draw(3, narrow, 2 * side, 2 * side),
    )
    compare(
        maps,
        weight,
        seen,
        lambda m, w: layers._apply("fine", None, w, m),
        lambda m, w: F.conv_transpose2d(m, w, None, 2, 1),
    )


@pytest.mark.parametrize("narrow", [2, 3, 5])
@pytest.mark.parametrize("side", [2, 4, 6])
def test_downsampling_is_the_convolution_and_so_are_its_gradients(always, narrow, side):
    maps, weight, seen = (
        draw(3, narrow, 2 * side, 2 * side),
        draw(7, narrow, 4, 4),
        draw(3, 7, side, side),
    )
    compare(
        maps,
        weight,
        seen,
        lambda m, w: layers._apply("coarse", m, w, None),
        lambda m, w: F.conv2d(m, w, None, 2, 1),
    )


@pytest.mark.parametrize("side", [1, 2, 4, 6])
def test_one_product_is_the_convolution_and_its_transpose(one_product, side):
    fine, weight, coarse = draw(3, 5, 2 * side, 2 * side), draw(7, 5, 4, 4), draw(3, 7, side, side)
    compare(
        coarse,
        weight,
        fine.detach(),
        lambda m, w: layers._apply("fine", None, w, m),
        lambda m, w: F.conv_transpose2d(m, w, None, 2, 1),
    )
    compare(
        fine,
        weight,
        coarse.detach(),
        lambda m, w: layers._apply("coarse", m, w, None),
        lambda m, w: F.conv2d(m, w, None, 2, 1),
    )


def test_small_maps_in_bfloat16_are_multiplied_where_a_unit_does_it(monkeypatch):
    calls, apply = [], layers._apply
    record = lambda by, *a, **k: calls.append(by) or apply(by, *a, **k)  # noqa: E731
    monkeypatch.setattr(layers, "_apply", record)
    settings = DCGANSettings(size=32, channels="RGB", filters=32, latent_dim=6)
    network = nn.Sequential(Generator(settings), Discriminator(settings))
    initialise(network, generator_for(0, "weights"))
    z, gradients = torch.randn(8, 6, generator=generator_for(0, "z")), []
    for unit, halved in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(layers, "has_matrix_unit", lambda unit=unit: unit)
        network.zero_grad()
        calls.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=halved, cache_enabled=False):
            loss = network(z).float().square().sum()
        if halved:
            assert calls == (["fine", "fine", "coarse", "coarse"] if unit else []), "of 4 and 8 px"
        loss.backward()
        gradients.append([each.grad.clone() for each in network.parameters()])
    for ours, theirs, exact in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() < 1.5 * (theirs - exact).norm(), "errors are those of bfloat16"


def test_products_are_the_same_by_onednn_and_by_torch(monkeypatch):
    left, right = (draw(9, *shape).detach().float() for shape in ((40, 24), (24, 56)))
    exact = left.double() @ right.double()
    products = {}
    for onednn in {minimal_filtering._ONEDNN, False}:
        monkeypatch.setattr(minimal_filtering, "_ONEDNN", onednn)
        for one, other in ((left, right), (left, right.mT.contiguous().mT)):
            products[onednn] = torch.stack(minimal_filtering._products(one, other))
            torch.testing.assert_close(products[onednn].double(), exact, rtol=1e-6, atol=1e-5)
    if not minimal_filtering._ONEDNN and len(products) == 1:
        pytest.skip("this torch has no oneDNN")
    torch.testing.assert_close(products[True], products[False], rtol=1e-6, atol=1e-5)


def compare(maps, weight, seen, ours, theirs):
    for memory in (torch.contiguous_format, torch.channels_last):
        held = [
            each.detach().contiguous(memory_format=memory).requires_grad_()
            for each in (maps, weight)
        ]
        results = []
        for function in (ours, theirs):
            values = function(*held)
            first = torch.autograd.grad((values * seen).sum(), held, create_graph=True)
            # As gradient penalties need them: the gradient of the gradients' squares.
            second = torch.autograd.grad(sum(each.square().sum() for each in first), held)
            results.append((values, *first, *second))
        for our, their in zip(*results, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-11, atol=1e-11)


def plain(network):
    """Return a copy whose strided convolutions are torch's own."""
    network = copy.deepcopy(network)
    for part in network.modules():
        if isinstance(part, Downsample):
            part.__class__ = nn.Conv2d
        elif isinstance(part, Upsample):
            part.__class__ = nn.ConvTranspose2d
    return network


@pytest.mark.parametrize("kernel", [4, 5])
def test_networks_of_fast_layers_are_those_of_plain_ones(always, kernel):
    settings = DCGANSettings(size=32, channels="RGB", filters=4, kernel=kernel, latent_dim=6)
    networks = [nn.Sequential(Generator(settings), Discriminator(settings)).double()]
    initialise(networks[0], generator_for(0, "weights"))
    networks.append(plain(networks[0]))
    z = torch.randn(5, 6, dtype=torch.float64, generator=generator_for(0, "z"))
    for network in networks:
        network(z).square().sum().backward()
    for ours, theirs in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(networks[0].buffers(), networks[1].buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert networks[0].state_dict().keys() == networks[1].state_dict().keys()


def test_real_widths_take_the_fast_way_in_training_only(monkeypatch):
    calls, apply = [], layers._apply
    monkeypatch.setattr(layers, "_apply", lambda by, *a: calls.append(by) or apply(by, *a))
    settings = DCGANSettings(size=32, filters=64)
    generator, discriminator = Generator(settings), Discriminator(settings)
    z = torch.randn(32, 100)
    with torch.no_grad():
        images = generator(z)
        discriminator(images)
        assert calls == ["fine", "fine", "coarse"], "the widest, and that to colours"
        generator.eval()(z)
        discriminator.eval()(images)
    assert len(calls) == 3


def test_in_float32_rounding_stays_that_of_the_plain_layers():
    maps, weight = draw(64, 256, 8, 8), draw(512, 256, 4, 4)
    exact = F.conv2d(maps, weight, None, 2, 1)
    single = maps.detach().float(), weight.detach().float()
    error = (minimal_filtering.convolve(*single) - exact).abs().max()
    assert error < 5e-6 * exact.abs().max()


@pytest.mark.parametrize("latent_dim", [5, 6, 9, 37, 100, 130])
def test_a_projection_and_its_gradient_are_a_rows_own_in_any_place_of_any_batch(latent_dim):
    project = Projection(latent_dim, 512).eval().requires_grad_(False)
    generator = generator_for(0, "projection", str(latent_dim))
    z = torch.randn(24, latent_dim, generator=generator)
    slopes = torch.randn(24, 512, generator=generator)

    def of(rows):
        at = z[rows].requires_grad_()
        maps = project(at)
        (gradient,) = torch.autograd.grad((maps * slopes[rows]).sum(), at)
        return maps.detach(), gradient

    maps, gradient = of(torch.arange(24))
    torch.testing.assert_close(maps, z @ project.weight.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, slopes @ project.weight, rtol=1e-4, atol=1e-4)
    for count in (8, 16, 24):
        for shift in range(1, 24, 5):
            rows = (torch.arange(count) + shift) % 24
            some, slope = of(rows)
            assert torch.equal(some, maps[rows])
            assert torch.equal(slope, gradient[rows])
