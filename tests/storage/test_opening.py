"""Files are opened by name only if they are regular, bounded and ours: a folder may have other users."""

import fcntl
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from pixmend.errors import InputError, OutputError, PixmendError
from pixmend.images import encode_png
from pixmend.models import DCGAN, DCGANSettings, load_model, model_file, save_model
from pixmend.models.dcgan import Discriminator, Generator
from pixmend.records import Manifest, PackSettings, Records, pack
from pixmend.storage import (
    BlockCache,
    JsonlWriter,
    StorePath,
    append_line,
    jsonl,
    local,
    open_file,
    remove_leftovers,
    shared,
)
from pixmend.training.checkpoint import newest_checkpoint
from pixmend.training.run_directory import RunDirectory, open_run, read_lines
from pixmend.training.settings import TrainSettings, read_recipe
from tests.stores import Counted, fresh

SECRET = b"what belongs to others\n"


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    return path


def put_pipe(path):
    os.mkfifo(path)


def put_device(path):
    path.symlink_to("/dev/zero")


def put_hole(path):
    with path.open("wb") as file:
        file.truncate(20 * 2**30)


def open_and_lock(run):
    with open_run(RunDirectory(run), TrainSettings(steps=1), {}):
        pass


def pack_again(folder):
    pack(folder, folder, PackSettings())


READERS = {
    "an image of any kind": lambda path: StorePath(path).read_bytes(),
    "JSON": lambda path: StorePath(path).read_json(),
    "text": lambda path: StorePath(path).read_text(),
    "lines": lambda path: list(StorePath(path).lines()),
    "a log": read_lines,
    "a recipe": read_recipe,
    "a model": load_model,
    "a manifest": lambda path: Manifest.read(path.rename(path.with_name("manifest.json")).parent),
}


@pytest.mark.parametrize("put", [put_pipe, put_device, put_hole])
@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_what_blocks_or_never_ends_is_refused_in_a_line(tmp_path, put, reader):
    put(tmp_path / "file")
    with pytest.raises(PixmendError) as told:
        reader(tmp_path / "file")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("put", [put_pipe, put_device, put_hole])
def test_a_checkpoint_that_is_no_file_is_damaged(tmp_path, put):
    put(tmp_path / "step-00000001.safetensors")
    with pytest.raises(PixmendError, match="all checkpoints are damaged"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize("put", [put_pipe, put_device, put_hole])
@pytest.mark.parametrize("name", ["manifest.json", ".pack.json", "inputs.jsonl", "*.index"])
def test_records_with_a_file_that_is_none_are_refused_or_read(image_folder, tmp_path, put, name):
    out = tmp_path / "records"
    pack(image_folder, out, PackSettings(size=8))
    (path,) = out.glob(name)
    path.unlink()
    put(path)
    told = []
    for action in (lambda: Records(out), lambda: pack(image_folder, out, PackSettings(size=8))):
        try:
            action()
        except PixmendError as error:
            told.append(str(error))
    assert not any("\n" in line for line in told)
    assert bool(told) == (name in ("manifest.json", ".pack.json"))


@pytest.fixture
def image_folder(tmp_path):

    from pixmend.images import to_tensor  # noqa: F401

    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(encode_png(np.zeros((8, 8, 1), np.uint8)))
    return folder


@pytest.mark.parametrize("link", ["symlink_to", "pipe"])
def test_the_lock_of_a_run_empties_no_file_of_others(tmp_path, victim, link):
    run = tmp_path / "run"
    run.mkdir()
    if link == "pipe":
        os.mkfifo(run / ".lock")
    else:
        (run / ".lock").symlink_to(victim)
    with pytest.raises(OutputError, match=r"\.lock: cannot be written: .*; remove it"):
        open_and_lock(run)
    assert victim.read_bytes() == SECRET


def test_nothing_is_written_through_a_link(tmp_path, victim):
    link = tmp_path / "link"
    link.symlink_to(victim)
    for mode in ("wb", "ab", "r+b", "a+b"):
        with pytest.raises(OSError, match="Too many levels"):
            open_file(link, mode)
    with pytest.raises(OutputError, match="a link stands there"):
        append_line(link, "line")
    with (
        pytest.raises(OutputError, match="a link stands there"),
        JsonlWriter(StorePath(link), lambda _: ""),
    ):
        pass
    local.write_text(link, "ours")
    assert not link.is_symlink()
    assert victim.read_bytes() == SECRET


def test_no_file_of_others_is_made_through_a_link_to_nothing(tmp_path):
    (tmp_path / "link").symlink_to("made")
    with pytest.raises(OSError, match="Too many levels"):
        open_file(tmp_path / "link", "ab")
    assert not (tmp_path / "made").exists()


def test_packing_works_in_no_folder_of_others(image_folder, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    (others / "progress").write_bytes(SECRET)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".pack").symlink_to(others)
    with pytest.raises(OutputError, match=r"\.pack: a link"):
        pack(image_folder, tmp_path / "out", PackSettings(size=8))
    assert [path.name for path in others.iterdir()] == ["progress"]


def test_a_link_to_a_regular_file_is_read(tmp_path, victim):
    (tmp_path / "link").symlink_to(victim)
    assert StorePath(tmp_path / "link").read_bytes() == SECRET


def test_a_line_without_an_end_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"x\n" + b"y" * 2**20 + b"\n")
    lines = StorePath(tmp_path / "a").lines()
    assert next(lines) == b"x\n"
    with pytest.raises(InputError, match="a line of over 1 MiB"):
        next(lines)


