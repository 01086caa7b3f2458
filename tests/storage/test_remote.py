"""Places: one contract, whatever the store."""

import contextlib
import multiprocessing.reduction
import os
import sys

import pytest
from botocore.exceptions import ClientError

from pixmend.errors import InputError, MissingError, OutputError, StoreError
from pixmend.storage import Blocks, CachedFile, StorePath, urls
from tests.stores import Counted, Flaky, Slow, fresh

STORES = ["local", "memory", "counted", "flaky", "slow", "s3"]


def sent(value):
    """Return ``value`` as another process gets it."""
    return multiprocessing.reduction.ForkingPickler.loads(
        multiprocessing.reduction.ForkingPickler.dumps(value)
    )


@pytest.fixture(params=STORES)
def root(request, tmp_path):
    match request.param:
        case "local":
            return StorePath.of(tmp_path / "root")
        case "memory":
            return StorePath.of(f"memory://{tmp_path.name}")
        case "s3":
            return StorePath.of(request.getfixturevalue("bucket")) / "root"
    return StorePath.of(
        fresh({"counted": Counted, "flaky": Flaky, "slow": Slow}[request.param]) + "root"
    )


def test_what_is_written_is_read_whole_and_by_ranges(root):
    place = root / "a folder" / "ü b?#%.bin"
    assert not place.exists()
    content = bytes(range(256)) * 3
    place.write_bytes(content)
    assert place.exists()
    assert place.is_file()
    assert (root / "a folder").is_folder()
    assert place.size() == len(content)
    assert place.read_bytes() == content
    for start, stop in [(0, 10), (5, None), (700, 9000), (None, 3), (20, 20), (30, 20), (800, 900)]:
        assert place.read_bytes(start, stop) == content[start:stop]
    place.write_bytes(b"")
    assert place.read_bytes() == place.read_bytes(0, 10) == b""
    assert place.size() == 0


def test_a_place_opens_as_a_file_and_as_a_buffer(root):
    place = root / "x.bin"
    content = bytes(i * i % 251 for i in range(5000))
    place.write_bytes(content)
    with place.open() as file:
        assert file.read(7) == content[:7]
        file.seek(-100, 2)
        assert file.read() == content[-100:]
        file.seek(4000)
        file.seek(-10, 1)
        assert file.read(20) == content[3990:4010]
    if place.local is None:
        buffer = Blocks([CachedFile(place, place.size(), "")], None).file(0)
        assert len(buffer) == len(content)
        assert buffer[10:20] + buffer[4990:] + buffer[3:3] == content[10:20] + content[4990:]


def test_files_come_in_order_of_each_folders_names(root):
    names = [
        "a.png",
        "a/b.png",
        "a/c/d.png",
        "a-b.png",
        "b",
        "ä.png",
        ".hidden/x",
        "z/1",
        "z/10",
        "z/2",
    ]
    for number, name in enumerate(reversed(names)):
        (root / name).write_bytes(b"x" * number)
    found = [(file.name, file.bytes) for file in root.files()]
    assert [name for name, _ in found] == [
        ".hidden/x", "a/b.png", "a/c/d.png", "a-b.png", "a.png", "b", "z/1", "z/10", "z/2", "ä.png"
    ]  # fmt: skip
    assert dict(found) == {name: number for number, name in enumerate(reversed(names))}
    assert [(file.name, file.bytes) for file in (root / "a" / "c").files()] == [("d.png", 7)]
    assert list((root / "none").files()) == []


def test_a_file_that_vanishes_while_its_folder_is_listed_takes_no_other_with_it(
    tmp_path, monkeypatch
):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(b"x")
    scan = os.scandir

    @contextlib.contextmanager
    def late(path):
        with scan(path) as items:
            found = list(items)
        (tmp_path / "b").unlink()
        yield found

    monkeypatch.setattr("os.scandir", late)
    assert [file.name for file in StorePath(tmp_path).files()] == ["a", "c"]


