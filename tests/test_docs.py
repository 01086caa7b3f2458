"""The docs say what is true: names resolve, links lead somewhere, the tour runs."""

import importlib
import re
import warnings
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from pixmend.cli.app import app
from pixmend.completion import METHODS
from pixmend.masks import SHAPES
from pixmend.training import TrainSettings, recipe_names

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_every_name_in_a_page_resolves(page):
    for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / link).exists(), link
    for name in re.findall(r"`(pixmend(?:\.\w+)+)", page.read_text()):
        parts = name.split(".")
        for cut in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:cut]))
                break
            except ModuleNotFoundError:
                continue
        for part in parts[cut:]:
            found = getattr(found, part)


def test_every_setting_verb_mask_method_and_recipe_is_in_the_docs():
    verbs = [command.callback.__name__ for command in app.registered_commands]
    for name in (*TrainSettings.model_fields, *verbs, *SHAPES, *METHODS, *recipe_names()):
        assert re.search(rf"`{re.escape(name)}\b|{re.escape(name)}`|pixmend {name} ", TEXT), name


def test_the_tour_runs():
    notebook = nbformat.read(ROOT / "examples" / "tour.ipynb", as_version=4)
    with warnings.catch_warnings():
        # The kernel's own machinery warns of its transports on some systems.
        warnings.simplefilter("ignore")
        NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in shown) >= 3
