"""Files that are either whole or not there."""

import hashlib
import os
import stat

import pytest

from pixmend.errors import OutputError
from pixmend.storage import (
    append_line,
    atomic_write,
    local,
    make_folder,
    sha256_of,
    write_bytes,
    write_text,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_there_whole_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "a" / "b" / "c.bin", b"content")
    write_text(tmp_path / "a" / "d.txt", "λ")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"content"
    assert (tmp_path / "a" / "d.txt").read_bytes() == "λ".encode()
    assert names(tmp_path / "a" / "b") == ["c.bin"]


def test_until_the_end_a_reader_sees_the_old_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as file:
        file.write(b"new and longer")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new and longer"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_block_that_fails_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail():
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_what_does_not_verify_does_not_replace(tmp_path):
    def refuse(written):
        assert written.read_bytes() == b"new"
        raise OutputError("no good")

    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match="no good"), atomic_write(path, verify=refuse) as file:
        file.write(b"new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(OutputError, match=r"a\.txt.*disk is full") as caught:
        write_text(tmp_path / "a.txt", "content")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_file_where_a_folder_is_needed_is_told(tmp_path):
    (tmp_path / "a").write_text("")
    for attempt in (
        lambda: write_text(tmp_path / "a" / "b.txt", ""),
        lambda: make_folder(tmp_path / "a"),
        lambda: append_line(tmp_path / "a" / "b.txt", ""),
    ):
        with pytest.raises(OutputError, match="a file stands where a folder is needed"):
            attempt()


def test_a_folder_where_a_file_is_to_be_is_told_and_nothing_is_left(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        write_text(tmp_path / "a", "content")
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("letter", ["a", "é", "字", "😀"])
def test_every_name_that_a_file_may_have_can_be_written(tmp_path, letter):
    longest = letter * ((255 - 4) // len(letter.encode())) + ".png"
    write_text(tmp_path / longest, "content")
    assert (tmp_path / longest).read_text() == "content"


def test_a_result_is_as_readable_as_any_other_file(tmp_path):
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")]
    assert modes[0] == modes[1]
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "private", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o600


def test_lines_are_appended_whole(tmp_path):
    for line in ("one", "zwei: ü"):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text().splitlines() == ["one", "zwei: ü"]


def test_names_that_are_no_text_are_written_as_text(tmp_path):
    name = os.fsdecode(b"not-\xff")
    write_text(tmp_path / "a", name)
    append_line(tmp_path / "a", name)
    assert (tmp_path / "a").read_text() == "not-\\udcff\n" * 2


def test_the_digest_is_that_of_the_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
