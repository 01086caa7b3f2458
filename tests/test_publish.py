"""`pixmend push`: what lands in a folder, a store and a hub is the model as it was, with an honest card."""

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import pixmend
from pixmend.completion import METHODS
from pixmend.errors import InputError, ModelFileError, OutputError, SettingsError
from pixmend.models import BUNDLED, save_model
from pixmend.publish import push
from pixmend.serve import Catalogue
from pixmend.storage import StorePath
from tests.inpainting import fresh_model
from tests.stores import Counted, FakeHub, fresh

FILES = ["README.md", "gallery.png", "model.safetensors"]


@pytest.fixture(autouse=True)
def short_searches(model_cache, monkeypatch):
    monkeypatch.setattr("pixmend.publish._STEPS", 2)
    monkeypatch.setitem(METHODS, "default", replace(METHODS["default"], init_pool=32))


@pytest.fixture
def run(untrained, tmp_path):
    """Return a run directory, as the monitor leaves it."""
    run = tmp_path / "run"
    run.mkdir()
    save_model(untrained("RGB"), run / "best.safetensors")
    scores = {
        "step": 2000, "images": 64000, "features": "random", "kid": 0.1, "fid": 1.0,
        "diversity": 1.0, "accuracy_training": 0.5, "accuracy_samples": 0.5, "best": True,
        "psnr": {"center": 17.25, "half": 14.5}, "psnr_of_mean": {"center": 12.125, "half": 11.0},
    }  # fmt: skip
    (run / "monitor.jsonl").write_text(json.dumps(scores) + "\n")
    return run


def test_folder_store_and_hub_get_the_same_model_and_a_url_that_loads(run, tmp_path, program):
    content = (run / "best.safetensors").read_bytes()
    pin = hashlib.sha256(content).hexdigest()
    pictures = set()
    for target in (
        f"file://{tmp_path}/shelf",
        fresh(Counted) + "b/shelf",
        fresh(FakeHub) + "user/shelf",
    ):
        ran = program("push", run, target, "--licence", "CC-BY-4.0")
        assert ran.code == 0, ran.err
        place = StorePath.of(target)
        assert sorted(file.name for file in place.files()) == FILES
        assert (place / "model.safetensors").read_bytes() == content
        pictures.add((place / "gallery.png").read_bytes())
        card = (place / "README.md").read_text()
        assert card.startswith("---\nlicense: cc-by-4.0\nlibrary_name: pixmend\n")
        assert "# shelf\n" in card
        assert "Licence: CC-BY-4.0." in card
        assert "contains no training image" in card
        assert "| | center | half |\n|---|---|---|\n| this model | 17.25 | 14.50 |" in card
        assert "| mean training image | 12.12 | 11.00 |" in card
        url = ran.out.split()[-1]
        assert url == f"{place}#sha256:{pin}"
        assert (url in card) == (place.local is None)
        assert pixmend.load(url).settings == pixmend.load(run).settings
    (picture,) = pictures  # the same each time
    assert Image.open(io.BytesIO(picture)).size[0] > 8 * 64


