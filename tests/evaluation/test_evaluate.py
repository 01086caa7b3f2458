"""An evaluation gives equal figures each time, loses a batch at most, and says in words what it found."""

import json
import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest

from pixmend.errors import (
    InputError,
    MaskError,
    OutputError,
    RunError,
    SettingsError,
    StoppedError,
)
from pixmend.evaluation import (
    BatchResult,
    EvaluationImages,
    EvaluationSpec,
    HeldOut,
    ModelUnderTest,
    Step,
    TrainingImages,
    choose_held_out,
    find_methods,
)
from pixmend.evaluation import evaluate as evaluate_models
from pixmend.evaluation.classifier import train_classifier
from pixmend.evaluation.realism import measure_realism
from pixmend.evaluation.results import COLUMNS, ResultRow, ResultStore
from pixmend.images import encode_png
from pixmend.records import PackSettings, Records, pack
from tests.forked import forked

TRAIN = np.random.default_rng(8).integers(0, 256, (12, 16, 16, 1), np.uint8)
QUICK = {
    "methods": ["classic:0.002", "mean", "nearest"],
    "masks": ("center", "random:0.5"),
    "batch": 4,
    "count": 10,
}
CALL = ("train", "completions", "engine", "on_step", "should_stop")


def evaluate(model, source, out, *, name="model", digest="", other=None, **options):
    """Evaluate with the fields of a spec as keywords."""
    models = [ModelUnderTest(model, name, digest), *([other] if other else [])]
    call = {key: options.pop(key) for key in CALL if key in options}
    return evaluate_models(models, source, out, EvaluationSpec(**options), **call)


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
    return EvaluationImages.of_files(paths, [path.name for path in paths])


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
    more = {**QUICK, "masks": ("center", "random:0.5", "grid")}
    evaluate(untrained("L"), files, tmp_path, train=train, on_step=steps.append, **more)
    fresh = [(step.mask, step.label) for step in steps if step.fresh]
    assert fresh.count(("center", "mean")) == 1, "the batch of the images that were added"
    assert fresh.count(("grid", "mean")) == 3


def test_copies_of_training_images_are_left_out_and_named(untrained, files, train):
    held = choose_held_out(files, untrained("L"), train, count=100)
    assert held.duplicates == ["copy-0.png", "copy-1.png"]
    assert len(held.images) == 18
    assert held.examined == 20
    assert len(choose_held_out(files, untrained("L"), None, count=100).images) == 20


def test_groups_that_training_has_too_are_reported(untrained, files):
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
        EvaluationImages.of_records(Records(tmp_path / "records")), untrained("L"), None, count=9
    )
    paths = sorted(folder.iterdir())
    read = choose_held_out(
        EvaluationImages.of_files(paths, [path.name for path in paths]),
        untrained("L"),
        None,
        count=9,
    )
    assert np.array_equal(recorded.images, read.images)


def test_the_nearest_baseline_gives_the_image_itself_where_training_has_it(untrained):
    from pixmend.masks import make_mask

    (nearest,) = find_methods(["nearest"], untrained("L"), TRAIN)
    masks = [make_mask("half", 16, 16)] * 3
    found = nearest.run(TRAIN[4:7], masks, lambda: False)
    assert np.array_equal(np.stack([each.pixels for each in found]), TRAIN[4:7])


def test_baselines_leave_known_pixels_as_they_are(untrained):
    from pixmend.evaluation.evaluated_methods import available_methods
    from pixmend.masks import make_mask

    names = [name for name in available_methods(untrained("L"), TRAIN) if name != "default"]
    assert {"mean", "nearest"} <= set(names)
    images = np.random.default_rng(4).integers(0, 256, (2, 16, 16, 1), np.uint8)
    masks = [make_mask("strokes", 16, 16, seed=seed) for seed in range(2)]
    for each in find_methods(names, untrained("L"), TRAIN):
        for image, mask, found in zip(
            images, masks, each.run(images, masks, lambda: False), strict=True
        ):
            assert np.array_equal(found.pixels[mask.known], image[mask.known]), each.label
            assert not np.array_equal(found.pixels[mask.hole], image[mask.hole]), each.label


