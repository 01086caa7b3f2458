"""Records from and to stores: the same bytes as on this machine, whatever the store does."""

import datetime
import json
import multiprocessing.reduction
import shutil
import sys
import zipfile

import fsspec
import numpy as np
import pytest

from pixmend.errors import InputError, OutputError, RecordError, StoppedError, StoreError
from pixmend.records import Manifest, PackSettings, Records, pack, provenance
from pixmend.storage import BlockCache, StorePath, cache
from tests.stores import Counted, Flaky, Slow, fresh, upload

from .helpers import every, folder_bytes

SETTINGS = PackSettings(size=8, images_per_shard=4)


@pytest.fixture(autouse=True)
def blocks(monkeypatch, tmp_path):
    monkeypatch.setenv("PIXMEND_CACHE", str(tmp_path / "blocks"))
    monkeypatch.setenv("PIXMEND_CACHE_MIB", "4")
    return tmp_path / "blocks"


@pytest.fixture(params=["flaky", "slow", "s3"])
def root(request):
    if request.param == "s3":
        return StorePath.of(request.getfixturevalue("bucket"))
    return StorePath.of(fresh({"flaky": Flaky, "slow": Slow}[request.param]) + "root")


def all_of(place):
    """All that a record folder holds, but for the note of where it came from."""
    names = [file.name for file in place.files()]
    return {name: (place / name).read_bytes() for name in names if name != ".pack.json"}


def test_a_store_and_this_machine_give_the_same_bytes(root, make_folder, tmp_path):
    folder = make_folder(11)
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "Sample001" / "bad.png").write_bytes(b"no image")
    (folder / "Sample001" / "empty.png").write_bytes(b"")
    shutil.copy(folder / "Sample001" / "img0000.png", folder / "Sample001-b.png")
    here = pack(folder, tmp_path / "here", SETTINGS, workers=1)
    assert here.left_out == 2
    images = upload(folder, root / "images")
    workers = 2 if "s3" in str(root) else 1
    assert pack(images, root / "records", SETTINGS, workers=workers) == here
    assert pack(str(images), tmp_path / "there", SETTINGS, workers=1) == here
    assert all_of(root / "records") == folder_bytes(tmp_path / "here")
    assert folder_bytes(tmp_path / "there") == folder_bytes(tmp_path / "here")
    mine, theirs = Records(tmp_path / "here"), Records(root / "records")
    order = np.random.default_rng(0).permutation(len(mine))
    assert np.array_equal(theirs.images(order), mine.images(order))
    assert theirs.names(order) == mine.names(order)
    assert np.array_equal(theirs.labels(order), mine.labels(order))
    assert theirs.digest == mine.digest
    assert np.array_equal(provenance(theirs).digests, provenance(mine).digests)
    assert provenance(theirs).names == provenance(mine).names


