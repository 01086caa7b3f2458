"""Packing: equal input gives equal bytes, whatever the workers, and whatever happened on the way."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from pixmend.cli.pack import pack as verb
from pixmend.errors import InputError, OutputError, PixmendError, SettingsError, StoppedError
from pixmend.records import Manifest, PackProgress, PackSettings, Records, pack
from pixmend.records.manifest import read_index
from pixmend.records.pack_progress import JobProgress, ProgressFile, ShardResult
from pixmend.records.shards import ShardJob, pack_shard

from .helpers import every, folder_bytes, noise

SETTINGS = PackSettings(size=8, images_per_shard=4)


def test_equal_input_gives_equal_bytes_with_any_number_of_workers(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(30)
    (folder / "bad.png").write_text("text")
    told: list[PackProgress] = []
    pack(folder, tmp_path / "one", SETTINGS, workers=1)
    pack(folder, tmp_path / "two", SETTINGS, workers=2, on_progress=told.append)
    copied = tmp_path / "elsewhere"
    shutil.copytree(folder, copied)  # other times of change
    pack(copied, tmp_path / "three", SETTINGS, workers=1)
    first = folder_bytes(tmp_path / "one")
    assert folder_bytes(tmp_path / "two") == first
    assert folder_bytes(tmp_path / "three") == first
    assert (told[-1].done, told[-1].total, told[-1].bad) == (31, 31, 1)


def test_a_folder_holds_what_its_manifest_says(packed: tuple[Path, Manifest]) -> None:
    folder, manifest = packed
    assert [shard.name for shard in manifest.shards] == [
        f"images-{number:05d}-of-00003.tfrecord" for number in range(3)
    ]
    assert [shard.count for shard in manifest.shards] == [3, 3, 4]
    assert Manifest.read(folder) == manifest
    names = {path.name for path in folder.iterdir()}
    shards = {shard.name for shard in manifest.shards}
    indices = {name.replace("tfrecord", "index") for name in shards}
    assert names == shards | indices | {"manifest.json", "inputs.jsonl", ".pack.json"}
    lines = [json.loads(line) for line in (folder / "inputs.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == Records(folder).names(range(10))
    assert lines[0] | {"sha256": "", "bytes": 0} == {
        "name": "Sample001/img0000.png",
        "sha256": "",
        "bytes": 0,
        "height": 20,
        "width": 14,
        "mode": "RGB",
        "class": "Sample001",
    }


def test_no_path_of_the_machine_is_in_the_manifest(packed: tuple[Path, Manifest]) -> None:
    for name in ("manifest.json", "inputs.jsonl"):
        assert str(packed[0].parent) not in (packed[0] / name).read_text()


def test_bad_inputs_leave_no_hole(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_folder(10, classes=1)
    for number in (0, 3, 4, 5, 6, 7):  # all of the second shard among them
        (folder / "Sample001" / f"img{number:04d}.png").write_text("text")
    manifest = pack(folder, tmp_path / "out", SETTINGS, workers=1)
    assert [shard.count for shard in manifest.shards] == [2, 0, 2]
    records = Records(tmp_path / "out")
    assert len(records) == 4
    assert [name[-5] for name in records.names(range(4))] == ["1", "2", "8", "9"]
    assert len(read_index(tmp_path / "out" / manifest.shards[1].name)) == 0
    assert len(Records(tmp_path / "out", skip_bad=True)) == 4


def test_a_finished_folder_returns_at_once(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder()
    first = pack(folder, tmp_path / "out", SETTINGS, workers=1)
    monkeypatch.setattr("pixmend.records.workers.pack_shard", None)
    assert pack(folder, tmp_path / "out", SETTINGS, workers=1) == first
    assert not (tmp_path / "out" / ".pack").exists()


def test_changed_inputs_are_packed_again(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_folder(10)
    pack(folder, tmp_path / "out", SETTINGS, workers=1)
    Image.fromarray(noise(99)).save(folder / "Sample001" / "img0000.png")
    for number in range(5):
        Image.fromarray(noise(number)).save(folder / "Sample001" / f"new{number}.png")
    pack(folder, tmp_path / "out", SETTINGS, workers=1)
    pack(folder, tmp_path / "fresh", SETTINGS, workers=1)
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "fresh")


def test_a_shard_that_was_lost_is_packed_again(packed: tuple[Path, Manifest]) -> None:
    folder, manifest = packed
    before = folder_bytes(folder)
    (folder / manifest.shards[1].name).unlink()
    pack(folder.parent / "images", folder, SETTINGS, workers=1)
    assert folder_bytes(folder) == before


@pytest.mark.parametrize(
    "change", [{"size": 16}, {"channels": "L"}, {"fit": "pad"}, {"background": "red"}]
)
def test_other_settings_in_one_folder_are_refused(
    packed: tuple[Path, Manifest], change: dict[str, object]
) -> None:
    before = folder_bytes(packed[0])
    other = PackSettings.model_validate(SETTINGS.model_dump() | change)
    with pytest.raises(OutputError, match=f"{next(iter(change))} is .* there and .* here"):
        pack(packed[0].parent / "images", packed[0], other, workers=1)
    assert folder_bytes(packed[0]) == before


def test_another_source_in_one_folder_is_refused(
    packed: tuple[Path, Manifest], make_folder: Callable[..., Path]
) -> None:
    before = folder_bytes(packed[0])
    with pytest.raises(OutputError, match="another source"):
        pack(make_folder(7, name="other"), packed[0], SETTINGS, workers=1)
    assert folder_bytes(packed[0]) == before


def test_the_output_is_never_somebody_elses_folder(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder(3)
    with pytest.raises(OutputError, match="source itself"):
        pack(folder, folder, SETTINGS)
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("all I have")
    with pytest.raises(OutputError, match="holds other files"):
        pack(folder, work, SETTINGS)
    assert [path.name for path in work.iterdir()] == ["thesis.txt"]
    with pytest.raises(InputError, match="no such file or folder"):
        pack(tmp_path / "nowhere", work, SETTINGS)
    with pytest.raises(OutputError, match="file stands"):
        pack(folder, work / "thesis.txt", SETTINGS)


def test_two_at_once_are_refused(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder, out = make_folder(3), tmp_path / "out"

    def again(_: PackProgress) -> None:
        with pytest.raises(OutputError, match="another `pixmend pack`"):
            pack(folder, out, SETTINGS, workers=1)

    assert pack(folder, out, SETTINGS, workers=1, on_progress=again).count == 3


def test_nothing_readable_names_the_first_reasons(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_text("text")
    with pytest.raises(InputError, match=r"0\.png: not an image.*2\.png") as caught:
        pack(folder, tmp_path / "out", SETTINGS, workers=1)
    assert "3.png" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("limit", "good", "workers"),
    [
        (0, False, 1),
        (2, False, 1),
        (2, False, 2),
        (3, True, 1),
        (0.29, False, 1),
        (0.3, True, 2),
        (None, True, 1),
    ],
)
def test_max_bad(
    make_folder: Callable[..., Path],
    tmp_path: Path,
    limit: int | float | None,
    good: bool,
    workers: int,
) -> None:
    folder = make_folder(10, classes=1)
    for number in (0, 4, 8):
        (folder / "Sample001" / f"img{number:04d}.png").write_text("text")
    if good:
        manifest = pack(folder, tmp_path / "out", SETTINGS, max_bad=limit, workers=workers)
        assert (manifest.count, manifest.left_out) == (7, 3)
    else:
        with pytest.raises(InputError, match=r"inputs cannot be used.*img000\d\.png: not an image"):
            pack(folder, tmp_path / "out", SETTINGS, max_bad=limit, workers=workers)
        assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_killed_run_goes_on_to_equal_bytes(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = make_folder(160), tmp_path / "out"
    pack(folder, tmp_path / "whole", SETTINGS, workers=1)
    code = (
        "import time, sys; from pathlib import Path; from pixmend.records import pack, PackSettings\n"
        "pack(sys.argv[1], sys.argv[2], PackSettings(size=8, images_per_shard=4), workers=int(sys.argv[3]),\n"
        "     on_progress=lambda p: time.sleep(.05))"
    )
    for workers in (1, 2):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(folder), str(out), str(workers)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        wanted = 3 if workers == 1 else 8
        deadline = time.monotonic() + 20
        while len(list(out.glob("*.index"))) < wanted and child.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.tfrecord")}
    done = {path.name.removesuffix(".done.json") for path in out.glob(".pack/*.done.json")}
    assert not (out / "manifest.json").exists()
    (out / ".images-00000-of-00040.tfrecord.abc.pixmend.tmp").write_text(
        "what a killed writer leaves"
    )
    time.sleep(0.1)  # the killed run's workers notice
    pack(folder, out, SETTINGS, workers=1)
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")
    stayed = {path.stem for path, when in kept.items() if path.stat().st_mtime_ns == when}
    assert done
    assert done <= stayed


def test_an_altered_shard_of_a_stopped_run_is_packed_again(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = make_folder(12), tmp_path / "out"
    pack(folder, tmp_path / "whole", SETTINGS, workers=1)

    def stop(progress: PackProgress) -> None:
        if progress.done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, out, SETTINGS, workers=1, on_progress=stop)
    first = out / "images-00000-of-00003.tfrecord"
    content = bytearray(first.read_bytes())
    content[40] ^= 1
    first.write_bytes(content)
    pack(folder, out, SETTINGS, workers=1)
    assert folder_bytes(out) == folder_bytes(tmp_path / "whole")


def test_inputs_that_changed_while_stopped_are_packed_again(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = make_folder(12), tmp_path / "out"

    def stop(progress: PackProgress) -> None:
        if progress.done > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(folder, out, SETTINGS, workers=1, on_progress=stop)
    Image.fromarray(noise(99)).save(folder / "Sample001" / "img0000.png")
    pack(folder, out, SETTINGS, workers=1)
    pack(folder, tmp_path / "fresh", SETTINGS, workers=1)
    assert folder_bytes(out) == folder_bytes(tmp_path / "fresh")


def dawdle(job: ShardJob) -> ShardResult:
    """A shard that takes half a minute unless somebody asks to stop."""
    with ProgressFile(job.progress) as progress:
        progress.report(job.number, JobProgress(1, 0, "first", ""))
        for _ in range(300):
            if progress.stopped:
                raise StoppedError
            time.sleep(0.1)
    raise AssertionError("nobody asked to stop")


def test_workers_are_asked_to_stop(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: PackProgress) -> None:
        if progress.done:
            raise KeyboardInterrupt

    monkeypatch.setattr("pixmend.records.workers.pack_shard", dawdle)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pack(make_folder(10), tmp_path / "out", SETTINGS, workers=2, on_progress=stop)
    assert time.monotonic() - start < 20


def test_a_shard_asked_to_stop_leaves_nothing(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_then_pack(job: ShardJob, _: object) -> ShardResult:
        with ProgressFile(job.progress) as progress:
            progress.stop()
        return pack_shard(job)

    monkeypatch.setattr("pixmend.records.workers.pack_shard", stop_then_pack)
    with pytest.raises(StoppedError):
        pack(make_folder(10), tmp_path / "out", SETTINGS, workers=1)
    assert not list((tmp_path / "out").glob("*images*"))


def test_an_interrupt_stops_the_workers_and_keeps_finished_shards(
    make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder, out = make_folder(160), tmp_path / "out"

    def stop(progress: PackProgress) -> None:
        if progress.done > 8:
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        pack(folder, out, SETTINGS, workers=2, on_progress=stop)
    assert time.monotonic() - start < 10
    assert not list(out.glob(".*.tmp"))
    assert pack(folder, out, SETTINGS, workers=1).count == 160


def die(job: ShardJob) -> ShardResult:
    if job.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return pack_shard(job)


def test_a_worker_that_dies_is_an_error_and_finished_shards_stay(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = make_folder(40), tmp_path / "out"
    monkeypatch.setattr("pixmend.records.workers.pack_shard", die)
    with pytest.raises(OutputError, match="worker process died"):
        pack(folder, out, SETTINGS, workers=2)
    monkeypatch.undo()
    assert list(out.glob("*.tfrecord"))
    assert pack(folder, out, SETTINGS, workers=1).count == 40


def test_a_full_disk_is_an_output_error(
    make_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pixmend.records.shards.frame_record", full)
    with pytest.raises(OutputError, match="disk is full"):
        pack(make_folder(3), tmp_path / "out", SETTINGS, workers=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 7),
        ("size", 2000),
        ("channels", "CMYK"),
        ("fit", "squash"),
        ("background", "blurb"),
        ("images_per_shard", 0),
        ("sise", 64),
    ],
)
def test_settings_name_the_field(field: str, value: object) -> None:
    with pytest.raises(SettingsError, match=field):
        PackSettings.model_validate({field: value})
    with pytest.raises(SettingsError, match=field):
        PackSettings(**{field: value})


@pytest.mark.parametrize("limit", [-1, 1.0, -0.5, 7.5])
def test_max_bad_out_of_range(
    make_folder: Callable[..., Path], tmp_path: Path, limit: float
) -> None:
    with pytest.raises(SettingsError, match="max_bad"):
        pack(make_folder(1), tmp_path / "out", SETTINGS, max_bad=limit)
    with pytest.raises(SettingsError, match="workers"):
        pack(make_folder(1), tmp_path / "out", SETTINGS, workers=0)


def test_the_room_is_light() -> None:
    code = (
        "import sys, pixmend.records; "
        "print([m for m in ('torch', 'tensorflow', 'google.protobuf', 'rich', 'typer') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_verb(make_folder: Callable[..., Path], tmp_path: Path) -> None:
    app = Typer()
    app.command()(verb)
    folder, out = make_folder(10), tmp_path / "out"
    (folder / "bad.png").write_text("text")
    arguments = [str(folder), str(out), "--size", "16", "--channels", "L", "--workers", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    first, second = result.stdout.strip().splitlines()
    assert "10 images of 16 px L, 2 classes in 1 shard" in first
    assert "left out 1: bad.png: not an image" in second
    assert "inputs.jsonl" in second
    assert every(Records(out)).shape == (10, 16, 16, 1)
    again = CliRunner().invoke(app, arguments)
    assert "packed before" in again.stdout
    for extra in (["--max-bad", "many"], ["--max-bad", "0"], ["--fit", "no"]):
        wrong = CliRunner().invoke(app, [str(folder), str(tmp_path / "other"), *extra])
        assert isinstance(wrong.exception, PixmendError)


def test_images_differ_where_their_files_do(packed: tuple[Path, Manifest]) -> None:
    assert len(np.unique(every(Records(packed[0])), axis=0)) == 10
