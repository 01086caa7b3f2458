"""The split: whole families, no overlap, a function of (records, seed, share) and of nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixmend.images import open_image
from pixmend.records import INPUTS_NAME, PackSettings, Records, pack, provenance
from pixmend.training import RunDirectory, train
from pixmend.training.split import open_split, split_by_group
from tests.training.conftest import FACES


def distinct(count):
    return np.arange(count, dtype=np.uint64)


@st.composite
def sets(draw):
    sizes = draw(st.lists(st.integers(1, 60), min_size=1, max_size=60))
    family_of = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
    digests = draw(st.lists(st.integers(0, 400), min_size=len(family_of), max_size=len(family_of)))
    return family_of, np.array(digests, np.uint64)


@given(sets(), st.integers(0, 3), st.sampled_from([0.0, 0.02, 0.05, 0.3, 0.5]))
def test_no_family_is_on_both_sides(images, seed, share):
    family_of, digests = images
    found = split_by_group(family_of, digests, seed=seed, share=share)
    trained = {family_of[index] for index in found.training}
    held = {family_of[index] for index in found.held_out}
    assert not trained & held
    assert held <= set(found.groups)
    assert not trained & set(found.groups)
    assert len(found.training), "something is left to train on"
    assert not set(digests[found.training]) & set(digests[found.held_out])
    kept_out = len(family_of) - len(found.training)
    assert len(found.held_out) + found.duplicates == kept_out
    if not share or len(family_of) < 100:
        assert not kept_out


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (99, 0.05, 0),
        (100, 0.05, 5),
        (100, 0.001, 1),
        (200, 0.05, 16),
        (1000, 0.05, 50),
        (1000, 0.0, 0),
        (20_000, 0.05, 512),
    ],
)
def test_how_many_are_held_out_where_each_image_is_a_family(count, share, expected):
    names = [str(index) for index in range(count)]
    found = split_by_group(names, distinct(count), seed=0, share=share)
    assert len(found.held_out) == expected
    assert len(found.training) == count - expected


def test_of_families_that_are_all_too_large_the_smallest_is_kept_out_and_512_judged_by():
    sizes = [2000, 1900, 3000, 2500]
    family_of = [f"{size}" for size in sizes for _ in range(size)]
    found = split_by_group(family_of, distinct(len(family_of)), seed=0, share=0.05)
    assert found.groups == ("1900",)
    assert len(found.training) == sum(sizes) - 1900
    assert len(found.held_out) == 512
    assert {family_of[index] for index in found.held_out} == {"1900"}


def test_the_draw_is_the_seeds():
    names = [str(index // 4) for index in range(400)]
    draws = [split_by_group(names, distinct(400), seed=seed, share=0.05) for seed in (0, 0, 1)]
    assert np.array_equal(draws[0].held_out, draws[1].held_out)
    assert not np.array_equal(draws[0].held_out, draws[2].held_out)


def test_a_duplicate_of_a_training_image_is_dropped_and_counted(family_records, tmp_path):
    counts = set()
    for seed in range(4):
        found = open_split(tmp_path / f"{seed}.json", family_records, seed=seed, share=0.05)
        trained = {image.tobytes() for image in family_records.images(found.training)}
        held = [image.tobytes() for image in family_records.images(found.held_out)]
        assert not trained & set(held)
        assert len(held) + found.duplicates == len(found.groups) * FACES
        counts.add(found.duplicates)
    assert counts > {0}, "some of these seeds hold a family with the shared image out"


def test_the_split_that_was_written_is_the_split_that_is_read(family_records, tmp_path):
    path = tmp_path / "held_out.json"
    drawn = open_split(path, family_records, seed=3, share=0.05)
    content = path.read_text()
    for spoil in (lambda: None, path.unlink, lambda: path.write_text("{"), lambda: forge(path)):
        spoil()
        again = open_split(path, family_records, seed=3, share=0.05)
        assert np.array_equal(again.training, drawn.training)
        assert np.array_equal(again.held_out, drawn.held_out)
        assert (again.groups, again.duplicates) == (drawn.groups, drawn.duplicates)
        assert path.read_text() == content


def forge(path):
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "seed": 4, "held_out": [0]}))


def test_origins_are_the_same_with_and_without_the_list_of_inputs(family_folder, tmp_path):
    pack(family_folder, tmp_path / "r", PackSettings(size=16, channels="L"), workers=1)
    listed = provenance(Records(tmp_path / "r"))
    (tmp_path / "r" / INPUTS_NAME).unlink()
    recorded = provenance(Records(tmp_path / "r"))
    assert listed.names == recorded.names == Records(tmp_path / "r").names(range(300))
    assert np.array_equal(listed.digests, recorded.digests)
    assert len(np.unique(listed.digests)) == 300 - 14, "equal pixels, equal digests"


def test_inputs_that_were_left_out_do_not_shift_the_names(family_folder, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in family_folder.iterdir():
        (mixed / path.name).write_bytes(path.read_bytes())
    (mixed / "a__bad.png").write_bytes(b"no image")
    pack(mixed, tmp_path / "r", PackSettings(size=16, channels="L"), workers=1)
    held = Records(tmp_path / "r")
    assert provenance(held).names == held.names(range(len(held)))


def test_training_never_sees_a_held_out_image(family_records, tiny, tmp_path, monkeypatch):
    seen = set()
    images = Records.images

    def watched(self, indices):
        seen.update(int(index) for index in indices)
        return images(self, indices)

    monkeypatch.setattr(Records, "load_all", lambda *_, **__: None)
    monkeypatch.setattr(Records, "images", watched)
    # It reads some for people to try, as the test below says.
    monkeypatch.setattr("pixmend.training.loop.write_examples", lambda *_: None)
    list(train(family_records, tmp_path / "run", tiny(batch_size=64, held_out=0.1)))
    held = json.loads(RunDirectory(tmp_path / "run").split.read_text())["held_out"]
    assert len(held) >= 20
    assert not seen & set(held)
    assert len(seen) > 250, "the rest is trained on"


@pytest.mark.parametrize("cut", [1, 6])
def test_a_resume_keeps_the_split_even_when_its_file_is_gone(family_records, tiny, tmp_path, cut):
    from tests.training.test_run import assert_same_end

    settings = tiny(held_out=0.1)
    list(train(family_records, tmp_path / "whole", settings))
    done = []
    for now in train(
        family_records, tmp_path / "cut", settings, should_stop=lambda: len(done) + 1 == cut
    ):
        done.append(now)  # noqa: PERF402 - should_stop reads it as it grows
    RunDirectory(tmp_path / "cut").split.unlink()
    list(train(family_records, tmp_path / "cut", settings))
    assert_same_end(tmp_path / "cut", tmp_path / "whole")


def test_a_run_keeps_some_held_out_images_for_people_to_try(family_records, tiny, tmp_path):
    list(train(family_records, tmp_path, tiny(held_out=0.2, steps=1)))
    run = RunDirectory(tmp_path)
    held_out = json.loads(run.split.read_text())["held_out"]
    examples = sorted(run.examples.iterdir())
    assert len(examples) == 8
    for path in examples:
        assert int(path.stem) in held_out
        pixels = open_image(path).pixels
        assert np.array_equal(pixels, family_records.images([int(path.stem)])[0])
