"""The napari widget's logic against a real server, with layers and a viewer as plain objects."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from pixmend.errors import ServerError

DRAWS = np.random.default_rng(0)


@pytest.fixture
def napari_pixmend(load_client):
    return load_client("napari_pixmend")


def labels(*shape):
    painted = np.zeros(shape, np.int32)
    painted[..., 6:13, 4:12] = 3
    return painted


IMAGES = {
    "uint8": DRAWS.integers(0, 256, (20, 24), np.uint8),
    "uint16": DRAWS.integers(0, 4096, (20, 24), np.uint16),
    "int32": DRAWS.integers(-500, 500, (20, 24), np.int32),
    "float32": DRAWS.normal(3, 40, (20, 24)).astype(np.float32),
    "float64": DRAWS.normal(0, 1e-6, (20, 24)),
    "rgb": DRAWS.integers(0, 256, (20, 24, 3), np.uint8),
    "rgba": DRAWS.integers(0, 256, (20, 24, 4), np.uint8),
    "rgb floats": DRAWS.random((20, 24, 3), np.float32),
    "stack": DRAWS.integers(0, 256, (2, 20, 24), np.uint8),
    "rgb stack": DRAWS.integers(0, 256, (2, 20, 24, 3), np.uint8),
    "constant": np.full((20, 24), 7.5, np.float32),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_known_pixels_are_bit_identical_and_uncertainty_is_of_the_hole(
    napari_pixmend, served, kind
):
    image, rgb = IMAGES[kind], "rgb" in kind
    painted = labels(20, 24)
    completed, uncertainty = napari_pixmend.complete(
        image, painted, rgb=rgb, url=served.url, model="characters", method="instant"
    )
    assert completed.shape == image.shape
    assert completed.dtype == image.dtype
    hole = np.broadcast_to(painted != 0, uncertainty.shape)
    assert np.array_equal(completed[~hole], image[~hole])
    assert (uncertainty[~hole] == 0).all()
    assert np.isfinite(completed[hole].astype(float)).all()
    low, high = image[~hole].min(), image[~hole].max()
    if image.dtype != np.uint8:
        span = float(high) - float(low)
        assert completed[hole].min() >= float(low) - span * 1e-3
        assert completed[hole].max() <= float(high) + span * 1e-3
        assert uncertainty.max() <= (span or 1)
    if kind != "constant":
        assert uncertainty[hole].max() > 0


def test_eight_bits_are_those_of_the_model_itself(napari_pixmend, served):
    image, painted = IMAGES["rgb"], labels(20, 24)
    model = served.catalogue["characters"].model
    result = model.complete(image, painted != 0, method="instant", seed=2)
    completed, uncertainty = napari_pixmend.complete(
        image, painted, rgb=True, url=served.url, model="characters", method="instant", seed=2
    )
    assert np.array_equal(completed, result.best)
    hole = painted != 0
    assert np.allclose(uncertainty[hole], result.uncertainty[hole])


def test_nan_is_the_hole_without_labels_and_stays_nan_outside_of_them(napari_pixmend, served):
    image = IMAGES["float32"].copy()
    image[2:9, 3:9] = np.nan
    missing = np.isnan(image)
    settings = {"url": served.url, "model": "characters", "method": "instant"}
    completed, _ = napari_pixmend.complete(image, **settings)
    assert np.isfinite(completed).all()
    assert np.array_equal(completed[~missing], image[~missing])
    painted = np.zeros(image.shape, int)
    painted[2:5, 3:9] = 1
    completed, uncertainty = napari_pixmend.complete(image, painted, **settings)
    assert np.array_equal(np.isnan(completed), missing & (painted == 0))
    assert (uncertainty[painted == 0] == 0).all()


def test_without_a_hole_nobody_is_asked(napari_pixmend):
    image = IMAGES["float32"]
    completed, uncertainty = napari_pixmend.complete(image, url="http://127.0.0.1:1")
    assert np.array_equal(completed, image)
    assert not uncertainty.any()


class Viewer:
    def __init__(self):
        self.added = []

    def add_image(self, data, **options):
        self.added.append((data, options))


def test_the_widget_adds_two_layers_where_the_image_lies(napari_pixmend, served, monkeypatch):
    viewer, shown = Viewer(), []
    layer = SimpleNamespace(
        data=IMAGES["rgb"], rgb=True, name="a", scale=(2.0, 2.0), translate=(5.0, 1.0)
    )
    painted = SimpleNamespace(data=labels(20, 24))
    options = {"url": served.url, "model": "characters", "method": "instant", "seed": 0}
    napari_pixmend.run(viewer, layer, painted, **options)
    (completed, first), (uncertainty, second) = viewer.added
    assert (first["name"], second["name"]) == ("a completed", "a uncertainty")
    assert first["rgb"] is True
    assert first["scale"] == second["scale"] == (2.0, 2.0)
    assert completed.shape == (20, 24, 3)
    assert uncertainty.shape == (20, 24)
    notifications = ModuleType("napari.utils.notifications")
    notifications.show_error = shown.append
    for name in ("napari", "napari.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "napari.utils.notifications", notifications)
    napari_pixmend.run(viewer, layer, painted, **{**options, "model": "none"})
    assert "no such model" in shown[0]
    assert len(viewer.added) == 2


def test_a_refusal_is_the_servers_own(napari_pixmend, served):
    with pytest.raises(ServerError, match="no such model"):
        napari_pixmend.complete(IMAGES["uint8"], labels(20, 24), url=served.url, model="none")