def test_only_temporary_files_of_ours_are_removed(tmp_path):
    ours = tmp_path / f".a.png.abcd_123{local.TEMPORARY}"
    others = [tmp_path / name for name in (".notes.20261129.tmp", ".a.b.abcdefgh.tmp", "x.tmp")]
    for path in (ours, *others):
        path.write_bytes(SECRET)
    with shared(tmp_path, [tmp_path]):
        pass
    assert not ours.exists()
    assert all(path.exists() for path in others)


def test_every_temporary_file_of_ours_is_known_as_one(tmp_path):
    copies = tmp_path / "copies"
    copies.mkdir()
    for number, name in enumerate(["a", "é" * 100, "z.png"]):
        folder = tmp_path / f"{number}"
        with local.atomic_write(folder / name):
            (temporary,) = folder.iterdir()
            (copies / temporary.name).touch()
    remove_leftovers(copies)
    assert not list(copies.iterdir())


def test_a_cache_touches_only_its_own_files(tmp_path, victim):
    folder = tmp_path / "cache"
    photo = folder / "2024" / "20241129"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(SECRET)
    cache = BlockCache(folder, 1)
    assert photo.read_bytes() == SECRET
    cache.put(b"k" * 32, 0, b"block")
    assert cache.get(b"k" * 32, 0) == b"block"
    (slot,) = folder.glob("*/*.pixmend-block")
    slot.unlink()
    slot.symlink_to(victim)
    cache.put(b"k" * 32, 0, b"block")
    assert victim.read_bytes() == SECRET
    slot.unlink()
    os.mkfifo(slot)
    assert cache.get(b"k" * 32, 0) is None


def test_a_caller_during_anothers_clean_up_waits_for_its_lock(tmp_path):
    """It would hold nothing, and a third would delete its temporary file."""
    with local.opened_folder(tmp_path) as handle:
        local.lock(handle)  # a first caller cleans up
        held, done = threading.Event(), threading.Event()

        def call():
            with shared(tmp_path, [tmp_path]):
                held.set()
                done.wait(10)

        second = threading.Thread(target=call)
        second.start()
        assert not held.wait(0.2)
        fcntl.flock(handle, fcntl.LOCK_UN)
        assert held.wait(10)
        temporary = tmp_path / f".a.png.abcdefgh{local.TEMPORARY}"
        temporary.touch()
        with shared(tmp_path, [tmp_path]):
            assert temporary.exists()
        done.set()
        second.join()


