"""Three nodes write the bytes of one process, whatever dies; in one file, to share one cluster."""

import json
import os
import sys

import numpy as np
import pytest
from PIL import Image

from pixmend import api, records
from pixmend.cluster.completion_job import complete
from pixmend.cluster.evaluation_job import EvaluationJob
from pixmend.cluster.packing_job import PackingJob
from pixmend.completion import CompletionOptions, find_method
from pixmend.errors import ClusterError, OutputError, StoppedError
from pixmend.evaluation import EvaluationSpec
from pixmend.models import save_model
from pixmend.records import PackSettings
from pixmend.storage import StorePath
from tests.stores import upload

from .conftest import tree
from .poison import poison

PACKED = int(os.environ.get("PIXMEND_CLUSTER_PACK", "240"))
COMPLETED = int(os.environ.get("PIXMEND_CLUSTER_COMPLETE", "40"))
PART = max(5, COMPLETED // 40)  # images of a part
SETTINGS = PackSettings(size=8, images_per_shard=max(16, PACKED // 40))
QUICK = CompletionOptions(find_method("classic", steps=2), snapshots=(1,), candidates=2, batch=4)


@pytest.fixture
def model(untrained, tmp_path):
    save_model(untrained("RGB"), tmp_path / "m.safetensors")
    return str(tmp_path / "m.safetensors")


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("pixmend.cluster.input_listing._PART", PART)


def pack_with_faults(folder, out, cluster, faults):
    def strike(progress):
        if faults and progress.done > PACKED * (3 - len(faults)) / 4:
            faults.pop(0)("PackingWorker")

    engine = PackingJob(cluster)
    return records.pack(folder, out, SETTINGS, engine=engine, on_progress=strike)


def alone(program, model, folder, out, *more):
    """Complete in one process."""
    return program(
        "complete", "--mask", "center", model, folder, "--out", out, "--method", "classic", "--steps", 2, "--snapshots", 1,
        "--candidates", 2, "--batch", 4, "--uncertainty", *more,
    )  # fmt: skip


def pictures(out):
    """Return all results but `results.jsonl` and the sheets, which only one process writes."""
    account = {"results.jsonl"} | {path.name for path in out.glob("sheet*.png")}
    return {name: content for name, content in tree(out).items() if name not in account}


def facts(out):
    """Return the facts without times."""
    found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in found]


def test_a_worker_and_a_machine_die_and_the_records_are_those_of_one_process(
    machines, cluster, make_images, tmp_path
):
    folder = make_images(PACKED)
    (folder / "Sample001" / "broken.png").write_bytes(b"no image")
    one = records.pack(folder, tmp_path / "one", SETTINGS, workers=1)
    faults = [machines.kill_worker, lambda name: machines.kill_node()]
    three = pack_with_faults(folder, tmp_path / "three", cluster, faults)
    assert not faults
    assert three == one
    assert (three.count, three.left_out) == (PACKED, 1)
    assert tree(tmp_path / "three") == tree(tmp_path / "one")
    assert not list((tmp_path / "three").glob(".*.tmp"))


@pytest.mark.long
def test_an_image_that_kills_its_worker_is_left_out_and_named(cluster, make_images, tmp_path):
    folder = make_images(40)
    poison(folder / "Sample001" / "img00010x.png")
    manifest = records.pack(folder, tmp_path / "out", SETTINGS, engine=PackingJob(cluster))
    assert (manifest.count, manifest.left_out) == (40, 1)
    lines = map(json.loads, (tmp_path / "out" / "inputs.jsonl").read_text().splitlines())
    (bad,) = [line for line in lines if "reason" in line]
    assert bad["name"] == "Sample001/img00010x.png"
    assert "died twice at this input" in bad["reason"]


@pytest.mark.long
def test_a_shard_that_fails_is_told_after_a_second_try_and_the_others_stay(
    cluster, make_images, tmp_path, monkeypatch
):
    folder, out = make_images(40), tmp_path / "out"
    blocker = out / "images-00001-of-00003.tfrecord"
    module = sys.modules["pixmend.records.packing"]  # whose name in its room is the function's
    monkeypatch.setattr(module, "clean", lambda folder, keep: blocker.mkdir(exist_ok=True))
    with pytest.raises(OutputError, match=r"1 of 3 shards failed twice.*images-00001"):
        records.pack(folder, out, SETTINGS, engine=PackingJob(cluster))
    monkeypatch.undo()
    blocker.rmdir()
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("images-0000[02]*")}
    assert records.pack(folder, out, SETTINGS, engine=PackingJob(cluster)).count == 40
    assert before == {path.name: path.stat().st_mtime_ns for path in out.glob("images-0000[02]*")}


@pytest.mark.long
def test_a_wish_to_stop_is_heard_and_the_same_call_goes_on(cluster, make_images, tmp_path):
    folder, out = make_images(PACKED), tmp_path / "out"
    seen = []
    with pytest.raises(StoppedError):
        records.pack(
            folder, out, SETTINGS, engine=PackingJob(cluster),
            on_progress=lambda progress: seen.append(progress.done), should_stop=lambda: max(seen, default=0) > 40,
        )  # fmt: skip
    assert not (out / "manifest.json").exists()
    assert list(out.glob("*.tfrecord"))
    assert records.pack(folder, out, SETTINGS, engine=PackingJob(cluster)).count == PACKED
    assert not list(out.glob(".*.tmp"))


@pytest.mark.long
def test_machines_of_other_versions_are_refused(cluster, make_images, tmp_path, monkeypatch):
    monkeypatch.setattr("pixmend.__version__", "9.9")
    with pytest.raises(ClusterError, match=r"node .*: pixmend is .* there and 9.9 here"):
        records.pack(make_images(4), tmp_path / "out", SETTINGS, engine=PackingJob(cluster))


def test_a_worker_and_a_machine_die_and_the_completions_are_those_of_one_process(
    machines, cluster, model, make_images, small_parts, program, tmp_path
):
    folder, out = make_images(COMPLETED, side=18), tmp_path / "three"
    (folder / "img00000.png").write_bytes(b"no image")
    assert alone(program, model, folder, tmp_path / "one").code == 2
    faults = [lambda: machines.kill_worker("CompletionWorker"), machines.kill_node]

    def strike(progress):
        if faults and progress.done > COMPLETED * (3 - len(faults)) / 4:
            faults.pop(0)()

    found = complete(
        cluster,
        model,
        StorePath(folder),
        StorePath(out),
        QUICK,
        uncertainty=True,
        on_progress=strike,
    )
    assert not faults
    assert (found.done, found.failed) == (COMPLETED, 1)
    # Whoever dies between a part's note and word of it leaves a part that the next finds done.
    assert found.kept <= 2 * PART
    assert "img00000.png" in found.failures[0][0]
    assert pictures(out) == pictures(tmp_path / "one")
    assert sorted(facts(out), key=str) == sorted(facts(tmp_path / "one"), key=str)


@pytest.mark.long
def test_the_same_call_does_what_is_missing_and_nothing_else(
    cluster, model, make_images, small_parts, tmp_path
):
    folder, out = make_images(10), tmp_path / "out"
    complete(cluster, model, StorePath(folder), StorePath(out), QUICK, workers=1)
    before = pictures(out)
    (out / "Sample001" / "img00000.png").unlink()
    (out / "Sample002" / "img00003.sheet.png").write_bytes(b"torn")
    picture = folder / "Sample001" / "img00004.png"
    picture.write_bytes((folder / "Sample001" / "img00006.png").read_bytes())
    modified = (out / "Sample002" / "img00001.png").stat().st_mtime_ns
    found = complete(cluster, model, StorePath(folder), StorePath(out), QUICK, workers=1)
    assert (found.done, found.kept) == (10, 7)
    assert (out / "Sample002" / "img00001.png").stat().st_mtime_ns == modified
    after = pictures(out)
    assert {name for name in after if after[name] != before[name]} == {
        f"Sample001/img00004{ending}" for ending in (".png", ".candidate-2.png", ".sheet.png")
    }
    other = CompletionOptions(find_method("classic", steps=3), snapshots=(1,), candidates=2)
    with pytest.raises(OutputError, match="another job, with another method"):
        complete(cluster, model, StorePath(folder), StorePath(out), other)


@pytest.mark.long
def test_the_verb_completes_all_but_an_image_that_kills_its_worker(
    machines, model, make_images, program, tmp_path
):
    folder, out = make_images(5), tmp_path / "out"
    poison(folder / "Sample001" / "img00002x.png")
    ran = alone(program, model, folder, out, "--cluster", machines.address)
    assert ran.code == 2
    assert "5 completed" in ran.out
    assert "img00002x.png: its worker died twice" in ran.err
    assert len(facts(out)) == 6


def test_an_evaluation_has_the_figures_of_one_process(cluster, model, make_images, tmp_path):
    folder = make_images(6)
    data = tmp_path / "records"
    settings = PackSettings(size=16, channels="RGB")
    records.pack(make_images(5, "train", side=13), data, settings, workers=1)
    spec = EvaluationSpec(("center", "random:0.5"), ["classic:0.002", "mean"], batch=3)
    api.evaluate(model, folder, tmp_path / "one", spec, train_data=data)
    engine = EvaluationJob(cluster, [model], spec, data, workers=1)
    steps = []
    api.evaluate(
        model, folder, tmp_path / "three", spec,
        train_data=data, engine=engine, on_step=steps.append,
    )  # fmt: skip
    assert [step.done for step in steps] == list(range(3, 25, 3))
    one, three = (
        [
            line.rsplit(",", 2)[0]
            for line in (tmp_path / name / "results.csv").read_text().splitlines()
        ]
        for name in ("one", "three")
    )
    assert one == three
    answers = [tree(tmp_path / name / "answers") for name in ("one", "three")]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 8 + 4  # of two methods, and the uncertainty of one


@pytest.mark.long
def test_a_store_is_packed_and_completed_as_a_folder_is(
    machines, bucket, model, make_images, program, tmp_path
):
    folder, masks = make_images(7, side=18), tmp_path / "masks"
    (folder / "Sample001" / "bad.png").write_bytes(b"no image")
    masks.mkdir()
    for number, path in enumerate(sorted(folder.rglob("img*"))):
        hole = np.zeros((18, 21), np.uint8)
        hole[number : number + 6, 4:12] = 255
        Image.fromarray(hole).save(masks / path.name)
    for local in (folder, masks):
        upload(local, StorePath.of(bucket) / local.name)
    on = ("--cluster", machines.address)
    packed = ("--size", 8, "--images-per-shard", 4)
    assert program("pack", f"{bucket}/images", f"{bucket}/records", *packed, *on).code == 0
    assert program("pack", folder, tmp_path / "records", *packed).code == 0
    assert stored(f"{bucket}/records") == tree(tmp_path / "records")
    given = f"{bucket}/images", f"{bucket}/mended", "--mask", f"{bucket}/masks"
    assert alone(program, model, *given, *on).code == 2
    assert alone(program, model, folder, tmp_path / "mended", "--mask", masks).code == 2
    found = stored(f"{bucket}/mended")
    assert len(found.pop("results.jsonl").splitlines()) == 8
    assert found == pictures(tmp_path / "mended")


@pytest.mark.long
@pytest.mark.parametrize("kind", ["flakydisk", "slowdisk"])
def test_a_store_that_fails_or_is_slow_gives_the_same_bytes(
    kind, machines, model, make_images, program, tmp_path
):
    """One in fifty calls of the workers fails, and writes leave half a file."""
    folder, url = make_images(PACKED, side=18), f"{kind}://{tmp_path}"
    on = ("--cluster", machines.address)
    packed = ("--size", 8, "--images-per-shard", 16)
    assert program("pack", f"{url}/images", f"{url}/records", *packed, *on).code == 0
    assert program("pack", folder, tmp_path / "here", *packed).code == 0
    assert tree(tmp_path / "records") == tree(tmp_path / "here")
    some = make_images(COMPLETED, "some", side=18)
    assert alone(program, model, f"{url}/some", f"{url}/mended", *on).code == 0
    assert alone(program, model, some, tmp_path / "alone").code == 0
    assert pictures(tmp_path / "mended") == pictures(tmp_path / "alone")
    hidden = [path for path in tmp_path.rglob(".*.tmp") if path.is_file()]
    assert not hidden


def stored(url):
    """All files at a URL but hidden ones, by their relative names."""
    names = [file.name for file in StorePath.of(url).files() if not file.name.startswith(".")]
    return {name: (StorePath.of(url) / name).read_bytes() for name in names}
