"""The GIMP plug-in against a real server, with images of a stand-in for GIMP's introspected API.

The names and arguments that the stand-in has are those of GIMP 3.0.4's Gimp-3.0.gir.
"""

import ast
import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.integrations.conftest import INTEGRATIONS

MODES = {"Y' u8": "L", "Y'A u8": "LA", "R'G'B' u8": "RGB", "R'G'B'A u8": "RGBA", "Y u8": "L"}


class Buffer:
    def __init__(self, pixels):
        self.pixels = pixels  # [H, W, C]

    def get(self, area, scale, space, abyss):
        assert (scale, abyss) == (1.0, "none")
        height, width = self.pixels.shape[:2]
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[self.pixels.shape[2]]
        image = Image.fromarray(self.pixels.squeeze()).convert(MODES[space])
        assert mode == image.mode or {mode, image.mode} <= {"RGB", "RGBA"} or mode[0] == "L"
        values = np.zeros((area.height, area.width, len(image.getbands())), np.uint8)
        content = np.asarray(image).reshape(height, width, -1)
        for y in range(area.height):
            for x in range(area.width):
                if 0 <= y + area.y < height and 0 <= x + area.x < width:
                    values[y, x] = content[y + area.y, x + area.x]
        return values.tobytes()

    def set(self, area, space, content):
        depth = len(Image.new(MODES[space], (1, 1)).getbands())
        self.pixels[:] = np.frombuffer(content, np.uint8).reshape(area.height, area.width, depth)

    def flush(self):
        pass


class Layer:
    def __init__(self, pixels, offsets=(0, 0)):
        self.buffer, self.offsets = Buffer(pixels), offsets

    @classmethod
    def new(cls, image, name, width, height, kind, opacity, mode):
        assert (opacity, mode) == (100.0, "normal")
        return cls(np.zeros((height, width, {"graya": 2, "rgba": 4}[kind]), np.uint8))

    def get_width(self):
        return self.buffer.pixels.shape[1]

    def get_height(self):
        return self.buffer.pixels.shape[0]

    def get_offsets(self):
        return (True, *self.offsets)

    def set_offsets(self, x, y):
        self.offsets = (x, y)

    def get_buffer(self):
        return self.buffer

    def get_parent(self):
        return None

    def is_gray(self):
        return self.buffer.pixels.shape[2] < 3

    def has_alpha(self):
        return self.buffer.pixels.shape[2] in (2, 4)


class Canvas:
    """An image of layers, and a selection of its own size."""

    def __init__(self, layers, selection):
        self.layers, self.selection, self.groups = layers, Layer(selection[..., None]), 0

    def get_layers(self):
        return self.layers

    def get_selection(self):
        return self.selection

    def get_item_position(self, layer):
        return self.layers.index(layer)

    def insert_layer(self, layer, parent, position):
        self.layers.insert(position, layer)

    def undo_group_start(self):
        self.groups += 1

    def undo_group_end(self):
        self.groups -= 1

    def delete(self):
        self.layers = None


class Procedure:
    def __init__(self, run):
        self.run, self.arguments, self.said = run, {}, {}

    @classmethod
    def new(cls, plug_in, name, kind, run, data):
        return cls(run)

    def add_string_argument(self, name, nick, blurb, value, flags):
        self.arguments[name] = value

    def new_return_values(self, status, error):
        return status, error

    def __getattr__(self, name):
        assert name in (
            "set_image_types", "set_sensitivity_mask", "set_menu_label", "add_menu_path",
            "set_documentation", "set_attribution",
        )  # fmt: skip
        return lambda *values: self.said.update({name: values})


def file_load(run_mode, path):
    image = Image.open(path)
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    return Canvas([Layer(pixels)], np.zeros((image.height, image.width), np.uint8))


def rectangle(x, y, width, height):
    return SimpleNamespace(x=x, y=y, width=width, height=height)


@pytest.fixture
def plug_in(load_client, monkeypatch):
    gimp = SimpleNamespace(
        PlugIn=object, ImageProcedure=Procedure, Layer=Layer, file_load=file_load,
        ImageType=SimpleNamespace(GRAYA_IMAGE="graya", RGBA_IMAGE="rgba"),
        LayerMode=SimpleNamespace(NORMAL="normal"),
        RunMode=SimpleNamespace(INTERACTIVE=0, NONINTERACTIVE=1),
        PDBProcType=SimpleNamespace(PLUGIN=1),
        PDBStatusType=SimpleNamespace(SUCCESS="success", EXECUTION_ERROR="error", CANCEL="cancel"),
        ProcedureSensitivityMask=SimpleNamespace(DRAWABLE=1),
        progress_init=lambda message: True, displays_flush=lambda: True,
    )  # fmt: skip
    gegl = SimpleNamespace(
        Rectangle=SimpleNamespace(new=rectangle),
        AbyssPolicy=SimpleNamespace(NONE="none"),
        init=lambda arguments: None,
    )
    repository = ModuleType("gi.repository")
    repository.Gimp, repository.Gegl = gimp, gegl
    repository.Gio = SimpleNamespace(File=SimpleNamespace(new_for_path=lambda path: path))
    repository.GLib = SimpleNamespace(Error=lambda message="": message)
    repository.GObject = SimpleNamespace(ParamFlags=SimpleNamespace(READWRITE=3))
    gi = ModuleType("gi")
    gi.require_version = lambda name, version: None
    gi.repository = repository
    monkeypatch.setitem(sys.modules, "gi", gi)
    monkeypatch.setitem(sys.modules, "gi.repository", repository)
    return load_client("gimp_pixmend")