def test_a_row_is_read_as_it_was_written():
    row = ResultRow(
        3, "a,b\nc.png", "a", "ff", "center", 0.25, "default", "sharp", 1.5, 0.5, 2, 3, 0.25, 4, 5, 6,
        None, 6, 0.75, 0.5, 7, 1, 0, None, "odd; \"so\"", None, 0.125,
    )  # fmt: skip
    assert ResultRow.from_cells(row.cells()) == row
    # No cell is a formula to a spreadsheet, whatever the names are.
    for name in ("=1+1", "+1", "-1", "@a", "\t=1", "\r=1", "'=1", "''", "a=1", ""):
        named = replace(row, image=name, group=name, mask=name, method=name, warnings=name)
        texts = [
            cell for field, cell in zip(COLUMNS, named.cells(), strict=True) if field == "image"
        ]
        assert not texts[0].startswith(("=", "+", "-", "@", "\t", "\r"))
        assert ResultRow.from_cells(named.cells()) == named


def test_the_best_of_candidates_is_never_worse_than_the_first(untrained, files, tmp_path):
    options = {**QUICK, "methods": ["classic:0.002"], "count": 4}
    found = evaluate(untrained("L"), files, tmp_path, candidates=3, **options)
    assert all(row.best_of >= row.psnr for row in found.rows)
    assert any(row.best_of > row.psnr for row in found.rows)


# Other tools, two models, labels


ONE = {"methods": ["mean"], "masks": ("center", "random:0.5"), "batch": 4, "count": 6}


@pytest.fixture
def tasks(program, untrained, files, tmp_path):
    """A folder of tasks for six images, and the models and images that they are of."""
    from pixmend.models import save_model

    save_model(untrained("L"), tmp_path / "m.safetensors")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        (images / f"{chr(97 + number)}-1.png").write_bytes(encode_png(files.read(number)))
    return program, tmp_path


def run_beside(program, folder, *more):
    return program(
        "evaluate", folder / "m.safetensors", folder / "images", "--masks", "center,grid",
        "--methods", "classic:0.002", "--n", 6, *more,
    )  # fmt: skip


def test_any_other_tool_takes_part_by_its_files(tasks):
    program, folder = tasks
    assert run_beside(program, folder, "--tasks", folder / "tasks").code == 0
    answers = folder / "answers"
    for path in (folder / "tasks").glob("*/*.png"):
        to = answers / path.relative_to(folder / "tasks")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())  # the hole stays mid-grey
    more = ("--out", folder / "out", "--completions", f"grey={answers}")
    assert run_beside(program, folder, *more).code == 0
    report = json.loads((folder / "out" / "report.json").read_text())
    named = {cell["method"] for cell in report["table"]}
    assert named == {"classic:0.002, sharp", "grey"}
    before = (folder / "out" / "results.csv").read_text()
    (answers / "center" / "000003.png").unlink()
    ran = run_beside(program, folder, *more)
    assert ran.code == 2
    assert "1 of 12 answers are missing" in ran.err
    assert "center/000003.png" in ran.err
    (answers / "center" / "000003.png").write_bytes(
        (answers / "center" / "000002.png").read_bytes()
    )
    ran = run_beside(program, folder, *more)
    assert "an answer to another image" in ran.err
    again = (folder / "out" / "results.csv").read_text()
    assert [row for row in again.splitlines() if ",seed" in row] == [
        row for row in before.splitlines() if ",seed" in row
    ], "what did not change is kept"


@pytest.mark.parametrize("given", ["lama", "mean=.", "lama=nowhere"])
def test_completions_that_cannot_be_are_told(tasks, given):
    program, folder = tasks
    ran = run_beside(program, folder, "--out", folder / "o", "--completions", given)
    assert ran.code == 2
    assert "--completions" in ran.err


def test_two_models_are_compared_in_pairs(untrained, lively, files, tmp_path):
    options = {**ONE, "methods": ["classic:0.002", "classic:0.004"], "count": 10}
    second = ModelUnderTest(lively("L"), "second", "2")
    found = evaluate(untrained("L"), files, tmp_path / "ab", other=second, **options)
    (pair, _) = found.summary.pairs
    of = {(row.label, row.mask, row.image): row.psnr for row in found.rows}
    gaps = [
        of[pair.second, "center", name] - of[pair.first, "center", name]
        for name in found.held_out.names
    ]
    assert pair.psnr["center"].mean == pytest.approx(np.mean(gaps), abs=1e-4)
    assert "B - A" in found.verdict
    same = ModelUnderTest(untrained("L"), "same", "3")
    found = evaluate(untrained("L"), files, tmp_path / "aa", other=same, **options)
    assert found.summary.pairs[0].psnr["center"].mean == 0
    assert found.verdict.startswith("A and B cannot be told apart")
    with pytest.raises(SettingsError, match="compare models of one shape"):
        evaluate(
            untrained("L"),
            files,
            tmp_path / "no",
            other=ModelUnderTest(untrained("RGB")),
            **options,
        )


