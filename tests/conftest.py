"""What all tests share: one thread, so that they run beside each other, and tiny untrained models."""

import sys
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from pixmend.cli import main
from pixmend.models import (
    DCGAN,
    DCGANSettings,
    Discriminator,
    Generator,
    initialise,
    sample_latents,
)
from pixmend.rng import generator_for
from tests.stores import environment_for, make_bucket, s3_server


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def browser():
    """Return Chromium, headless; tests that look at pages are skipped without one, and say so."""
    from tests.browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def untrained():
    """Return a maker of tiny models whose draws differ from pixel to pixel, as an untrained net's hardly do."""

    def make(channels="L", *, size=16, fit="crop", latent_dim=6):
        settings = DCGANSettings(
            size=size,
            channels=channels,
            filters=8,
            latent_dim=latent_dim,
            latent_prior="uniform",
        )
        generator, discriminator = Generator(settings), Discriminator(settings)
        initialise(generator, generator_for(0, "generator"))
        initialise(discriminator, generator_for(0, "discriminator"))
        with torch.no_grad():
            generator.to_image.weight.mul_(20)
        for network in (generator, discriminator):
            network.eval().requires_grad_(False)
        return DCGAN(settings, generator, discriminator, {"fit": fit, "background": "white"})

    return make


@pytest.fixture(scope="session")
def lively():
    """Return a maker of untrained models that draw a different image for each z, and whose D tells them apart.

    Batch statistics are those of one batch of draws, and G's last layer is made loud: laws about one image's answer
    say nothing where all answers are one grey. The models are shared: tests must not change them.
    """

    @cache
    def make(
        channels="RGB", *, size=16, latent_dim=8, prior="normal", fit="crop", background="white"
    ):
        settings = DCGANSettings(
            size=size, channels=channels, filters=8, latent_dim=latent_dim, latent_prior=prior
        )
        generator, discriminator = Generator(settings), Discriminator(settings)
        networks = (generator, discriminator)
        for network in networks:
            initialise(network, generator_for(1, type(network).__name__))
            for part in network.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.momentum = None  # statistics become those of the one batch below
        with torch.no_grad():
            z = sample_latents(settings, 64, generator_for(1, "calibrate"))
            generator.to_image.weight.div_(torch.atanh(generator(z).clamp(-0.999, 0.999)).std())
            discriminator(generator(z))
            logits = discriminator(generator(z))
            discriminator.to_logit.weight.div_(logits.std())
        for network in networks:
            network.eval().requires_grad_(False)
        return DCGAN(settings, *networks, {"fit": fit, "background": background})

    return make


@pytest.fixture(scope="session")
def s3_url():
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(s3_url, monkeypatch, request):
    """Return the URL of a bucket of this test's own, on a real S3 server of this machine."""
    for name, value in environment_for(s3_url).items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.nodeid))}"
    make_bucket(s3_url, name)
    return f"s3://{name}"


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def program(monkeypatch, capsys):
    """Return a runner of the whole program in this process, as `pixmend ARGUMENTS` would be."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pixmend", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run
