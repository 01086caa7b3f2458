"""An evaluation gives equal figures each time, loses a batch at most, and says in words what it found."""

import json
import re

import numpy as np
import pytest

from pixmend.errors import InputError, MaskError, RunError, SettingsError, StoppedError
from pixmend.evaluation import Files, Protocol, Recorded, TrainingImages, evaluate, find_contestants
from pixmend.evaluation.heldout import choose_held_out
from pixmend.evaluation.ledger import Row
from pixmend.images import encode_png
from pixmend.records import PackSettings, Records, pack

TRAIN = np.random.default_rng(8).integers(0, 256, (12, 16, 16, 1), np.uint8)
QUICK = {
    "methods": ["seed:0.002", "mean", "nearest"],
    "protocol": Protocol(("center", "random:0.5"), batch=4),
    "count": 10,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Ten families of two images each; the last two are copies of training images."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(
        np.random.default_rng(1).integers(0, 256, (18, 16, 16), np.uint8)
    ):
        (folder / f"family{chr(97 + number // 2)}-{number}.png").write_bytes(
            encode_png(pixels[..., None])
        )
    for number in (0, 1):
        near = np.clip(TRAIN[number].astype(int) + 1 - 2 * number, 0, 255).astype(np.uint8)
        (folder / f"copy-{number}.png").write_bytes(encode_png(near))
    paths = sorted(folder.iterdir())
    return Files(paths, [path.name for path in paths])


@pytest.fixture
def train():
    names = [f"font{chr(97 + number)}-x.png" for number in range(len(TRAIN))]
    return TrainingImages(TRAIN, names, [None] * len(TRAIN), "digest")


def figures(out):
    """All lines of results.csv without memory and seconds, which are the last cells."""
    return [line.rsplit(",", 2)[0] for line in (out / "results.csv").read_text().splitlines()]


def test_two_evaluations_give_identical_figures_but_for_seconds(untrained, files, train, tmp_path):
    for name in ("a", "b"):
        found = evaluate(untrained("L"), files, tmp_path / name, train=train, **QUICK)
    assert figures(tmp_path / "a") == figures(tmp_path / "b")
    assert len(found.rows) == 10 * 2 * 3
    assert {row.image for row in found.rows} == set(found.held_out.names)


@pytest.mark.parametrize("after", [1, 5, 11])
def test_stopped_and_cut_off_it_goes_on_where_it_was(untrained, files, train, tmp_path, after):
    whole, parts, seen = tmp_path / "whole", tmp_path / "parts", []
    evaluate(untrained("L"), files, whole, train=train, **QUICK)
    with pytest.raises(StoppedError):
        evaluate(
            untrained("L"),
            files,
            parts,
            train=train,
            on_step=seen.append,
            should_stop=lambda: len(seen) >= after,
            **QUICK,
        )
    with (parts / "results.csv").open("a") as results:
        results.write("3,fam,family")  # what a kill in the middle of a line leaves
    again = []
    evaluate(untrained("L"), files, parts, train=train, on_step=again.append, **QUICK)
    assert [step.fresh for step in again[:after]] == [False] * after
    assert all(step.fresh for step in again[after:])
    assert figures(parts) == figures(whole)


def test_more_masks_and_images_add_to_what_is_there(untrained, files, train, tmp_path):
    evaluate(untrained("L"), files, tmp_path, train=train, **{**QUICK, "count": 8})
    steps = []
    more = {**QUICK, "protocol": Protocol(("center", "random:0.5", "grid"), batch=4)}
    evaluate(untrained("L"), files, tmp_path, train=train, on_step=steps.append, **more)
    fresh = [(step.mask, step.label) for step in steps if step.fresh]
    assert fresh.count(("center", "mean")) == 1, "the batch of the images that were added"
    assert fresh.count(("grid", "mean")) == 3


def test_copies_of_training_images_are_left_out_and_named(untrained, files, train):
    held = choose_held_out(files, untrained("L"), train, count=100)
    assert held.duplicates == ["copy-0.png", "copy-1.png"]
    assert len(held.images) == 18
    assert held.looked_at == 20
    assert len(choose_held_out(files, untrained("L"), None, count=100).images) == 20


def test_families_that_training_has_too_are_told(untrained, files):
    names = ["familyc-1.png", *(f"font{chr(97 + number)}-x.png" for number in range(11))]
    train = TrainingImages(TRAIN, names, [None] * 12, "digest")
    assert choose_held_out(files, untrained("L"), train, count=100).shared == ["familyc"]


def test_a_larger_count_draws_the_same_images_and_more(untrained, files, train):
    few, more = (choose_held_out(files, untrained("L"), train, count=count) for count in (5, 9))
    assert more.names[:5] == few.names


