"""What becomes of a path from a user: empty, of the home folder, too long, or not to be looked into."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixmend.errors import ImageError, InputError, MissingError
from pixmend.images import images_in, open_image
from pixmend.records import find_source
from pixmend.storage import StorePath

LONG = "n" * 300


def test_an_empty_path_is_refused():
    """It would be the current folder, where a variable is not set."""
    with pytest.raises(InputError, match="an empty path; give"):
        StorePath.of("")


def test_the_home_folder_is_expanded_and_nothing_else(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of")
    assert str(StorePath.of("~/res")) == "/home/of/res"
    assert str(StorePath.of("~")) == "/home/of"
    for name in ("~x.png", "a/~/b", "./~/b", "~root/x"):
        assert StorePath.of(name).local.parts == tuple(
            part for part in name.split("/") if part != "."
        )


@pytest.mark.parametrize("name", [LONG, f"{LONG}/a", f"file/{LONG}", "loop", "loop/a", "file/a"])
def test_what_cannot_be_is_not_there(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    place = StorePath(tmp_path / name)
    assert not any([place.exists(), place.is_file(), place.is_folder()])
    with pytest.raises(MissingError, match="no such file or folder") as told:
        place.read_bytes()
    assert "\n" not in str(told.value)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=400))
def test_whatever_is_asked_about_a_name_is_answered(name):
    if not name.startswith(("~", "/")) and "://" not in name:
        place = StorePath.of(f"/nowhere/{name}")
        assert not any([place.exists(), place.is_file(), place.is_folder()])


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """Return a folder whose sub-folder may not be looked into, also for root."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "z.png", "sub/b.png"):
        (tmp_path / "in" / name).touch()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return tmp_path / "in"


def test_a_subfolder_that_cannot_be_read_is_named_among_the_files(locked):
    assert [file.name for file in StorePath(locked).files()] == ["a.png", "sub/", "z.png"]


def test_a_folder_that_cannot_be_read_is_an_error(locked):
    with pytest.raises(InputError, match="sub: cannot be read: Permission denied"):
        list(StorePath(locked / "sub").files())


def test_a_folder_without_the_right_to_search_is_told_in_a_line(tmp_path, monkeypatch):
    def stat(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.stat", stat)
    for ask in (StorePath.exists, StorePath.is_file, StorePath.is_folder):
        with pytest.raises(InputError, match="a: cannot be read: Permission denied"):
            ask(StorePath(tmp_path / "a"))


def test_the_folder_that_may_not_be_searched_is_named_not_what_was_looked_for_in_it(
    tmp_path, monkeypatch
):
    def stat(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.stat", stat)
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "shut")
    with pytest.raises(InputError) as told:
        StorePath(tmp_path / "shut" / "sub" / "manifest.json").is_file()
    assert str(told.value) == f"{tmp_path / 'shut'}: cannot be read: Permission denied"


def test_a_subfolder_that_cannot_be_read_is_an_input_that_fails(locked):
    assert list(images_in(StorePath(locked))) == ["a.png", "sub/", "z.png"]
    with pytest.raises(ImageError):
        open_image(locked / "sub")
    reasons = {source.name: source.reason for source in find_source(locked).images()}
    assert reasons == {"a.png": "", "sub/": "the folder cannot be opened", "z.png": ""}
