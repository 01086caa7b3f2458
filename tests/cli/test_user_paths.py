"""Paths that are empty, too long or of the home folder, for every verb that takes one."""

import numpy as np
import pytest

from pixmend.images import encode_png
from pixmend.models import save_model
from pixmend.storage import write_bytes

LONG = "n" * 300
VERBS = {
    "pack images": ("pack", "PATH", "out"),
    "pack records": ("pack", "in", "PATH"),
    "train data": ("train", "PATH", "out"),
    "train run": ("train", "in", "PATH", "--set", "device=cpu"),
    "train recipe": ("train", "in", "out", "--recipe", "PATH"),
    "complete model": ("complete", "PATH", "in", "--mask", "center", "--out", "out"),
    "complete input": ("complete", "MODEL", "PATH", "--out", "out"),
    "complete out": ("complete", "MODEL", "in", "--out", "PATH"),
    "complete mask": ("complete", "MODEL", "in", "--out", "out", "--mask", "PATH"),
    "evaluate images": ("evaluate", "MODEL", "PATH", "--out", "out"),
    "evaluate out": ("evaluate", "MODEL", "in", "--out", "PATH"),
    "info": ("info", "PATH"),
    "demo": ("demo", "--out", "PATH"),
    "sample": ("sample", "MODEL", "--out", "PATH"),
}


@pytest.fixture(scope="module")
def model(untrained, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    save_model(untrained(), path)
    return path


def filled(words, path, model):
    """Return the arguments of a verb, with a path and a model."""
    return [{"PATH": path, "MODEL": model}.get(word, word) for word in words]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bytes(tmp_path / "in" / "a.png", encode_png(np.zeros((8, 8, 1), np.uint8)))
    return tmp_path


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_an_empty_path_is_refused_by_every_verb(program, folder, model, verb):
    """As of a variable that is not set; it would be the current folder."""
    ran = program(*filled(verb, "", model))
    assert (ran.code, ran.err.splitlines()[-1][:22]) == (2, "error: an empty path; "), ran.err
    assert [path.name for path in folder.iterdir()] == ["in"]


@pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)
def test_a_name_that_no_file_can_have_is_a_line_for_every_verb(program, folder, model, verb):
    if verb[0] == "demo":
        pytest.skip("it writes only after it has completed the characters")
    ran = program(*filled(verb, LONG + ".png", model))
    assert ran.code == 2
    assert ran.err.splitlines()[-1].startswith("error: ")


def test_the_home_folder_is_expanded(program, folder, model, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert program("sample", model, "--out=~/res/a.png", "--count", 1).code == 0
    assert (folder / "res" / "a.png").is_file()
    assert not (folder / "~").exists()
