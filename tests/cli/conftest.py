"""Searches that begin at the best of few samples: at the best of thousands, a search of two steps takes seconds."""

from dataclasses import replace

import pytest

from pixmend.completion import METHODS


@pytest.fixture(autouse=True)
def small_pool(monkeypatch):
    monkeypatch.setitem(METHODS, "default", replace(METHODS["default"], init_pool=32))