def test_the_classifier_classifies_what_can_be_classified(tmp_path):
    draw = np.random.default_rng(3)
    labels = ["dark", "bright"] * 40
    levels = np.array([60 if label == "dark" else 190 for label in labels])
    images = (levels[:, None, None, None] + draw.normal(0, 9, (80, 16, 16, 1))).astype(np.uint8)
    train = TrainingImages(images, [f"{n}.png" for n in range(80)], labels, "digest")
    classifier = train_classifier(train, tmp_path / "net.safetensors", steps=12)
    assert classifier.predict(images) == labels
    kept = train_classifier(train, tmp_path / "net.safetensors", steps=0)
    assert kept.predict(images) == labels, "read back, not trained again"


def test_what_known_pixels_allow_is_read_by_a_second_classifier(tmp_path, monkeypatch):
    from pixmend.evaluation import classifier

    draw = np.random.default_rng(3)
    labels = ["dark", "bright"] * 60
    images = draw.integers(0, 256, (120, 16, 16, 1), np.uint8)
    images[::2, :, :8], images[1::2, :, :8] = 60, 190  # the right half is noise
    names = [f"{n}.png" for n in range(120)]
    train = TrainingImages(images[40:], names[40:], labels[40:], "digest")
    held = HeldOut(images[:40], names[:40], names[:40], labels[:40], 40, 40, [], [], [])
    spec = EvaluationSpec(("half:left", "half:right"))
    few = {"steps": 30}
    monkeypatch.setattr(classifier.train_classifier, "__kwdefaults__", few)
    monkeypatch.setattr(classifier.train_masked_classifier, "__kwdefaults__", few)
    store = ResultStore(tmp_path, {"batch": 80})
    rows = [replace(row_of(n, names[n], "same"), digest="d") for n in range(40)]
    store.add(BatchResult(rows, images[:40], None))
    rows, found, reason = classifier.classify_answers(rows, held, train, spec, store)
    assert reason is None
    assert found["originals_class_correct"] == np.mean([row.class_correct for row in rows])
    assert found["originals_class_correct"] > 0.9
    assert found["known_pixels_class_correct"]["half:right"] > 0.9
    assert found["known_pixels_class_correct"]["half:left"] < 0.75
    monkeypatch.delattr(classifier, "train_masked_classifier")
    again = classifier.classify_answers(rows, held, train, spec, store)
    assert again[1] == found, "read back, not trained again"


@pytest.fixture
def without_extra(monkeypatch):
    """Neither the feature net nor OpenCV is installed."""
    monkeypatch.setattr("pixmend.features.find_spec", lambda name: None)
    monkeypatch.setattr("pixmend.evaluation.baselines.find_spec", lambda name: None)


@pytest.mark.usefixtures("without_extra")
def test_what_a_figure_lacks_is_told_and_it_is_left_out(untrained, files, train, tmp_path):
    found = evaluate(untrained("L"), files, tmp_path, train=train, **ONE)
    told = " ".join(found.unavailable)
    assert "KID needs 50 images, and there are 6" in told
    assert "pip install 'pixmend[metrics]'" in told
    assert "two classes" in told
    assert found.summary.cells["mean", "center"].kid is None
    assert "class_correct" not in found.summary.cells["mean", "center"].figures