@pytest.mark.parametrize("root", STORES[1:], indirect=True)
def test_files_that_begin_alike_are_found_alone(root, monkeypatch):
    names = ["a.png", "a.json", "ab.png", "b.png", "a.d/x.png", "a/a.png", "sub/a.png"]
    for name in names:
        (root / "masks" / name).write_bytes(b"x")
    if str(root).startswith("s3:"):
        store, _ = root._store()
        find = store.find

        def older(path, maxdepth=None, prefix="", **more):  # s3fs up to 2025.9
            if maxdepth and prefix:
                raise ValueError("Can not specify 'prefix' option alongside 'maxdepth' options.")
            return find(path, maxdepth=maxdepth, prefix=prefix, **more)

        monkeypatch.setattr(store, "find", older)
    assert (root / "masks").beginning("a.") == ["a.json", "a.png"]


def test_a_version_changes_with_the_content(root):
    place = root / "x"
    place.write_bytes(b"one")
    first = place.info()
    assert place.info() == first == next(iter(root.files()))
    place.write_bytes(b"two")
    assert place.info().version != first.version


def test_a_block_that_fails_leaves_the_old_content(root):
    place = root / "x"
    place.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), place.writing() as file:
        file.write(b"new" * (1 // len(b"")))
    assert place.read_bytes() == b"old"
    assert [file.name for file in root.files()] == ["x"]


@pytest.mark.parametrize("root", STORES[1:], indirect=True)
def test_of_two_who_create_one_succeeds(root):
    place = root / "only"
    assert place.create(b"mine")
    assert not place.create(b"other")
    assert place.read_bytes() == b"mine"


def test_upload_copy_and_remove(root, tmp_path):
    here, back = tmp_path / "here", tmp_path / "back"
    here.write_bytes(b"content" * 1000)
    place = root / "sub" / "there"
    if place.local is None:
        place.upload(here)
    else:
        place.write_bytes(here.read_bytes())
    with back.open("wb") as file:
        place.copy_to(file)
    assert back.read_bytes() == here.read_bytes()
    place.remove()
    assert not place.exists()
    place.remove(missing_ok=True)
    for name in "abc":
        (root / "sub" / name).write_bytes(b"")
    (root / "sub").remove_folder()
    assert list((root / "sub").files()) == []
    (root / "sub").remove_folder()


def test_what_is_missing_is_told_by_its_name(root):
    for ask in (StorePath.read_bytes, StorePath.size, StorePath.open):
        with pytest.raises(MissingError, match=r"not-there.*no such file") as told:
            ask(root / "not-there")
        assert "\n" not in str(told.value)


def test_a_place_goes_to_other_processes(root):
    (root / "x").write_bytes(b"content")
    again = sent(root / "x")
    assert again == root / "x"
    assert again.read_bytes() == b"content"


def test_names_and_words():
    place = StorePath.of("s3://bucket/folder/x.tar.gz")
    assert (place.name, place.stem, place.suffix) == ("x.tar.gz", "x.tar", ".gz")
    assert place.parent == StorePath.of("s3://bucket/folder/") == StorePath.of("S3://bucket/folder")
    assert place.with_name("y") == StorePath.of("s3://bucket/folder") / "y"
    assert place.local is None
    assert StorePath.of("file:///a/b").local == StorePath.of("/a/b").local
    assert StorePath.of("a::b").local is not None
    assert str(StorePath.of("relative/x")) == "relative/x"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://me:s3cr3t@host/a/b",
        "https://host/a/b?X-Amz-Signature=s3cr3t",
        "https://me:s3cr3t@host:8080/a/b?token=s3cr3t",
        "s3://bucket/a/b?X-Amz-Signature=s3cr3t",
        "abfs://container/a/b?sig=s3cr3t",
        "webdav://host/a/b?s3cr3t",
    ],
)
def test_no_secret_of_a_url_is_ever_shown(url):
    place = StorePath.of(url)
    for text in (str(place), repr(place), f"{place / 'c'}", f"{place.parent}"):
        assert "s3cr3t" not in text
    assert "s3cr3t" in sent(place)._url + place._query


def test_a_query_is_no_part_of_the_host(monkeypatch):
    hosts = []
    monkeypatch.setattr(urls, "file_system", lambda protocol, host, process: hosts.append(host))
    for url in ("https://host?sig=s3cr3t", "https://host/a?sig=s3cr3t", "https://host"):
        StorePath.of(url)._store()
    assert hosts == ["host"] * 3


def test_a_question_mark_in_the_name_of_a_file_is_no_query(root):
    place = root / "a?b=1.png"
    place.write_bytes(b"x")
    assert str(place).endswith("a?b=1.png")
    assert [file.name for file in root.files()] == ["a?b=1.png"]
    assert StorePath.of("s3://bucket/a?b.png").name == "a?b.png"