def test_the_picture_completes_its_own_samples(run, tmp_path):
    push(run, tmp_path / "out", licence="MIT")
    sheet = np.asarray(Image.open(tmp_path / "out" / "gallery.png"))
    cell = sheet.shape[1] // 8
    rows = [sheet[row * cell : (row + 1) * cell] for row in range(3)]
    corner, middle = slice(2, cell // 5), slice(cell // 2 - 3, cell // 2 + 3)
    assert np.array_equal(rows[0][corner], rows[1][corner])
    assert np.array_equal(rows[0][corner], rows[2][corner])
    assert (rows[1][middle, middle] == 255).all()


@pytest.mark.parametrize("licence", ["", " ", "a\nb", '"x"', "---", "x" * 101, "a: b #"])
def test_a_licence_is_a_name(run, tmp_path, licence):
    with pytest.raises(SettingsError, match="licence: give the name"):
        push(run, tmp_path / "out", licence=licence)
    assert not (tmp_path / "out").exists()


def test_the_licence_is_the_users_to_give(run, tmp_path, program):
    ran = program("push", run, tmp_path / "out")
    assert ran.code == 2
    assert "--licence" in ran.err
    assert push(run, tmp_path / "out", licence="My own (2026), no reuse")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nlicense: other\nlicense_name: "My own (2026), no reuse"\n')


def test_the_card_says_what_of_the_training_images_is_inside(tmp_path):
    save_model(fresh_model(retrieval_images=1200), tmp_path / "model.safetensors")
    push(tmp_path / "model.safetensors", tmp_path / "out", licence="Apache-2.0")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It contains 1,200 training images, visible to anyone who has the file." in card
    assert "Not evaluated." in card


def test_scores_are_those_of_an_evaluation_of_this_very_file(run, tmp_path, program, untrained):
    images = sorted((BUNDLED / "characters").rglob("*.png"))[:3]
    report = tmp_path / "report"
    ran = program(
        "evaluate", run, *images, "--methods", "classic:0.002,biharmonic", "--masks", "center,half",
        "--out", report,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    ran = program("push", run, tmp_path / "out", "--licence", "MIT", "--evaluation", report)
    assert ran.code == 0, ran.err
    card = (tmp_path / "out" / "README.md").read_text()
    facts = json.loads((report / "report.json").read_text())
    assert facts["verdict"] in card
    assert "(3 unseen images.)" in card
    table = {(cell["method"], cell["mask"]): cell["psnr"]["mean"] for cell in facts["table"]}
    for label in {method for method, _ in table}:
        (line,) = (line for line in card.splitlines() if line.startswith(f"| {label} |"))
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert f"{table[label, 'center']:.2f}" == cells[0]
        assert f"{table[label, 'half']:.2f}" == cells[1]
    save_model(untrained("RGB", latent_dim=9), run / "best.safetensors")
    with pytest.raises(InputError, match="another model file"):
        push(run, tmp_path / "again", licence="MIT", evaluation=report)
    with pytest.raises(InputError, match=r"no such file|no finished evaluation"):
        push(run, tmp_path / "again", licence="MIT", evaluation=tmp_path)
    assert not (tmp_path / "again").exists()


def test_a_target_that_cannot_be_written_is_one_line_and_gets_no_card(run, monkeypatch):
    with pytest.raises(OutputError, match="a web address cannot be written"):
        push(run, "https://me:s3cr3t@h/x?token=s3cr3t", licence="MIT")

    class RepositoryNotFoundError(OSError):
        """As the hub's own."""

    def fail(self, what):
        if what == "write":
            raise RepositoryNotFoundError("s3cr3t")

    fresh(FakeHub)
    monkeypatch.setattr(FakeHub, "happen", fail)
    with pytest.raises(OutputError, match=r"hf://user/x/model.*no such repository") as told:
        push(run, "hf://user/x", licence="MIT")
    assert "s3cr3t" not in str(told.value)
    assert "\n" not in str(told.value)
    monkeypatch.setattr(FakeHub, "happen", lambda self, what: None)
    assert not (StorePath.of("hf://user/x") / "README.md").exists()


# A file of its own


def keep_held_out(run, count=5):
    (run / "run.json").write_text("{}")
    (run / "held_out").mkdir()
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), np.uint8)
    for number, image in enumerate(images):
        Image.fromarray(image).save(run / "held_out" / f"{number}.png")
    return images


def examples_of(path):
    (served,) = Catalogue.load([str(path)], device="cpu").values()
    facts = served.facts()
    assert "examples" not in facts["card"]
    assert facts["examples"] == len(served.examples)
    images = [np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in served.examples]
    return facts["drawn_examples"], images


def test_a_model_file_holds_images_of_the_run_only_if_asked_and_the_page_offers_them(
    run, tmp_path, program
):
    held_out = keep_held_out(run)
    for count in (0, 3, 5):
        file = tmp_path / f"{count}.safetensors"
        assert program("export", run, file, "--examples", count).code == 0
        drawn, images = examples_of(file)
        assert drawn == (count == 0)
        if count:
            assert len(images) == count
            assert all(any(np.array_equal(each, one) for one in held_out) for each in images)
        told = program("info", file).out
        assert (f"{count} held-out images, visible to anyone" in told) == (count > 0)
        # All else is the run's.
        one, other = pixmend.load(run), pixmend.load(file)
        assert np.array_equal(one.sample(3), other.sample(3))
    again = tmp_path / "again.safetensors"
    assert program("export", tmp_path / "5.safetensors", again).code == 0
    assert examples_of(again)[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["o.safetensors", "--examples", "6"], "5 held-out images"),
        (["o.onnx", "--examples", "2"], "--examples for .safetensors"),
        (["o.safetensors", "--half"], "--half and --retrieval are for .onnx files"),
        (["o.txt"], "ends in .onnx or .safetensors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_export_that_cannot_be_says_why_in_a_line(run, tmp_path, program, options, words):
    keep_held_out(run)
    ran = program("export", run, tmp_path / options[0], *options[1:])
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert words in ran.err
    assert not (tmp_path / options[0]).exists()


@pytest.mark.parametrize("examples", [7, ["no base64"], ["aGFsbG8="], [None]], ids=str)
def test_a_card_may_hold_anything_as_its_examples(untrained, tmp_path, examples, program):
    model = untrained("RGB")
    file = tmp_path / "m.safetensors"
    save_model(replace(model, card={**model.card, "examples": examples}), file)
    with pytest.raises(ModelFileError, match="no images; export it again"):
        Catalogue.load([str(file)], device="cpu")
    assert program("info", file).code == 0