def test_a_folder_that_another_program_keeps_locked_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_LOCK_SECONDS", 0.1)
    with local.opened_folder(tmp_path) as handle:
        local.lock(handle)
        with pytest.raises(OutputError, match="keeps it locked"), shared(tmp_path, []):
            pass


@pytest.mark.parametrize(("place", "rounds"), [("local", 20), ("flakydisk", 5), ("s3", 3)])
def test_no_line_of_several_writers_is_lost(tmp_path, place, rounds, request):
    """Each reads, merges and replaces the file while the others append to it."""
    url = {"local": "", "flakydisk": "flakydisk://"}.get(place)
    folder = f"{url}{tmp_path}" if url is not None else request.getfixturevalue("bucket")
    code = (
        "import sys; from pixmend.storage import JsonlWriter, StorePath, jsonl\n"
        "jsonl._POLL_SECONDS = 0.02\n"
        "from tests.stores import last_of_each\n"
        "for round in range(int(sys.argv[3])):\n"
        "    with JsonlWriter(StorePath.of(sys.argv[1]), last_of_each) as file:\n"
        "        for n in range(10): file.add(f'{sys.argv[2]}-{round}-{n} x')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", ".", *sys.path])}
    arguments = [sys.executable, "-c", code, f"{folder}/lines"]
    children = [
        subprocess.Popen([*arguments, str(n), str(rounds)], env=environment) for n in range(3)
    ]
    assert [child.wait() for child in children] == [0, 0, 0]
    files = list(StorePath.of(folder).files())
    assert [file.name for file in files] == ["lines"]
    text = StorePath.of(f"{folder}/lines").read_text()
    assert len(text.splitlines()) == 3 * 10 * rounds


def test_the_lock_of_a_writer_that_died_is_taken_after_a_while(monkeypatch):
    place = StorePath.of(fresh(Counted) + "r/lines")
    lock = place.with_name(".lines.lock")
    assert lock.create(b"of a process that died")
    monkeypatch.setattr(jsonl, "_STALE_SECONDS", 0.5)
    place.write_bytes(b"half a line")
    with JsonlWriter(place, str) as file:
        file.add("line")
    assert place.read_text() == "half a line\nline\n"
    assert not lock.exists()


def test_a_line_after_half_a_line_is_whole(tmp_path):
    (tmp_path / "log").write_bytes(b"whole\nhal")
    append_line(tmp_path / "log", "next")
    assert (tmp_path / "log").read_bytes() == b"whole\nhal\nnext\n"


def test_a_model_is_loaded_of_one_file_though_another_takes_its_place(tmp_path, monkeypatch):
    settings = DCGANSettings(size=16, channels="L", filters=8)
    path = tmp_path / "model.safetensors"

    def export():
        save_model(DCGAN(settings, Generator(settings), Discriminator(settings)), path)

    def read_then_export(*arguments):
        header = read_header(*arguments)
        monkeypatch.undo()
        export()
        return header

    read_header = model_file.parse_header
    export()
    first = load_model(path).generator.state_dict()
    monkeypatch.setattr(model_file, "parse_header", read_then_export)
    again = load_model(path).generator.state_dict()
    assert all(bool((again[name] == value).all()) for name, value in first.items())
    now = load_model(path).generator.state_dict()
    assert not all(bool((now[name] == value).all()) for name, value in first.items())


def test_a_line_goes_into_the_file_that_took_the_place_of_the_opened_one(tmp_path):
    path = tmp_path / "lines"
    path.write_text("old\n")
    with open_file(path, "a+b") as file:
        local.lock(file)
        writer = threading.Thread(target=append_line, args=(path, "line"))
        writer.start()
        time.sleep(0.3)  # it has opened the file and waits for the lock
        local.write_text(path, "new\n")
    writer.join()
    assert path.read_text() == "new\nline\n"
