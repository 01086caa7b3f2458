"""A model by URL, wherever MODEL goes: the answers are those of the file on this machine."""

import hashlib
import json
import os

import pytest

import pixmend
from pixmend.models import BUNDLED, save_model
from pixmend.serve import Catalogue
from pixmend.storage import StorePath
from tests.serve.conftest import serving
from tests.stores import Counted, FakeHub, fresh

EXAMPLE = next(iter(sorted((BUNDLED / "characters").rglob("*.png"))))
TOKEN = "?token=s3cr3t"
pytestmark = pytest.mark.usefixtures("model_cache")


@pytest.fixture
def model(untrained, tmp_path):
    save_model(untrained("RGB"), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def put(url, content):
    StorePath.of(url).write_bytes(content)
    return url


@pytest.fixture(params=["http", "file", "s3", "folder", "hub", "pinned"])
def address(request, model, tmp_path):
    """Return a URL of the model, of each kind."""
    content, kind = model.read_bytes(), request.param
    if kind == "file":
        return f"file://{model}"
    if kind == "s3":
        return put(request.getfixturevalue("bucket") + "/tiny.safetensors", content)
    if kind == "folder":  # a run that was uploaded: its best model comes first
        put(fresh(Counted) + "run/model.safetensors", b"not this one")
        put("counted://run/best.safetensors", content)
        return "counted://run"
    if kind == "hub":
        fresh(FakeHub)
        put("hf://user/tiny/model.safetensors", content)
        return "hf://user/tiny"
    site = request.getfixturevalue("site")
    site.give("/tiny.safetensors", content)
    pin = f"#sha256:{hashlib.sha256(content).hexdigest()}" if kind == "pinned" else ""
    return site.url(f"/tiny.safetensors{TOKEN}{pin}")


def test_every_verb_takes_a_url_for_its_model(address, model, program, tmp_path):
    options = ("--mask", "center", "--method", "classic", "--steps", 2, "--snapshots", "1", "--out")
    for name, given in (("here", model), ("there", address)):
        ran = program("complete", given, EXAMPLE, *options, tmp_path / name)
        assert ran.code == 0, ran.err
        ran = program("sample", given, "--count", 2, "--out", tmp_path / name / "grid.png")
        assert ran.code == 0, ran.err
        ran = program("info", given, "--json")
        assert ran.code == 0, ran.err
        facts = json.loads(ran.out)
        (tmp_path / name / "info.json").write_text(json.dumps(facts | {"path": ""}))
        ran = program(
            "evaluate", given, given, EXAMPLE, "--methods", "classic:0.002", "--masks", "center",
            "--out", tmp_path / name / "report",
        )  # fmt: skip
        assert ran.code == 0, ran.err
        report = (tmp_path / name / "report" / "report.json").read_text()
        assert "s3cr3t" not in report + ran.out + ran.err
        (tmp_path / name / "psnr.json").write_text(
            json.dumps([row["psnr"] for row in json.loads(report)["table"]])
        )
    for file in (EXAMPLE.name, "grid.png", "info.json", "psnr.json"):
        assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes()
    (id_,) = Catalogue.load([address], device="cpu")
    assert id_ in ("tiny", "run")
    assert pixmend.load(address).settings == pixmend.load(model).settings


def test_a_file_that_is_no_model_is_told_by_its_url_and_not_kept(site, model, program, model_cache):
    content = model.read_bytes()
    flipped = bytearray(content)
    flipped[-5] ^= 1
    cases = {
        "/page.html": (b"<html>s3cr3t</html>" * 9, "not a pixmend model file"),
        "/cut.safetensors": (content[:-1], "truncated or damaged"),
        "/flipped.safetensors": (bytes(flipped), "altered or damaged"),
        "/empty": (b"", "not a pixmend model file"),
    }
    for path, (body, words) in cases.items():
        site.answers[path] = (200, {}, body)
        ran = (
            program("info", site.url(path + TOKEN))
            if "." in path and "html" not in path
            else (program("sample", site.url(path + TOKEN), "--out", "x.png"))
        )
        assert ran.code == 2
        assert ran.err.startswith(f"error: {site.url(path)}: ")
        assert words in ran.err
        assert ran.err.count("\n") == 1
        assert "s3cr3t" not in ran.err
    assert list(model_cache.iterdir()) == []


def test_a_model_that_is_not_there_is_one_line(site, program, tmp_path):
    for url in (
        site.url("/none.safetensors"),
        fresh(Counted) + "none",
        fresh(FakeHub) + "user/none",
    ):
        ran = program("sample", url, "--out", tmp_path / "x.png")
        assert ran.code == 2
        assert "no such file or folder" in ran.err
        assert ran.err.count("\n") == 1
    put("counted://r/notes.txt", b"")
    ran = program("sample", "counted://r", "--out", tmp_path / "x.png")
    assert "holds no model.safetensors" in ran.err


def test_images_by_url_are_no_second_model(model, program, tmp_path):
    fresh(Counted)
    first, second = (
        put(f"counted://r/{name}.png", EXAMPLE.read_bytes()) for name in ("one", "two")
    )
    ran = program(
        "evaluate", model, first, second, "--methods", "classic:0.002", "--masks", "center",
        "--out", tmp_path / "report",
    )  # fmt: skip
    assert "2 images" in ran.out + ran.err, ran.err


def test_no_request_makes_a_server_fetch_a_model(site, model):
    with serving(Catalogue.load([str(model)], device="cpu")) as served:
        answer = served.post(model=site.url("/tiny.safetensors"))
    assert answer.status_code == 404
    assert "no such model" in answer.json()["detail"]
    assert site.requests == []


def test_a_missing_package_is_named_with_its_extra(program, tmp_path, monkeypatch):
    def missing(protocol):
        raise ImportError("Install huggingface_hub to access HfFileSystem")

    from fsspec import core

    monkeypatch.setattr(core, "get_filesystem_class", missing)
    from pixmend.storage import urls

    urls.file_system.cache_clear()
    ran = program("sample", "hf://user/name", "--out", tmp_path / "x.png")
    assert ran.code == 2
    assert "pixmend[hub]" in ran.err
    urls.file_system.cache_clear()


def test_without_a_home_folder_the_variable_is_named(site, model, program, monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    site.give("/tiny.safetensors", model.read_bytes())
    ran = program("sample", site.url("/tiny.safetensors"), "--out", tmp_path / "x.png")
    assert ran.code == 2
    assert "set XDG_CACHE_HOME" in ran.err
