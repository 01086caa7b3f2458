"""Servers in this process; most tests share one server and one browser."""

import io
import threading
from contextlib import contextmanager
from dataclasses import dataclass, replace

import httpx
import numpy as np
import pytest
from PIL import Image

from pixmend.cli.serve import listen
from pixmend.completion import METHODS
from pixmend.models import save_model
from pixmend.serve import AccessPolicy, Catalogue, Limits, Server, create_app
from tests.browser import watched


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str
    server: Server
    catalogue: Catalogue
    client: httpx.Client

    @property
    def service(self):
        return self.server.config.app.state.service

    def post(self, path="/v1/completions", *, accept="application/json", files=None, **fields):
        files = files or {"image": ("a.png", png(), "image/png")}
        fields = fields if "mask" in files else {"mask_spec": "center", **fields}
        headers = {"Accept": accept}
        return self.client.post(path, files=files, data=fields, headers=headers)

    def metric(self, name):
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(name):
                return float(line.split()[-1])
        return 0.0


def png(height=24, width=20, *, seed=0, mode="RGB", **options):
    bands = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, *bands), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


@contextmanager
def running(server):
    """Run a server; yield its URL."""
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_on, args=[listening])
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.leave()
        thread.join(60)
        assert not thread.is_alive()


@contextmanager
def serving(catalogue, limits=None, policy=None):
    server = Server(create_app(catalogue, limits or Limits(), policy or AccessPolicy()))
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield Served(url, server, catalogue, client)


@pytest.fixture(scope="package", autouse=True)
def small_pool():
    """Searches begin at the best of few samples: the best of thousands takes most of the time of a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "default", replace(METHODS["default"], init_pool=32))
        yield


@pytest.fixture(scope="session")
def tiny_file(lively, tmp_path_factory):
    """Return the file of a tiny model that searches."""
    path = tmp_path_factory.mktemp("served") / "tiny.safetensors"
    save_model(lively(), path)
    return path


@pytest.fixture(scope="session")
def catalogue(tiny_file):
    """Return the bundled model, which completes in one pass, and the tiny one."""
    return Catalogue.load(["characters", str(tiny_file)], device="cpu")


@pytest.fixture(scope="session")
def served(catalogue):
    with serving(catalogue) as running:
        yield running


@pytest.fixture
def limited(catalogue):
    """Return a factory of servers with other limits."""
    return lambda policy=None, **limits: serving(catalogue, Limits(**limits), policy)


@pytest.fixture
def visit(browser, request):
    """Return a factory of pages; any console error or policy violation fails the test."""
    contexts, faults = [], []

    def open_page(path="/", *, server=None, **options):
        url = (server or request.getfixturevalue("served")).url
        context = browser.new_context(accept_downloads=True, reduced_motion="reduce", **options)
        contexts.append(context)
        page = watched(context, faults, allowed=(url, "blob:", "data:"))
        page.goto(url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