def canvas(mode, offsets=(0, 0)):
    """Return an image of 26 x 22 pixels with a layer of 24 x 20, and its layer."""
    depth = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(depth).integers(0, 256, (20, 24, depth), np.uint8)
    if mode in ("LA", "RGBA"):
        pixels[..., -1] = 255
    selection = np.zeros((22, 26), np.uint8)
    selection[7:14, 8:17] = 255
    selection[7, 8] = 127  # a feathered corner, less than half selected
    layer = Layer(pixels, offsets)
    return Canvas([layer], selection), layer


@pytest.mark.parametrize("offsets", [(0, 0), (2, 1), (-3, -2), (9, 8)])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_the_new_layer_is_the_servers_hole_and_nothing_else(plug_in, served, mode, offsets):
    image, layer = canvas(mode, offsets)
    before = layer.buffer.pixels.copy()
    added = plug_in.complete(image, layer, served.url, model="characters", method="instant")
    assert image.layers == [added, layer]
    assert added.offsets == offsets
    assert np.array_equal(layer.buffer.pixels, before)  # bit-identical, as the layer is untouched
    hole = np.zeros((20, 24), bool)
    for y in range(20):
        for x in range(24):
            row, column = y + offsets[1], x + offsets[0]
            if 0 <= row < 22 and 0 <= column < 26:
                hole[y, x] = image.selection.buffer.pixels[row, column, 0] >= 128
    assert hole.any()
    opacity = added.buffer.pixels[..., -1]
    assert np.array_equal(opacity == 255, hole)
    assert np.array_equal(opacity == 0, ~hole)
    model = served.catalogue["characters"].model
    best = model.complete(Image.fromarray(before.squeeze()), hole, method="instant").best
    colours = 1 if mode in ("L", "LA") else 3
    best = np.asarray(best).reshape(20, 24, -1)[..., :colours]
    assert np.array_equal(added.buffer.pixels[hole][:, :colours], best[hole])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_what_is_sent_is_a_png_of_exactly_these_pixels(plug_in, mode):
    _, layer = canvas(mode)
    content = plug_in.png(layer.buffer.pixels.tobytes(), 24, 20)
    image = Image.open(io.BytesIO(content))
    assert image.mode == mode
    assert np.array_equal(np.asarray(image).reshape(20, 24, -1), layer.buffer.pixels)


def test_the_procedure_runs_and_says_what_is_wrong(plug_in, served):
    procedure = plug_in.Pixmend().do_create_procedure(plug_in.NAME)
    assert plug_in.Pixmend().do_query_procedures() == [plug_in.NAME]
    assert procedure.said["add_menu_path"] == ("<Image>/Filters/Enhance",)

    def ran(**values):
        values = {**procedure.arguments, "url": served.url, "method": "instant", **values}
        config = SimpleNamespace(get_property=values.get)
        image, layer = canvas("RGB")
        if values.get("nothing"):
            image.selection.buffer.pixels[:] = 0
        status, error = procedure.run(procedure, 1, image, [layer], config, None)
        assert image.groups == 0
        assert len(image.layers) == (2 if status == "success" else 1)
        return status, error

    assert ran() == ("success", "")
    assert ran(nothing=True) == ("error", "pixmend: select the pixels to complete")
    status, error = ran(model="none")
    assert status == "error"
    assert "no such model here" in error
    assert "run `pixmend serve`" in ran(url="http://127.0.0.1:1")[1]
    assert "cannot be reached" in ran(url="nowhere")[1]


HOSTS = {
    "gimp_pixmend": {"gi"},
    "napari_pixmend": {"napari", "magicgui", "numpy", "pixmend"},
    "comfyui_pixmend": {"torch", "numpy", "PIL"},
}


@pytest.mark.parametrize("name", HOSTS)
def test_a_client_is_one_file_of_its_host_and_the_standard_library(name):
    tree = ast.parse((INTEGRATIONS / f"{name}.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) <= HOSTS[name]
    assert {path.stem for path in INTEGRATIONS.glob("*.py")} == set(HOSTS)