def test_the_same_images_from_files_and_from_records(untrained, files, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(encode_png(files.read(number)))
    pack(folder, tmp_path / "records", PackSettings(size=16, channels="L"), workers=1)
    recorded = choose_held_out(
        Recorded(Records(tmp_path / "records")), untrained("L"), None, count=9
    )
    paths = sorted(folder.iterdir())
    read = choose_held_out(
        Files(paths, [path.name for path in paths]), untrained("L"), None, count=9
    )
    assert np.array_equal(recorded.images, read.images)


def test_the_nearest_rival_gives_the_image_itself_where_training_has_it(untrained):
    from pixmend.masks import make_mask

    (nearest,) = find_contestants(["nearest"], untrained("L"), TRAIN)
    masks = [make_mask("half", 16, 16)] * 3
    found = nearest.run(TRAIN[4:7], masks, lambda: False)
    assert np.array_equal(np.stack([each.pixels for each in found]), TRAIN[4:7])


def test_rivals_leave_known_pixels_as_they_are(untrained):
    from pixmend.evaluation import available
    from pixmend.masks import make_mask

    names = [name for name in available(untrained("L"), TRAIN)[0] if name != "default"]
    assert {"mean", "nearest"} <= set(names)
    images = np.random.default_rng(4).integers(0, 256, (2, 16, 16, 1), np.uint8)
    masks = [make_mask("strokes", 16, 16, seed=seed) for seed in range(2)]
    for each in find_contestants(names, untrained("L"), TRAIN):
        for image, mask, found in zip(
            images, masks, each.run(images, masks, lambda: False), strict=True
        ):
            assert np.array_equal(found.pixels[mask.known], image[mask.known]), each.label
            assert not np.array_equal(found.pixels[mask.hole], image[mask.hole]), each.label


def test_a_row_is_read_as_it_was_written():
    row = Row(
        3, "a,b\nc.png", "a", "ff", "center", 0.25, "default", "sharp", 1.5, 0.5, 2, 3, 0.25, 4, 5, 6,
        None, 6, 0.75, 0.5, 7, 1, 0, None, "odd; \"so\"", None, 0.125,
    )  # fmt: skip
    assert Row.from_cells(row.cells()) == row


def test_the_best_of_candidates_is_never_worse_than_the_first(untrained, files, tmp_path):
    options = {**QUICK, "methods": ["seed:0.002"], "count": 4}
    found = evaluate(untrained("L"), files, tmp_path, candidates=3, **options)
    assert all(row.best_of >= row.psnr for row in found.rows)
    assert any(row.best_of > row.psnr for row in found.rows)


# The report


def test_the_report_stands_alone_and_says_what_the_figures_say(untrained, files, train, tmp_path):
    from tests.training.test_report import Page

    found = evaluate(
        untrained("L"), files, tmp_path, train=train, model_name="a <b>&model", **QUICK
    )
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert "a &lt;b&gt;&amp;model" in text
    assert not re.search(r"""(src|href)=["'](?!data:)""", text), "it opens offline"
    words = " ".join(page.text)
    assert found.verdict in words
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["verdict"] == found.verdict
    for cell in facts["table"]:
        assert f"{cell['psnr']['mean']:.2f}" in words
    assert facts["images"]["duplicates"] == found.held_out.duplicates


def test_a_model_that_loses_to_the_mean_is_told_so(untrained, train, tmp_path):
    draw = np.random.default_rng(2)
    paths = []
    for letter in "abcdefghijkl":  # all but the mean training image
        pixels = TRAIN.mean(0) + draw.normal(0, 3, TRAIN.shape[1:])
        paths.append(tmp_path / f"{letter}-0.png")
        paths[-1].write_bytes(encode_png(pixels.round().astype(np.uint8)))
    options = {**QUICK, "methods": ["seed:0.002", "mean"]}
    source = Files(paths, [path.name for path in paths])
    found = evaluate(untrained("L"), source, tmp_path / "out", train=train, **options)
    assert found.verdict.startswith("The model loses")
    assert found.summary.lead.sure == -1
    told = " ".join(finding.fact for finding in found.findings)
    assert "no better than the mean" in told
    assert "learned from 12 images" in told
    assert "stand on 10 images" in told


# Bad input


@pytest.mark.parametrize(
    ("name", "said"),
    [("defualt", "did you mean default"), ("nearest", "--train-data"), ("default:-1", "share")],
)
def test_a_method_that_cannot_take_part_is_told_with_what_can(untrained, name, said):
    with pytest.raises(SettingsError, match=said):
        find_contestants([name], untrained("L"), None)


def test_an_unknown_mask_is_told_with_those_there_are():
    with pytest.raises(MaskError, match="center"):
        Protocol(("centre",))


def test_another_evaluation_in_the_folder_is_not_overwritten(untrained, files, tmp_path):
    options = {**QUICK, "methods": ["seed:0.002"], "count": 4}
    evaluate(untrained("L"), files, tmp_path, model_digest="one", **options)
    with pytest.raises(RunError, match="another model"):
        evaluate(untrained("L"), files, tmp_path, model_digest="two", **options)


def test_nothing_but_training_images_is_told(untrained, tmp_path, train):
    (tmp_path / "a.png").write_bytes(encode_png(TRAIN[0]))
    (tmp_path / "b.png").write_bytes(b"no image")
    paths = sorted(tmp_path.iterdir())
    source = Files(paths, [path.name for path in paths])
    with pytest.raises(InputError, match="1 are training images, 1 cannot be read"):
        choose_held_out(source, untrained("L"), train, count=5)


def test_the_verb_writes_all_and_lists_what_cannot_be_read(program, untrained, files, tmp_path):
    from pixmend.models import save_model

    save_model(untrained("L"), tmp_path / "m.safetensors")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        (images / f"{number}.png").write_bytes(encode_png(files.read(number)))
    (images / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out"
    ran = program(
        "evaluate", tmp_path / "m.safetensors", images, "--out", out, "--masks", "center",
        "--methods", "seed:0.002", "--n", 9,
    )  # fmt: skip
    assert ran.code == 2
    assert "broken.png" in ran.err
    assert "completes best" in ran.out
    for name in (
        "report.html",
        "report.json",
        "results.csv",
        "answers/center/seed-0.002-sharp/000000.png",
    ):
        assert (out / name).is_file()