@pytest.mark.usefixtures("without_extra")
def test_all_that_did_not_run_is_named_on_the_page_and_in_the_terminal(tasks):
    program, folder = tasks
    ran = program(
        "evaluate", folder / "m.safetensors", folder / "images", "--out", folder / "o",
        "--masks", "center", "--methods", "classic:0.002,biharmonic",
    )  # fmt: skip
    assert ran.code == 0
    absent = "Not compared with mean, nearest, telea and navier-stokes, which did not run."
    page = " ".join((folder / "o" / "report.html").read_text().split())
    assert absent in " ".join(ran.out.split())
    assert absent in page
    reasons = [
        "mean needs --train-data RECORDS",
        "nearest needs --train-data RECORDS",
        "telea needs the extra bench",
        "navier-stokes needs the extra bench",
        "KID in features of photographs needs the extra metrics",
        "KID needs 50 images",
        "classifier accuracy needs --train-data",
    ]
    for reason in reasons:
        assert reason in " ".join(ran.err.split()), reason
        assert reason in page, reason


@pytest.mark.usefixtures("without_extra")
def test_kid_is_zero_for_the_originals_and_not_for_grey(untrained, tmp_path):
    draw = np.random.default_rng(9)
    images = draw.integers(0, 256, (50, 16, 16, 1), np.uint8)
    names = [f"f{n}.png" for n in range(50)]
    held = HeldOut(images, names, names, [None] * 50, 50, 50, [], [], [])
    store = ResultStore(tmp_path, {"batch": 50})
    rows = []
    for method, answers in (("same", images), ("grey", np.full_like(images, 128))):
        own = [row_of(number, names[number], method) for number in range(50)]
        store.add(BatchResult(own, answers, None))
        rows += own
    name, found = measure_realism(held, rows, store, lambda: False)
    same, grey = found["same", "center"], found["grey", "center"]
    assert name == "random"
    assert same[0] == pytest.approx(0, abs=1e-9)
    assert same[1] == pytest.approx(0, abs=1e-3)
    assert grey[0] > 1e-3
    assert measure_realism(held, rows, store, lambda: False) == (name, found), "read back"


def row_of(number, name, method):
    return ResultRow(
        number, name, name, "ff", "center", 0.25, method, "", 1, 0.5, 2, 3, 0.25, 4, 5, 6,
        None, 6, None, 0.5, 7, 1, 0, None, "", None, 0.125,
    )  # fmt: skip


def test_the_protocol_of_the_paper_prints_its_rows_above_ours(tasks):
    program, folder = tasks
    ran = run_beside(program, folder, "--out", folder / "o", "--protocol", "yeh2017")
    assert ran.code == 0
    assert "| Yeh 2017, CelebA, published | 19.4 | 17.4 | 22.8 | 13.7 |" in ran.out
    assert "| classic:0.002, sharp, here |" in ran.out
    ran = run_beside(program, folder, "--out", folder / "o", "--protocol", "yeh2018")
    assert "the only protocol is yeh2017" in ran.err


def test_a_full_disk_is_an_error_and_the_same_command_goes_on(
    untrained, files, tmp_path, monkeypatch
):
    from pixmend.evaluation import results

    real, written = results.write_bytes, []

    def full(path, content):
        written.append(path)
        if len(written) > 6:  # an answer and its uncertainty for each of three batches
            raise OutputError(f"{path}: no space left on device")
        real(path, content)

    options = {**QUICK, "methods": ["classic:0.002"]}
    monkeypatch.setattr(results, "write_bytes", full)
    with pytest.raises(OutputError):
        evaluate(untrained("L"), files, tmp_path / "full", **options)
    monkeypatch.setattr(results, "write_bytes", real)
    steps = []
    evaluate(untrained("L"), files, tmp_path / "full", on_step=steps.append, **options)
    assert [step.fresh for step in steps] == [False] * 3 + [True] * 3
    evaluate(untrained("L"), files, tmp_path / "whole", **options)
    assert figures(tmp_path / "full") == figures(tmp_path / "whole")


def kill_at_the_third_batch(folder):
    """Evaluate in a process that is killed when the third batch's answers are written, and its rows are not."""
    from pixmend import api
    from pixmend.evaluation import results

    real, count = results.append_line, []

    def append(path, line):
        count.append(1)
        if len(count) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, line)

    results.append_line = append
    spec = EvaluationSpec(("center",), ["classic:0.002"], batch=1, count=5)
    api.evaluate(folder / "m.safetensors", folder / "images", folder / "out", spec)


