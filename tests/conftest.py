"""Fixtures of all tests: one torch thread, so that tests run in parallel, and tiny untrained models."""

import os
import sys
from dataclasses import dataclass
from functools import cache, partial

import pytest
import torch

import tools.untrained
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
from pixmend.storage import retry
from tests.stores import environment_for, make_bucket, s3_server
from tests.webserver import website


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """Flush nothing: that is half the time of a tiny run, and no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def browser():
    """Return headless Chromium; tests of pages are skipped without it."""
    from tests.browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def untrained():
    """Return a maker of tiny untrained models with a uniform prior."""
    return partial(tools.untrained.untrained, latent_prior="uniform")


@pytest.fixture(scope="session")
def lively():
    """Return a maker of untrained models whose images depend on z, and whose D tells them apart.

    Batch norm statistics are those of one batch of samples, and G's last layer is amplified: laws of
    completion mean nothing if all images are grey. The models are shared: tests must not change them.
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
    """Return the URL of a new bucket on a real local S3 server."""
    for name, value in environment_for(s3_url).items():
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.nodeid))}"
    make_bucket(s3_url, name)
    return f"s3://{name}"


@pytest.fixture
def site():
    """Return a web server of this process."""
    with website() as running:
        yield running


@pytest.fixture
def model_cache(tmp_path, monkeypatch):
    """Return the folder of local copies of models by URL, one of this test's own; no failure is waited for."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    return tmp_path / "cache" / "pixmend" / "models"


@dataclass(frozen=True)
class Ran:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def program(monkeypatch, capsys):
    """Return a function that runs `pixmend ARGUMENTS` in this process."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["pixmend", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return Ran(code, output.out, output.err)

    return run
