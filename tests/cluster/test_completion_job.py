"""Reruns keep the results of earlier runs; without Ray."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from pixmend.cluster import completion_job
from pixmend.cluster.completion_job import complete
from pixmend.completion import CompletionOptions, find_method
from pixmend.errors import OutputError
from pixmend.models import save_model
from pixmend.storage import JsonlWriter, StorePath
from tests.stores import Counted, fresh

from .conftest import tree
from .one_machine import OneMachine

pytestmark = pytest.mark.usefixtures("quiet_reporters")
QUICK = CompletionOptions(find_method("classic", steps=2), snapshots=(1,), candidates=2, batch=4)


@pytest.fixture
def run(untrained, tmp_path):
    """Return a function that completes a folder on one machine."""
    save_model(untrained("RGB"), tmp_path / "m.safetensors")

    def complete_(given, out, options=QUICK, **more):
        model = str(tmp_path / "m.safetensors")
        inputs = list(map(StorePath, given)) if isinstance(given, list) else StorePath(given)
        return complete(OneMachine(), model, inputs, StorePath(out), options, **more)

    return complete_


def pictures(out):
    return {name: content for name, content in tree(out).items() if name != "results.jsonl"}


def test_an_image_that_takes_the_name_of_an_answer_does_not_take_its_place(
    run, make_images, tmp_path
):
    folder, out = make_images(1, side=18), tmp_path / "out"
    given = folder / "Sample001" / "img00000.png"
    given.rename(given.with_suffix(".gif"))  # its answer is img00000.png
    run(folder, out)
    assert run(folder, out).kept == 1
    other = make_images(2, name="other", side=18) / "Sample002" / "img00001.png"
    other.rename(given)
    found = run(folder, out)
    assert (found.done, found.kept) == (2, 0)
    facts = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len({line["output"] for line in facts}) == 2
    run(folder, tmp_path / "fresh")
    assert pictures(out) == pictures(tmp_path / "fresh")


def test_the_note_of_a_job_holds_no_secret(run, make_images, tmp_path):
    folder, out = make_images(1, side=18), tmp_path / "out"
    fresh(Counted)
    run(folder, out, mask="counted://me:s3cr3t@host/masks?sig=s3cr3t")
    note = (out / ".complete" / "job.json").read_text()
    assert "s3cr3t" not in note
    assert "counted://host/masks" in note


def test_the_note_of_a_job_is_the_same_in_another_process(run, make_images, tmp_path):
    run(make_images(1, side=18), tmp_path / "out")
    note = json.loads((tmp_path / "out" / ".complete" / "job.json").read_text())
    assert "contextual_squared" in note["method"]
    assert "0x" not in note["method"]


def test_what_killed_workers_left_is_removed_when_all_is_done(run, make_images, tmp_path):
    folder, out = make_images(2, side=18), tmp_path / "out"
    run(folder, out)
    for path in (out, out / "Sample001", out / ".complete"):
        (path / ".img00000.png.abcd_123.pixmend.tmp").write_bytes(b"half")
    run(folder, out)
    assert not list(out.rglob("*.tmp"))


def told(out):
    """Return the names of the inputs that have a line of results, in order."""
    lines = (out / "results.jsonl").read_text().splitlines()
    return [json.loads(line)["file"] for line in lines]


def test_lines_of_other_inputs_and_commands_remain(run, make_images, tmp_path):
    first, other, out = make_images(3, side=18), make_images(2, "other", side=18), tmp_path / "out"
    run(first, out)
    with JsonlWriter(StorePath(out / "results.jsonl"), str) as lines:
        lines.add('{"file": "of another command"}')
    (out / "results.jsonl").write_text((out / "results.jsonl").read_text() + '{"file": "half a l')
    shown = []
    run(other, out, on_facts=shown.append)
    of_first, of_other = (
        sorted(map(str, first.rglob("*.png"))),
        sorted(map(str, other.rglob("*.png"))),
    )
    assert told(out) == [*of_first, "of another command", *of_other]
    assert [json.loads(line)["file"] for line in shown] == of_other
    run(first, out)
    assert told(out) == ["of another command", *of_other, *of_first]


def test_commands_at_once_lose_no_line_and_no_file_of_each_other(run, make_images, tmp_path):
    """One runs from its start to its end while another, of as many parts, has yet to tell its results."""
    first, other, out = make_images(2, side=18), make_images(2, "other", side=18), tmp_path / "out"
    temporary, inside = out / ".a.png.abcd_123.pixmend.tmp", []

    def interrupt(progress):
        if progress.done == 2 and not inside:
            inside.append(True)
            temporary.touch()
            run(other, out)
            assert temporary.exists()

    run(first, out, on_progress=interrupt)
    assert inside
    assert not temporary.exists()
    assert sorted(told(out)) == sorted(map(str, [*first.rglob("*.png"), *other.rglob("*.png")]))


def test_of_two_jobs_that_start_at_once_in_one_folder_one_is_refused(tmp_path, monkeypatch):
    out, read, outcomes = StorePath(tmp_path / "out"), StorePath.read_json, []

    def read_slowly(path):
        time.sleep(0.2)
        try:
            return read(path)
        finally:
            time.sleep(0.2)

    def claim(settings):
        try:
            completion_job._claim(out, settings)
            outcomes.append("made")
        except OutputError as error:
            outcomes.append(str(error))

    monkeypatch.setattr(StorePath, "read_json", read_slowly)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(claim, [{"seed": 1}, {"seed": 2}]))
    assert "made" in outcomes
    assert any("another job, with another seed" in each for each in outcomes)


def test_a_result_never_takes_the_place_of_an_input(run, make_images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    given = make_images(1, side=18) / "Sample001" / "img00000.png"
    given = given.rename(out / "a.png")
    before = given.read_bytes()
    assert run([given], out).done == 1
    assert given.read_bytes() == before
    assert (out / "a.png.png").is_file()


def test_another_batch_size_is_no_other_job_and_another_seed_is(run, make_images, tmp_path):
    folder, out = make_images(2, side=18), tmp_path / "out"
    run(folder, out)
    assert run(folder, out, replace(QUICK, batch=1)).kept == 2
    with pytest.raises(OutputError, match="another job, with another seed"):
        run(folder, out, replace(QUICK, seed=1))