def test_kill_9_loses_a_batch_at_most_and_the_figures_are_those_of_an_uninterrupted_run(tasks):
    from pixmend import api

    _, folder = tasks
    ran = forked(lambda: kill_at_the_third_batch(folder))
    assert ran.returncode == -signal.SIGKILL
    assert len(figures(folder / "out")) == 1 + 2
    steps: list[Step] = []
    spec = EvaluationSpec(("center",), ["classic:0.002"], batch=1, count=5)
    given = (folder / "m.safetensors", folder / "images")
    api.evaluate(*given, folder / "out", spec, on_step=steps.append)
    assert [step.fresh for step in steps] == [False] * 2 + [True] * 3
    api.evaluate(*given, folder / "whole", spec)
    assert figures(folder / "out") == figures(folder / "whole")


# The report


def test_the_report_stands_alone_and_says_what_the_figures_say(untrained, files, train, tmp_path):
    from tests.training.test_report import Page

    found = evaluate(untrained("L"), files, tmp_path, train=train, name="a <b>&model", **QUICK)
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
    options = {**QUICK, "methods": ["classic:0.002", "mean"]}
    source = EvaluationImages.of_files(paths, [path.name for path in paths])
    found = evaluate(untrained("L"), source, tmp_path / "out", train=train, **options)
    assert found.verdict.startswith("The model loses")
    assert found.summary.lead.sign == -1
    told = " ".join(each.fact for each in found.diagnostics)
    assert "no better than the mean" in told
    assert "trained on 12 images" in told
    assert "rest on 10 images" in told


def test_the_report_says_how_much_of_what_known_pixels_allow_is_read(
    untrained, tmp_path, monkeypatch
):
    from pixmend.evaluation import classifier
    from tests.training.test_report import Page

    for name in ("train_classifier", "train_masked_classifier"):
        monkeypatch.setattr(getattr(classifier, name), "__kwdefaults__", {"steps": 3})
    images = np.random.default_rng(4).integers(0, 256, (140, 16, 16, 1), np.uint8)
    names, labels = [f"{n}.png" for n in range(140)], ["a", "b"] * 70
    train = TrainingImages(images[:100], names[:100], labels[:100], "digest")
    source = EvaluationImages(names[100:], labels[100:], lambda n: images[100 + n])
    options = {"methods": ["classic:0.002", "mean"], "masks": ("half",), "count": 40}
    found = evaluate(untrained("L"), source, tmp_path, train=train, **options)
    words = " ".join(" ".join(Page((tmp_path / "report.html").read_text()).text).split())
    facts = json.loads((tmp_path / "report.json").read_text())
    read = found.summary.cells["classic:0.002, sharp", "half"].figures["class_correct"].mean
    allowed = facts["known_pixels_class_correct"]["half"]
    assert f"is read {read:.2f} of {allowed:.3f} that the known pixels allow (half)." in words


# Bad input


@pytest.mark.parametrize(
    ("name", "said"),
    [("defualt", "did you mean default"), ("nearest", "--train-data"), ("default:-1", "share")],
)
def test_a_method_that_cannot_take_part_is_told_with_what_can(untrained, name, said):
    with pytest.raises(SettingsError, match=said):
        find_methods([name], untrained("L"), None)


def test_an_unknown_mask_is_told_with_those_there_are():
    with pytest.raises(MaskError, match="center"):
        EvaluationSpec(("centre",))


def test_another_evaluation_in_the_folder_is_not_overwritten(untrained, files, tmp_path):
    options = {**QUICK, "methods": ["classic:0.002"], "count": 4}
    evaluate(untrained("L"), files, tmp_path, digest="one", **options)
    with pytest.raises(RunError, match="another model"):
        evaluate(untrained("L"), files, tmp_path, digest="two", **options)


def test_nothing_but_training_images_is_told(untrained, tmp_path, train):
    (tmp_path / "a.png").write_bytes(encode_png(TRAIN[0]))
    (tmp_path / "b.png").write_bytes(b"no image")
    paths = sorted(tmp_path.iterdir())
    source = EvaluationImages.of_files(paths, [path.name for path in paths])
    with pytest.raises(InputError, match="training images: 1, unreadable: 1"):
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
        "--methods", "classic:0.002", "--n", 9,
    )  # fmt: skip
    assert ran.code == 2
    assert "broken.png" in ran.err
    assert "completes best" in ran.out
    for name in (
        "report.html",
        "report.json",
        "results.csv",
        "answers/center/classic-0.002-sharp/000000.png",
    ):
        assert (out / name).is_file()
