"""The clients of host programs, loaded as those load them: from their one file."""

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.serve.conftest import catalogue, served, tiny_file  # noqa: F401 - fixtures

INTEGRATIONS = Path(__file__).parent.parent.parent / "integrations"


@pytest.fixture
def load_client(monkeypatch):
    """Return a function that loads a client."""

    def load(name):
        spec = importlib.util.spec_from_file_location(name, INTEGRATIONS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return load