@pytest.mark.parametrize("kind", ["zip", "idx", "tfrecord"])
def test_containers_in_a_store_are_read_where_they_lie(kind, make_folder, packed, tmp_path):
    place = StorePath.of(fresh(Flaky) + "c")
    local = tmp_path / "c"
    local.mkdir()
    if kind == "zip":
        folder = make_folder(9, name="zipped")
        with zipfile.ZipFile(local / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in StorePath.of(folder).files():
                archive.write(folder / file.name, file.name)
    elif kind == "idx":
        pixels = np.random.default_rng(0).integers(0, 256, (9, 10, 12), np.uint8)
        header = b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes()
        (local / "t-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = b"\0\0\x08\x01" + np.array([9], ">u4").tobytes() + bytes(range(9))
        (local / "t-labels-idx1-ubyte").write_bytes(labels)
    else:
        for shard in packed[1].shards:
            shutil.copy(packed[0] / shard.name, local)
    here = pack(local, tmp_path / "here", SETTINGS, workers=1)
    upload(local, place)
    assert pack(place, tmp_path / "there", SETTINGS) == here
    assert here.count >= 9
    (one, *_) = [file.name for file in place.files()]
    if kind != "tfrecord":
        assert pack(place / one, tmp_path / "one", SETTINGS).count == here.count


def test_a_stopped_run_goes_on_in_a_store_and_keeps_whole_shards(make_folder, tmp_path):
    folder, place = make_folder(20), StorePath.of(fresh(Counted) + "r")

    def enough():
        return sum(name.endswith(".done.json") for name in Counted.store) == 2

    with pytest.raises(StoppedError):
        pack(folder, place, SETTINGS, workers=1, should_stop=enough)
    begun = {entry.name: entry.version for entry in place.files() if "tfrecord" in entry.name}
    assert len(begun) == 2
    with pytest.raises(InputError, match="not finished"):
        Records(place)
    pack(folder, place, SETTINGS, workers=1)
    after = {entry.name: entry.version for entry in place.files()}
    assert {name: after[name] for name in begun} == begun  # not written again
    pack(folder, tmp_path / "here", SETTINGS, workers=1)
    assert all_of(place) == folder_bytes(tmp_path / "here")
    before = Counted.made
    pack(folder, place, SETTINGS, workers=1)
    assert Counted.made - before < 12  # a finished folder is only looked at


def test_what_another_run_left_half_written_is_not_taken_for_ours(make_folder, tmp_path):
    folder, place = make_folder(20), StorePath.of(fresh(Counted) + "r")
    pack(folder, place, SETTINGS, workers=1)
    whole = all_of(place)
    (place / "manifest.json").remove()
    # All notes there, as at the end of a run that was killed before its manifest; then one shard is another's, of equal length.
    pack_until_manifest(folder, place)
    name = "images-00002-of-00005.tfrecord"
    (place / name).write_bytes(bytes(reversed(whole[name])))
    (place / "images-00003-of-00005.index").write_bytes(b"half")
    pack(folder, place, SETTINGS, workers=1)
    assert all_of(place) == whole


def pack_until_manifest(folder, place):
    """Pack, and be killed while the manifest is written."""
    written = Manifest.write

    def killed(self, where):
        raise StoppedError

    Manifest.write = killed
    try:
        with pytest.raises(StoppedError):
            pack(folder, place, SETTINGS, workers=1)
    finally:
        Manifest.write = written


def test_what_a_killed_run_was_writing_is_cleaned_up(make_folder, monkeypatch):
    folder, place = make_folder(12), StorePath.of(fresh(Counted) + "r")
    happen = Counted.happen

    def die(self, what):
        happen(self, what)
        if what == "move" and any("00001" in name for name in Counted.store):
            raise SystemExit  # no error, so that nothing is tidied up

    monkeypatch.setattr(Counted, "happen", die)
    with pytest.raises(SystemExit):
        pack(folder, place, SETTINGS, workers=1)
    assert [name for name in Counted.store if name.endswith(".tmp")]
    monkeypatch.setattr(Counted, "happen", happen)
    pack(folder, place, SETTINGS, workers=1)
    assert not [name for name in Counted.store if name.endswith(".tmp")]


def test_clocks_of_other_machines_mean_nothing(make_folder, tmp_path):
    folder, place = make_folder(12), StorePath.of(fresh(Counted) + "r")
    pack(folder, tmp_path / "here", SETTINGS, workers=1)
    pack_until_manifest(folder, place)
    versions = {}
    for number, file in enumerate(fsspec.filesystem("counted").store.values()):
        # Years ahead and back: a store whose clock is wrong.
        file.created += datetime.timedelta(days=1000 * (-1) ** number)
        versions[number] = file.created
    pack(folder, place, SETTINGS, workers=1)
    assert all_of(place) == folder_bytes(tmp_path / "here")


def test_the_folder_of_another_job_is_refused_and_left_alone(make_folder, tmp_path):
    folder, place = make_folder(12), StorePath.of(fresh(Counted) + "r")
    pack(folder, place, SETTINGS, workers=1)
    before = all_of(place)
    with pytest.raises(OutputError, match="other settings: size is 8 there and 16 here"):
        pack(folder, place, PackSettings(size=16, images_per_shard=4), workers=1)
    other = make_folder(13, name="other")
    with pytest.raises(OutputError, match="another source"):
        pack(other, place, SETTINGS, workers=1)
    assert all_of(place) == before
    (place.parent / "f" / "x.txt").write_bytes(b"mine")
    with pytest.raises(OutputError, match="holds other files"):
        pack(folder, place.parent / "f", SETTINGS, workers=1)
    assert all_of(place.parent / "f") == {"x.txt": b"mine"}
    with pytest.raises(OutputError, match="cannot go into the source"):
        pack(place, place, SETTINGS, workers=1)


def test_of_two_jobs_that_begin_at_once_one_is_refused(make_folder, monkeypatch):
    from pixmend.records.folder import PackOrigin

    folder, place = make_folder(12), StorePath.of(fresh(Counted) + "r")
    mine = PackOrigin.claim

    def claim(self, where):
        monkeypatch.setattr(PackOrigin, "claim", mine)
        other = self.model_copy(update={"source": "s3://other", "listing": "0" * 64})
        other.claim(where)  # a moment earlier
        mine(self, where)

    monkeypatch.setattr(PackOrigin, "claim", claim)
    with pytest.raises(OutputError, match="another source, s3://other"):
        pack(folder, place, SETTINGS, workers=1)
    assert [file.name for file in place.files()] == [".pack.json"]


def test_of_two_runs_of_one_command_the_slower_finds_what_the_faster_finished(
    make_folder, monkeypatch
):
    module = sys.modules["pixmend.records.packing"]  # whose name in its room is the function's
    folder, place = make_folder(12), StorePath.of(fresh(Counted) + "r")
    mine, found = module._Run.finish, []

    def finish(self, summary):
        monkeypatch.setattr(module._Run, "finish", mine)
        found.append(pack(folder, place, SETTINGS, workers=1))  # a moment earlier
        return mine(self, summary)

    monkeypatch.setattr(module._Run, "finish", finish)
    assert pack(folder, place, SETTINGS, workers=1) == found[0]
    assert len(every(Records(place))) == 12


def test_a_folder_within_its_source_is_not_packed_again(make_folder):
    place = upload(make_folder(9), StorePath.of(fresh(Counted) + "r"))
    first = pack(place, place / "records", SETTINGS, workers=1)
    assert first.count == 9
    assert pack(place, place / "records", SETTINGS, workers=1) == first


@pytest.mark.parametrize("out", ["Sample001", "counted://other/Sample001"])
def test_only_a_folder_within_the_source_is_left_out_of_it(out, make_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = upload(make_folder(9), StorePath.of(fresh(Counted) + "r"))
    assert pack(place, out, SETTINGS, workers=1).count == 9


def test_images_of_a_store_are_fetched_several_at_a_time(make_folder, tmp_path):
    place = upload(make_folder(40), StorePath.of(fresh(Slow) + "i"))
    Slow.most_at_once = 0
    pack(place, tmp_path / "r", PackSettings(size=8), workers=1)
    assert 4 < Slow.most_at_once <= 16


def test_a_batch_is_read_by_ranges_and_once(tmp_path, make_folder, blocks, monkeypatch):
    monkeypatch.setattr(cache, "BLOCK_BYTES", 512)
    place = StorePath.of(fresh(Counted) + "r")
    pack(make_folder(40), place, PackSettings(size=16, images_per_shard=20), workers=1)
    size = sum(shard.bytes for shard in Manifest.read(place).shards)
    fetched = []
    read = Counted.cat_file

    def counting(self, path, start=None, end=None, **rest):
        content = read(self, path, start, end, **rest)
        fetched.append(len(content))
        return content

    records = Records(place)
    monkeypatch.setattr(Counted, "cat_file", counting)
    records.images([3, 25])
    assert 0 < sum(fetched) < size / 4
    every(records)
    assert sum(fetched) <= size
    assert len(fetched) < size / 512  # in order, several blocks come at once
    fetched.clear()
    again = multiprocessing.reduction.ForkingPickler
    sent = again.loads(again.dumps(records))
    assert np.array_equal(every(sent), every(records))
    assert fetched == []  # from this machine's cache


def test_the_cache_is_bounded_and_a_broken_slot_is_fetched_again(
    tmp_path, make_folder, blocks, monkeypatch
):
    monkeypatch.setattr(cache, "BLOCK_BYTES", 512)
    monkeypatch.setattr(cache, "default_cache", lambda: None)
    place = StorePath.of(fresh(Counted) + "r")
    pack(make_folder(40), place, PackSettings(size=16, images_per_shard=20), workers=1)
    wanted = every(Records(place))
    small = BlockCache(blocks, 8 * (512 + 36))
    monkeypatch.setattr("pixmend.records.dataset.default_cache", lambda: small)
    for _ in range(2):
        assert np.array_equal(every(Records(place)), wanted)
    slots = [path for path in blocks.rglob("*") if path.is_file()]
    assert 0 < len(slots) <= 8
    assert sum(path.stat().st_size for path in slots) <= 8 * (512 + 36)
    for path in slots:
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert np.array_equal(every(Records(place)), wanted)
    BlockCache(blocks, 2 * (512 + 36))
    assert len([path for path in blocks.rglob("*") if path.is_file()]) <= 2


def test_a_data_set_that_fits_is_kept_whole(tmp_path):
    kept = BlockCache(tmp_path / "b", 100 * (cache.BLOCK_BYTES + 36))
    assert kept.slots == 100
    for number in range(1000, 1100):
        kept.put(number.to_bytes(32, "big"), number, b"%d" % number)
    assert all(kept.get(n.to_bytes(32, "big"), n) == b"%d" % n for n in range(1000, 1100))
    assert kept.get((5).to_bytes(32, "big"), 1005) is None  # another's block in that slot
    for slot in (path for path in kept.folder.rglob("*") if path.is_file()):
        slot.write_bytes(slot.read_bytes()[:-1] + b"x")
    assert all(kept.get(n.to_bytes(32, "big"), n) is None for n in range(1000, 1100))


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, make_folder, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("PIXMEND_CACHE", str(tmp_path / "file" / "below"))
    place = StorePath.of(fresh(Counted) + "r")
    pack(make_folder(9), place, SETTINGS, workers=1)
    assert len(every(Records(place))) == 9


def test_a_store_that_fails_for_long_leaves_no_image_out(make_folder, tmp_path, monkeypatch):
    place = upload(make_folder(12), StorePath.of(fresh(Counted) + "r"))
    happen = Counted.happen

    def outage(self, what):
        happen(self, what)
        if what == "read":
            raise ConnectionResetError

    monkeypatch.setattr("pixmend.storage.retry._FIRST_WAIT", 0.0)
    monkeypatch.setattr(Counted, "happen", outage)
    with pytest.raises(StoreError, match=r"counted://r/.*failed 6 times"):
        pack(place, tmp_path / "out", SETTINGS, workers=1)
    monkeypatch.setattr(Counted, "happen", happen)
    assert pack(place, tmp_path / "out", SETTINGS, workers=1).left_out == 0


def test_shards_that_are_missing_or_cut_short_are_named(make_folder):
    place = StorePath.of(fresh(Counted) + "r")
    manifest = pack(make_folder(12), place, SETTINGS, workers=1)
    first, second, _ = (shard.name for shard in manifest.shards)
    content = (place / first).read_bytes()
    (place / first).write_bytes(content[:-3])
    with pytest.raises(RecordError, match=rf"counted://r/{first}: ends at byte"):
        Records(place)
    (place / first).remove()
    with pytest.raises(RecordError, match=rf"counted://r/{first}: no such file"):
        Records(place)
    broken = bytearray(content)
    broken[40] ^= 1
    (place / first).write_bytes(bytes(broken))
    (place / second.replace("tfrecord", "index")).remove()
    with pytest.raises(RecordError, match=rf"counted://r/{first}: record at byte 0"):
        every(Records(place))
    records = Records(place, skip_bad=True)
    assert len(records) == 11
    assert len(records.bad) == 1
    assert len(every(records)) == 11


def test_what_is_no_records_is_told_by_url(make_folder):
    place = StorePath.of(fresh(Counted) + "r")
    with pytest.raises(InputError, match="counted://r: no such folder"):
        Records(place)
    upload(make_folder(3), place)
    with pytest.raises(InputError, match="holds no records"):
        Records(place)
    with pytest.raises(InputError, match="no such file or folder"):
        pack(place / "none", "out", SETTINGS)


def test_the_origin_holds_no_secret(make_folder, tmp_path):
    place = upload(make_folder(9), StorePath.of(fresh(Counted) + "r"))
    pack(place, tmp_path / "out", SETTINGS, workers=1)
    assert json.loads((tmp_path / "out" / ".pack.json").read_text())["source"] == "counted://r"
