"""The verbs on URLs, on a real local S3 server and on a flaky store; the bytes equal those of paths."""

import json

import numpy as np
import pytest
from PIL import Image

from pixmend.models import save_model
from pixmend.storage import JsonlWriter, StorePath, jsonl
from tests.stores import Counted, Flaky, fresh, upload


@pytest.fixture(autouse=True)
def no_cache(monkeypatch):
    monkeypatch.setenv("PIXMEND_CACHE_MIB", "0")


@pytest.fixture(params=["flaky", "s3"])
def root(request):
    if request.param == "s3":
        return StorePath.of(request.getfixturevalue("bucket"))
    return StorePath.of(fresh(Flaky) + "root")


@pytest.fixture
def folder(tmp_path):
    """Return a folder with six images in two sub-folders, and a mask for each."""
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (18, 14, 3), np.uint8)
        path = tmp_path / "in" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        hole = np.zeros((18, 14), np.uint8)
        hole[number : number + 5, 3:9] = 255
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(hole).save(tmp_path / "masks" / f"{number}.png")
    return tmp_path


def all_of(place, *, but=()):
    names = [file.name for file in place.files()]
    return {name: (place / name).read_bytes() for name in names if name not in but}


def facts_of(place):
    lines = [json.loads(line) for line in (place / "results.jsonl").read_bytes().splitlines()]
    return {line["output"]: line["file"] for line in lines}