def test_credentials_in_a_url_of_a_bucket_are_refused_without_being_shown():
    with pytest.raises(InputError, match="do not go into a URL") as told:
        StorePath.of("s3://AKIA:s3cr3t@bucket/x")
    assert "s3cr3t" not in str(told.value)
    assert "AKIA" not in str(told.value)


def test_what_cannot_be_opened_is_one_line(monkeypatch):
    with pytest.raises(InputError, match=r"nope:// is not known"):
        StorePath.of("nope://a/b").read_bytes()
    with pytest.raises(InputError, match="a chained URL; give a plain one"):
        StorePath.of("simplecache::s3://a/b")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"pixmend\[cluster\]"):
        StorePath.of("gs://a/b").read_bytes()


def test_a_store_that_keeps_failing_is_told_in_one_line_and_asked_a_bounded_number_of_times(
    monkeypatch,
):
    from pixmend.storage import retry

    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    place = StorePath.of(fresh(Counted) + "x")
    asked = []

    def fail(self, what):
        asked.append(what)
        raise ConnectionResetError("https://secret-host/?sig=s3cr3t")

    monkeypatch.setattr(Counted, "happen", fail)
    for ask in (place.read_bytes, place.size, lambda: place.write_bytes(b"x")):
        asked.clear()
        with pytest.raises((StoreError, OutputError), match=r"counted://x.*failed 6 times") as told:
            ask()
        assert "s3cr3t" not in str(told.value)
        assert len([what for what in asked if what != "remove"]) == 6


def test_what_will_fail_again_is_asked_once(monkeypatch):
    place = StorePath.of(fresh(Counted) + "x")
    asked = []

    def fail(self, what):
        asked.append(what)
        raise PermissionError("no")

    monkeypatch.setattr(Counted, "happen", fail)
    with pytest.raises(StoreError, match="no permission"):
        place.read_bytes()
    assert asked == ["info"]


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("RequestTimeTooSkewed", "the clock of this machine is wrong.*set the clock"),
        ("ExpiredToken", "credentials have expired; get new ones"),
        ("AccessDenied", "no permission"),
    ],
)
def test_what_s3_refuses_is_told_with_what_to_do(code, told, monkeypatch):
    asked = []

    def fail(self, what):
        asked.append(what)
        answer = {"Error": {"Code": code, "Message": "s3cr3t"}}
        # As s3fs does: one class for all of these.
        raise PermissionError("s3cr3t") from ClientError(answer, "GetObject")

    monkeypatch.setattr(Counted, "happen", fail)
    with pytest.raises(StoreError, match=told) as error:
        StorePath.of(fresh(Counted) + "x").read_bytes()
    assert "s3cr3t" not in str(error.value)
    assert len(asked) == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(Counted, "happen", lambda self, what: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        StorePath.of(fresh(Counted) + "x").read_bytes()


def test_a_bucket_that_is_not_there_is_told(bucket):
    with pytest.raises(OutputError, match="no such bucket"):
        StorePath.of("s3://no-such-bucket-here/x").write_bytes(b"x")
    with pytest.raises((MissingError, StoreError), match="no such"):
        StorePath.of("s3://no-such-bucket-here/x").read_bytes()
    with pytest.raises(StoreError, match="no such bucket"):
        list(StorePath.of("s3://no-such-bucket-here/x").files())


def test_the_flaky_store_has_failed():
    assert Flaky.failures > 0


def test_no_half_of_a_write_that_failed_is_ever_seen(monkeypatch):
    place = StorePath.of(fresh(Counted) + "x")
    place.write_bytes(b"old")
    seen = []

    def fail(self, what):
        seen.append(Counted.store["/x"].getvalue())
        if what == "write":
            raise PermissionError

    monkeypatch.setattr(Counted, "happen", fail)
    with pytest.raises(OutputError, match="no permission"):
        place.write_bytes(b"new and longer")
    assert set(seen) == {b"old"}
    assert list(Counted.store) == ["/x"]


def test_a_temporary_folder_that_cannot_be_used_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(OutputError, match=r"^the temporary folder \(TMPDIR\): cannot be written: "):
        StorePath.of("memory://anything/x").write_bytes(b"x")