def test_complete_reads_masks_and_writes_by_url(root, folder, untrained, program):
    save_model(untrained("RGB"), folder / "m.safetensors")
    options = ["--steps", "2", "--snapshots", "1", "--uncertainty"]
    here = folder / "here"
    ran = program(
        "complete", folder / "m.safetensors", folder / "in", "--mask", folder / "masks",
        "--out", here, *options,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    images, masks = upload(folder / "in", root / "in"), upload(folder / "masks", root / "masks")
    ran = program(
        "complete", folder / "m.safetensors", images, "--mask", masks,
        "--out", root / "out", *options,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert "6 completed" in ran.out
    assert all_of(root / "out", but=["results.jsonl"]) == all_of(
        StorePath.of(here), but=["results.jsonl"]
    )
    assert facts_of(root / "out")["a/0.png"] == f"{root}/in/a/0.png"
    # One of them again: what the others gave stays told.
    ran = program(
        "complete", folder / "m.safetensors", root / "in" / "a" / "0.png", "--mask", masks / "1.png",
        "--out", root / "out", "--json", *options,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["output"] == "0.png"
    assert set(facts_of(root / "out")) == {f"{'ab'[n % 2]}/{n}.png" for n in range(1, 6)} | {
        "0.png"
    }


def test_failures_in_a_store_are_reported_and_stop_nothing(folder, untrained, program):
    root = StorePath.of(fresh(Counted) + "r")
    save_model(untrained("RGB"), folder / "m.safetensors")
    images = upload(folder / "in", root / "in")
    (images / "a" / "bad.png").write_bytes(b"no image")
    (images / "a" / "empty.png").write_bytes(b"")
    masks = upload(folder / "masks", root / "masks")
    (masks / "2.png").remove()
    ran = program(
        "complete", folder / "m.safetensors", images, "--mask", masks, "--out", images, "--steps", "1"
    )  # fmt: skip
    assert ran.code == 2
    assert "no images in this folder" in ran.err  # all of them lie in --out
    ran = program(
        "complete", folder / "m.safetensors", images, images / "a" / "0.png", "--mask", masks,
        "--out", root / "out", "--steps", "1",
    )  # fmt: skip
    assert ran.code == 2
    assert "3 of 8 inputs failed" in ran.err
    assert "counted://r/masks" in ran.err
    assert (root / "out" / "b" / "5.png").is_file()
    ran = program(
        "complete",
        "--mask",
        "center",
        folder / "m.safetensors",
        root / "none.png",
        "--out",
        root / "out",
    )
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    ran = program("complete", folder / "m.safetensors", images, "--mask", root / "no", "--out", "x")
    assert ran.code == 2
    assert "nor an existing file" in ran.err


def test_an_input_is_never_overwritten_by_a_result(folder, untrained, program):
    root = StorePath.of(fresh(Counted) + "r")
    save_model(untrained("RGB"), folder / "m.safetensors")
    images = upload(folder / "in" / "a", root / "out")
    before = all_of(images)
    ran = program(
        "complete",
        "--mask",
        "center",
        folder / "m.safetensors",
        images / "0.png",
        "--out",
        images,
        "--steps",
        "1",
    )
    assert ran.code == 0, ran.err
    assert {name: (images / name).read_bytes() for name in before} == before


def test_pack_train_and_evaluate_by_url(root, folder, program):
    upload(folder / "in", root / "in")
    ran = program("pack", root / "in", root / "records", "--size", "16", "--workers", "1")
    assert ran.code == 0, ran.err
    assert "6 images of 16 px" in ran.out
    ran = program("pack", root / "in", root / "records", "--size", "16", "--workers", "1")
    assert "packed before" in ran.out
    settings = [
        "filters=4",
        "latent_dim=6",
        "batch_size=4",
        "grid_images=4",
        "monitor=false",
        "device=cpu",
    ]
    options = ["--steps", "2", *(x for setting in settings for x in ("--set", setting))]
    program("pack", folder / "in", folder / "records", "--size", "16", "--workers", "1")
    for data, run in [
        (root / "records", "far"),
        (folder / "records", "near"),
        (root / "in", "packs"),
    ]:
        more = ["--set", "size=16"] if run == "packs" else []
        ran = program("train", data, folder / run, *options, *more)
        assert ran.code == 0, ran.err
    far, near, packs = (folder / run / "model.safetensors" for run in ("far", "near", "packs"))
    assert tensors(far) == tensors(near) == tensors(packs)
    for images in (root / "in", root / "records"):
        out = folder / f"report-{images.name}"
        ran = program(
            "evaluate", far, images, "--out", out, "--methods", "mean", "--masks", "center",
            "--train-data", root / "records",
        )  # fmt: skip
        assert ran.code == 2  # all are training images
        assert "training images: 6" in ran.err
        ran = program(
            "evaluate", far, images, "--out", out, "--methods", "classic:0.002", "--masks", "center"
        )
        assert ran.code == 0, ran.err
        assert (out / "report.html").is_file()


def tensors(path):
    from safetensors.numpy import load_file

    return {name: value.tobytes() for name, value in load_file(path).items()}


def test_a_run_and_a_report_are_kept_on_this_machine(folder, program, monkeypatch):
    monkeypatch.chdir(folder)
    place = upload(folder / "in", StorePath.of(fresh(Counted) + "r"))
    for arguments in (
        ["train", place, "s3://bucket/run"],
        ["evaluate", "characters", place, "--out", "s3://bucket/report"],
        ["evaluate", "characters", place, "--tasks", "s3://bucket/report"],
    ):
        ran = program(*arguments)
        assert ran.code == 2
        assert "kept on this machine" in ran.err
        assert ran.err.count("\n") == 1
    assert {path.name for path in folder.iterdir()} == {"in", "masks"}


def test_credentials_rights_and_buckets_are_told_in_one_line_without_a_secret(
    bucket, s3_url, folder, program, monkeypatch
):
    import urllib.request

    from s3fs import S3FileSystem

    from pixmend.storage import urls

    def anew():
        urls.file_system.cache_clear()
        S3FileSystem.clear_instance_cache()

    def reset_auth(count):
        request = urllib.request.Request(
            f"{s3_url}/moto-api/reset-auth",
            str(count).encode(),
            {"Content-Type": "text/plain"},
            method="POST",
        )
        with urllib.request.urlopen(request):
            pass

    def told(words, *arguments):
        ran = program(*arguments)
        assert ran.code == 2
        (line,) = [line for line in ran.err.splitlines() if line.startswith("error: ")]
        assert line == ran.err.splitlines()[-1]
        assert words in line
        for secret in ("s3cr3t", "AKIATESTING", "Traceback"):
            assert secret not in ran.err

    upload(folder / "in", StorePath.of(bucket) / "in")
    told("no such bucket", "pack", folder / "in", "s3://there-is-none/records")
    told("no such bucket", "pack", "s3://there-is-none/images", folder / "out")
    try:
        reset_auth(0)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTING")
        anew()
        told("no permission", "pack", f"{bucket}/in", folder / "out")
        told("no permission", "pack", folder / "in", f"{bucket}/records")
    finally:
        reset_auth("inf")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(folder))
    anew()
    told("credentials are missing", "pack", f"{bucket}/in", folder / "out")
    told("credentials are missing", "pack", folder / "in", f"{bucket}/records")
    told("credentials are missing", "train", f"{bucket}/records", folder / "run")
    anew()


def test_a_file_of_lines_is_whole_in_a_store_at_the_end_and_now_and_then(monkeypatch):
    def begun(text):
        return text or "first\n"

    place = StorePath.of(fresh(Counted) + "r/results.jsonl")
    with pytest.raises(ZeroDivisionError), JsonlWriter(place, begun) as written:  # noqa: PT012
        written.add("second")
        assert place.read_bytes() == b"first\n"
        monkeypatch.setattr(jsonl, "_SECONDS", 0.0)
        written.add("third")
        assert place.read_bytes() == b"first\nsecond\nthird\n"
        monkeypatch.setattr(jsonl, "_SECONDS", 1e9)
        written.add("fourth")
        1 / 0  # noqa: B018
    assert place.read_bytes() == b"first\nsecond\nthird\nfourth\n"
